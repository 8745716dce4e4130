"""A headless Chromium with one page, driven by Playwright: open a file, press keys, read, look.

Collects what must not be there: errors of the script, messages of the console, requests.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds


def executable() -> str:
    """Chromium's path; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium (Debian's package chromium), which is not installed")
    return path


class Chromium:
    """One browser with one page, as a context manager."""

    def __init__(self) -> None:
        self.errors: list[str] = []  # of the script and the console
        self.requests: list[str] = []  # URLs

    def __enter__(self) -> "Chromium":
        path = executable()  # of the system: none is downloaded
        api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
        self._playwright = api.sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=path, args=OPTIONS, timeout=PATIENCE
        )
        self.page = self._browser.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def open(self, file: Path, *, width: int = 1100, height: int = 800, **media: str) -> None:
        """Load `file` in a window of `width` × `height` CSS pixels.

        `media` sets features of CSS, as `color_scheme="dark"`.
        """
        self.errors.clear(), self.requests.clear()
        self.page.set_viewport_size({"width": width, "height": height})
        plain = {"color_scheme": "light", "reduced_motion": "no-preference"}
        self.page.emulate_media(**plain | media)
        self.page.goto(file.resolve().as_uri())
        self.value("new Promise(done => requestAnimationFrame(() => done(true)))")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript `expression` in the page; a promise is awaited."""
        return self.page.evaluate(expression)

    def text(self, selector: str) -> str:
        """What a person reads in the first element that `selector` finds."""
        return str(self.page.locator(selector).first.inner_text()).strip()

    def press(self, key: str, times: int = 1) -> None:
        """Press a key, as a person does."""
        for _ in range(times):
            self.page.keyboard.press(key)

    def click(self, x: float, y: float) -> None:
        """Move the pointer to a place of the window, and press its button there."""
        self.page.mouse.click(x, y)

    def screenshot(self, file: Path) -> None:
        """Write a PNG of the window."""
        self.page.screenshot(path=file)
