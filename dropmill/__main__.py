"""``python -m dropmill`` is the command ``dropmill``."""

from dropmill.cli import main

main()
