"""A small client of Chromium's DevTools protocol that drives one page."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--hide-scrollbars",
]


class Browser:
    """One page of a headless Chromium. Records console errors and the URLs of requests."""

    def __init__(self, profile: Path) -> None:
        self._process = subprocess.Popen([str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL)
        try:
            port = _wait_for(lambda: (profile / "DevToolsActivePort").read_text().split()[0], 300)
            pages = _wait_for(lambda: [page for page in httpx.get(f"http://127.0.0.1:{port}/json").json() if page["type"] == "page"], 300)
            self._socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=300)
        except BaseException:
            self._terminate()
            raise
        self._number, self.errors, self.requests = 0, list[str](), list[str]()
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close the browser."""
        self._socket.close()
        self._terminate()

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=300))
            self._record_event(message)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Evaluate an expression in the page and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 300) -> Any:
        """Return the value of an expression once it is truthy."""
        return _wait_for(lambda: self.evaluate(expression), seconds, expression)

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **({"text": text} if text else {})
            )

    def click(self, selector: str) -> None:
        """Click the center of an element with the mouse."""
        x, y = self.center(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, file: Path) -> None:
        """Drop a file onto an element."""
        x, y = self.center(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def center(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return the position of its center."""
        position = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return position[0], position[1]

    def set_window(self, *, width: int = 1200, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Set the window size and the preferred color scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def take_screenshot(self, target: Path) -> None:
        """Save a screenshot of the page."""
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _record_event(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown" or (
            message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error"
        ):
            self.errors.append(json.dumps(parameters))

    def _terminate(self) -> None:
        self._process.terminate()
        self._process.wait(300)


def _wait_for(get_value: Any, seconds: float, description: str = "") -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if value := get_value():
                return value
        except (OSError, httpx.HTTPError, IndexError):
            pass
        assert time.monotonic() < end, f"timed out after {seconds} s: {description}"
        time.sleep(0.05)
