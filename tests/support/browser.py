"""A real browser for the tests: headless Chromium, through Playwright.

A test module takes the fixture over by `chromium = browser.chromium`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# --no-sandbox: it refuses to start as root otherwise. SwiftShader: WebGL (parallel coordinates) without a GPU.
FLAGS = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; skips where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, and what it has complained of and asked for since."""

    page: Any
    errors: list[str] = field(default_factory=list)  # of the console, and exceptions
    requests: list[str] = field(default_factory=list)  # addresses


@contextmanager
def visit(chromium: Any, url: str, width: int = 1280, height: int = 900, **context: Any) -> Iterator[Visit]:
    """Open `url` in a context of its own; `context` is Playwright's: color_scheme="dark", java_script_enabled=False."""
    opened = chromium.new_context(viewport={"width": width, "height": height}, **context)
    try:
        page = opened.new_page()
        seen = Visit(page)
        page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(url)
        yield seen
    finally:
        opened.close()
