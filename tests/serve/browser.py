"""A small client of Chromium's DevTools protocol: one page of one real browser."""

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
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--remote-debugging-port=0", "--hide-scrollbars"]  # fmt: skip


class Browser:
    """A page that is told what to do and asked what is on it. Complaints of its console, and requests it made, are kept."""

    def __init__(self, profile: Path) -> None:
        self._process = subprocess.Popen([str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL)
        try:
            port = _waited(lambda: (profile / "DevToolsActivePort").read_text().split()[0], 60)
            pages = _waited(lambda: [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["type"] == "page"], 30)
            self._socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=30)
        except BaseException:
            self._end()
            raise
        self._number, self.complaints, self.requests = 0, list[str](), list[str]()
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._socket.close()
        self._end()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            self._heard(said)
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """The value of an expression once it is true."""
        return _waited(lambda: self.ask(expression), seconds, expression)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **({"text": text} if text else {})
            )

    def click(self, selector: str) -> None:
        """Click with the mouse into the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, file: Path) -> None:
        """Drop a file onto an element."""
        x, y = self.middle(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is, scrolled to."""
        spot = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return spot[0], spot[1]

    def look(self, *, width: int = 1200, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """The size of the window, and whether the user likes it dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def shot(self, target: Path) -> None:
        """A picture of the page."""
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _heard(self, said: dict[str, Any]) -> None:
        parameters = said.get("params", {})
        if said.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif said.get("method") == "Runtime.exceptionThrown" or (
            said.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error"
        ):
            self.complaints.append(json.dumps(parameters))

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def _waited(look: Any, seconds: float, what: str = "") -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
        except (OSError, httpx.HTTPError, IndexError):
            pass
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)
