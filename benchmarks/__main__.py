"""Run benchmarks: all that there are, or those named."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks


def main() -> int:
    """Run them one after the other; exit status 1 where one failed, 2 for a name that there is not."""
    # Modules that others build upon have no main of their own.
    known = sorted(
        module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(known)}")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; known: {', '.join(known)}")
    # Their own parsers read the command line too, and would take the names for options.
    sys.argv = sys.argv[:1]
    failed = 0
    for name in names or known:
        run = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
        if run is None:
            continue
        try:
            run()
        except (OSError, RuntimeError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
