"""A real browser for the tests: headless Chromium, driven by Playwright.

A test module gets the fixture with `chromium = browser.chromium`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# --no-sandbox: without it Chromium does not start as root. SwiftShader: WebGL (parallel coordinates) without a GPU.
FLAGS = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start a browser; skip the test where none is installed."""
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, with its errors and requests since."""

    page: Any
    errors: list[str] = field(default_factory=list)  # messages of the console, and exceptions
    requests: list[str] = field(default_factory=list)  # addresses


@contextmanager
def visit(chromium: Any, url: str, width: int = 1280, height: int = 900, **context: Any) -> Iterator[Visit]:
    """Open `url` in a new context with Playwright's options, e.g. color_scheme="dark" or java_script_enabled=False."""
    opened = chromium.new_context(viewport={"width": width, "height": height}, **context)
    try:
        page = opened.new_page()
        seen = Visit(page)
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(url)
        yield seen
    finally:
        opened.close()
