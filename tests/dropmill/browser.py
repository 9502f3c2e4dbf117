"""A headless Chromium that is spoken to over a pipe (Chrome DevTools Protocol), with nothing in between."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LIMIT_S = 60.0
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --disable-extensions --mute-audio "
    "--remote-debugging-pipe"
)


class Browser:
    """One tab. Everything that it asks for is in ``requests``, everything that went wrong in ``errors``."""

    def __init__(self, chromium: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="dropmill-chromium-")
        read_here, write_there = os.pipe()
        read_there, self._write = os.pipe()
        # Chromium reads from 3 and writes to 4.
        command = (
            f'exec "{chromium}" {_FLAGS} --user-data-dir="{self._folder}" about:blank '
            f"3<&{read_there} 4>&{write_there}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(read_there, write_there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self._from = os.fdopen(read_here, "rb")
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        self._process.kill()
        self._process.wait()
        self._from.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and note what happens until the answer is there."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])
            self._note(found)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression, promises awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{script}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def wait(self, script: str, *, limit_s: float = LIMIT_S) -> Any:
        """Wait until an expression is true; return its value."""
        began = time.monotonic()
        # A node has no value; that it is there is what is waited for.
        shown = f"((found) => (found instanceof Node ? true : found))({script})"
        while not (value := self.run(shown)):
            assert time.monotonic() - began < limit_s, (
                script,
                self.run("document.body.innerText"),
                self.errors,
            )
            time.sleep(0.05)
        return value

    def press(self, key: str, *, code: int = 0, modifiers: int = 0) -> None:
        """A key as a person presses it."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers,
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        # Without motion nothing is looked at half way from one colour to the next.
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def shoot(self, path: Path) -> None:
        """A picture of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, found: dict[str, Any]) -> None:
        parameters = found.get("params", {})
        match found.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.errors.append(str(parameters["args"]))
            case "Page.javascriptDialogOpening":
                self.errors.append(f"dialog: {parameters['message']}")
