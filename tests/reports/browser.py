"""A headless Chromium, driven over a pipe by its DevTools protocol: the errors, requests and values of a page."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
TIMEOUT_SECONDS = 300


@dataclass
class PageVisit:
    """What happened on one page.

    Args:
        errors: Console messages, policy violations and uncaught errors.
        requests: URLs other than the page itself and data: URLs.
        values: The values of the evaluated scripts.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class Browser:
    """One process for many pages; it ends with its `with` block."""

    def __init__(self, chromium: str, profile: Path) -> None:
        child_in, self._out = os.pipe()
        self._in, child_out = os.pipe()
        self._errors = (profile.parent / f"{profile.name}.log").open("wb")
        # Chromium expects the pipes as file descriptors 3 and 4. bash, because sh cannot redirect descriptors above 9.
        line = f'exec "$@" 3<&{child_in} 4>&{child_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(child_in, child_out),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        os.close(child_in)
        os.close(child_out)
        self._number, self._rest, self._events = 0, b"", list[dict[str, Any]]()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def visit(
        self,
        page: Path,
        *scripts: str,
        width: int = 1200,
        dark: bool = False,
        media: str = "",
        reduced: bool = True,
        screenshot: Path | None = None,
    ) -> PageVisit:
        """Open a file, evaluate scripts in it one after another, waiting for promises, and return what happened."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        self._call("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced else "no-preference"},
        ]
        self._call("Emulation.setEmulatedMedia", session, media=media, features=features)
        self._events.clear()
        self._call("Page.navigate", session, url=page.as_uri())
        self._wait_for_event(session, "Page.loadEventFired")
        visit = PageVisit()
        for script in scripts:
            answer = self._call("Runtime.evaluate", session, expression=script, awaitPromise=True, returnByValue=True)
            visit.values.append(answer["result"].get("value"))
            if "exceptionDetails" in answer:
                visit.errors.append(json.dumps(answer["exceptionDetails"]))
        if screenshot:
            image = self._call("Page.captureScreenshot", session, captureBeyondViewport=True)["data"]
            screenshot.write_bytes(base64.b64decode(image))
        self._call("Runtime.evaluate", session, expression="new Promise((done) => setTimeout(done, 100))", awaitPromise=True)
        self._collect_events(visit, session, page.as_uri())
        self._call("Target.closeTarget", targetId=target)
        return visit

    def _collect_events(self, visit: PageVisit, session: str, url: str) -> None:
        for event in self._events:
            if event.get("sessionId") != session:
                continue
            name, params = event["method"], event["params"]
            if name in ("Runtime.consoleAPICalled", "Log.entryAdded", "Runtime.exceptionThrown"):
                visit.errors.append(f"{name}: {json.dumps(params)[:500]}")
            if name == "Network.requestWillBeSent" and not params["request"]["url"].startswith((url, "data:")):
                visit.requests.append(params["request"]["url"])

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read_message()).get("id") != number:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait_for_event(self, session: str, method: str) -> None:
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self._events):
            self._events.append(self._read_message())

    def _read_message(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._rest:
            ready = select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]
            chunk = os.read(self._in, 1 << 20) if ready else b""
            assert chunk, f"no message from the browser; see {self._errors.name}"
            self._rest += chunk
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)
