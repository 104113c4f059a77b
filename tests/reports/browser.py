"""A real Chromium, driven over a pipe by its DevTools protocol: what a page asks for, complains about, and measures."""

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

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--remote-debugging-pipe", "--hide-scrollbars")  # fmt: skip
SECONDS = 30


@dataclass
class Look:
    """What was seen of one page. complaints: of the console, the policy, uncaught errors. requests: but the page itself and data: URLs."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class Browser:
    """One process, for many pages. Ends with its `with` block."""

    def __init__(self, chromium: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._errors = (profile.parent / f"{profile.name}.log").open("wb")
        # The protocol is spoken on 3 and 4, whatever numbers the pipes have here (above 9 too, which sh does not take).
        line = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"], pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._rest, self._events = 0, b"", list[dict[str, Any]]()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def look(
        self,
        page: Path,
        *scripts: str,
        width: int = 1200,
        dark: bool = False,
        media: str = "",
        reduced: bool = True,
        shot: Path | None = None,
    ) -> Look:
        """Open a file, evaluate the scripts in it one after another (promises are waited for), and say what happened meanwhile."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        self._call("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                    {"name": "prefers-reduced-motion", "value": "reduce" if reduced else "no-preference"}]  # fmt: skip
        self._call("Emulation.setEmulatedMedia", session, media=media, features=features)
        self._events.clear()
        self._call("Page.navigate", session, url=page.as_uri())
        self._until(session, "Page.loadEventFired")
        look = Look()
        for script in scripts:
            found = self._call("Runtime.evaluate", session, expression=script, awaitPromise=True, returnByValue=True)
            look.values.append(found["result"].get("value"))
            if "exceptionDetails" in found:
                look.complaints.append(json.dumps(found["exceptionDetails"]))
        if shot:
            picture = self._call("Page.captureScreenshot", session, captureBeyondViewport=True)["data"]
            shot.write_bytes(base64.b64decode(picture))
        self._call("Runtime.evaluate", session, expression="new Promise((done) => setTimeout(done, 100))", awaitPromise=True)
        self._gather(look, session, page.as_uri())
        self._call("Target.closeTarget", targetId=target)
        return look

    def _gather(self, look: Look, session: str, address: str) -> None:
        for event in self._events:
            if event.get("sessionId") != session:
                continue
            name, told = event["method"], event["params"]
            if name in ("Runtime.consoleAPICalled", "Log.entryAdded", "Runtime.exceptionThrown"):
                look.complaints.append(f"{name}: {json.dumps(told)[:500]}")
            if name == "Network.requestWillBeSent" and not told["request"]["url"].startswith((address, "data:")):
                look.requests.append(told["request"]["url"])

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _until(self, session: str, method: str) -> None:
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self._events):
            self._events.append(self._next())

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready = select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]
            chunk = os.read(self._in, 1 << 20) if ready else b""
            assert chunk, f"the browser says nothing more; see {self._errors.name}"
            self._rest += chunk
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)
