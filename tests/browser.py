"""Pages in the Chromium of this machine, which is driven and listened to; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, sync_playwright

PATIENCE_MS = 120_000
"""Waiting ends as soon as its condition holds; this bounds it on a machine busy with other work."""

FLAGS = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--no-proxy-server")


@dataclass
class Complaints:
    """What a page said that it should not have, and what it asked for from elsewhere."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def of(self, page: Page) -> Complaints:
        page.on("console", self._console)
        page.on("pageerror", self._error)
        page.on("request", self._request)
        return self

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.said.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _error(self, error: Error) -> None:
        self.said.append(f"exception: {error}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
            self.asked.append(request.url)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium (Debian package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=list(FLAGS), timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def shown(
    browser: Browser, url: str, *, width: int = 1400, scheme: str = "light"
) -> Iterator[tuple[Page, Complaints]]:
    """A page at one width and in one colour scheme ("light" or "dark"), with its complaints."""
    context = browser.new_context(
        viewport={"width": width, "height": 1000},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints = Complaints().of(page)
    page.goto(url)
    try:
        yield page, complaints
    finally:
        context.close()
