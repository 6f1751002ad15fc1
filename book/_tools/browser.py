"""A headless Chromium, spoken to over its DevTools protocol: no more than the site check needs."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 1400
# A sandbox cannot be made inside most containers; the browser opens nothing but our own pages.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
    # The second wall behind the request filter: no name resolves.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    f"--window-size={WIDTH},1000",
)
START = 60  # seconds


class BrowserError(RuntimeError):
    """The browser did not do what it was asked."""


def find() -> str | None:
    """The path of an installed Chromium or Chrome, None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium(path: str) -> Iterator[str]:
    """Start a browser with an empty profile of its own; yields the address of its DevTools, ends it afterwards."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"ws://127.0.0.1:{port(Path(profile), process)}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def port(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The port and path that the browser writes into its profile once it listens."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        file = profile / "DevToolsActivePort"
        lines = file.read_text().split("\n") if file.exists() else []
        if len(lines) >= 2 and lines[1]:
            return lines[0] + lines[1]
        if process.poll() is not None:
            raise BrowserError(f"the browser ended at once, with exit code {process.returncode}")
        time.sleep(0.05)
    raise BrowserError(f"the browser did not listen within {START} s")


class Tab:
    """One page of the browser. Events go to `listen` while an answer or a condition is waited for."""

    def __init__(self, address: str, listen: Callable[[Tab, str, dict[str, Any]], None]) -> None:
        self.listen = listen
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.sent = 0
        self.session: str | None = None
        self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]

    def send(self, method: str, **parameters: Any) -> int:
        """Send a command without waiting for its answer; returns its number."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        return self.sent

    def receive(self) -> dict[str, Any]:
        """The next message; an event is passed on first."""
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.listen(self, message["method"], message.get("params", {}))
        return message

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = self.send(method, **parameters)
        while True:
            message = self.receive()
            if message.get("id") == number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']['message']}")
                return message["result"]

    def close(self) -> None:
        """Close the page: a hundred open ones would slow the next down."""
        self.send("Target.closeTarget", targetId=self.target)
        self.socket.close()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """Evaluate until the value is true; returns it, or None after the time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = self.evaluate(expression)
            if value:
                return value
            time.sleep(0.05)
        return None

    def picture(self, clip: dict[str, float] | None = None) -> bytes:
        """A PNG of the whole page, in a window as high as the page, or of a rectangle in the window, in CSS pixels."""
        if clip is not None:
            options = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": False}
            return base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        window = {"width": WIDTH, "height": int(size["height"]), "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **window)
        picture = self.call("Page.captureScreenshot")["data"]
        self.call("Emulation.clearDeviceMetricsOverride")
        return base64.b64decode(picture)
