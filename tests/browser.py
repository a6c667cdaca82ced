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

LOOKS = [(1400, "light"), (1400, "dark"), (800, "light"), (800, "dark")]
"""Widths in pixels, and colour schemes, that pages are looked at in."""

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


def overflowing(page: Page) -> list[str]:
    """Elements that reach beyond the window's right edge and cannot be scrolled into view."""
    found: list[str] = page.evaluate(_OVERFLOWING)
    return found


def faint(page: Page) -> list[str]:
    """Texts on plain grounds whose contrast is below 4.5, or 3 for large ones.

    Source: Web Content Accessibility Guidelines 2.2, criterion 1.4.3.
    """
    found: list[str] = page.evaluate(_FAINT)
    return found


_OVERFLOWING = """() => {
  const edge = document.documentElement.clientWidth;
  const isHeld = (element) => {
    for (let up = element.parentElement; up && up !== document.body; up = up.parentElement)
      if (getComputedStyle(up).overflowX !== "visible") return true;
    return false;
  };
  return [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > edge + 1 && !isHeld(e))
    .map((e) => `${e.tagName} ${e.className}: ${e.textContent.slice(0, 40)}`);
}"""

_FAINT = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {  // red, green and blue of colours laid over each other
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    const isShown = element.checkVisibility() && !element.closest("script, title");
    if (!text.data.trim() || !isShown) continue;
    const grounds = [];
    for (let up = element; up; up = up.parentElement) {
      const isShape = up instanceof SVGElement && up.tagName !== "svg";
      grounds.unshift(isShape ? "transparent" : getComputedStyle(up).backgroundColor);
    }
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(grounds)), light(over([...grounds, ink]))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (isLarge ? 3 : 4.5))
      faint.add(`${contrast.toFixed(2)} ${element.tagName}: ${text.data.trim().slice(0, 40)}`);
  }
  return [...faint];
}"""
