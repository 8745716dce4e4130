"""A headless Chromium driven over its DevTools protocol: open a page, press keys, read, look.

Collects what must not be there: errors of the script, messages of the console, requests.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Tab": 9, "Enter": 13, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
PATIENCE = 60  # seconds


def executable() -> str:
    """Chromium's path; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium (Debian's package chromium), which is not installed")
    return found


class Chromium:
    """One browser with one page, as a context manager."""

    def __init__(self, profile: Path) -> None:
        self.aiohttp = pytest.importorskip("aiohttp", reason="needs aiohttp to talk to Chromium")
        self.profile, self.command = profile, executable()
        self.errors: list[str] = []  # of the script and the console
        self.requests: list[str] = []

    def __enter__(self) -> "Chromium":
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--no-first-run", "--remote-debugging-port=0", "--hide-scrollbars"]
        self.process = subprocess.Popen(
            [self.command, *options, f"--user-data-dir={self.profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.loop = asyncio.new_event_loop()
        self._run(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self.session.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def open(self, page: Path, *, width: int = 1100, height: int = 800, **media: str) -> None:
        """Load a file in a window of `width` × `height`; `media` sets features of CSS."""
        self.errors.clear(), self.requests.clear()
        self.size(width, height)
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        self.wait("new Promise(done => requestAnimationFrame(() => done(true)))")

    def size(self, width: int, height: int) -> None:
        """Resize the window, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def value(self, expression: str) -> Any:
        """What the page's script says `expression` is."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What a person reads in the first element that `selector` finds."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText")).strip()

    def wait(self, expression: str) -> None:
        """Until `expression` holds."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of KEYS, as a person does."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        event |= {"text": "\r"} if key == "Enter" else {}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the pointer to a place of the window, and press its button there."""
        place = {"x": x, "y": y}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def screenshot(self, file: Path, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file.read_bytes()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; events that come meanwhile are noted."""
        return self._run(self._call(method, params))

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE))

    async def _connect(self) -> None:
        port = self.profile / "DevToolsActivePort"
        while not (port.is_file() and port.read_text().count("\n")):
            assert self.process.poll() is None, "Chromium ended at once"
            await asyncio.sleep(0.05)
        self.session = self.aiohttp.ClientSession()
        address = f"127.0.0.1:{port.read_text().split()[0]}"
        async with self.session.get(f"http://{address}/json/list") as answer:
            page = next(one for one in await answer.json() if one["type"] == "page")
        self.socket = await self.session.ws_connect(
            page["webSocketDebuggerUrl"], max_msg_size=2**28
        )
        self.number = 0

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json()
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.errors.append(str(params["args"]))
        elif event == "Log.entryAdded":
            self.errors.append(str(params["entry"]))
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
