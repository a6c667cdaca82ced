"""What an evaluation report and the tables beside it say."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown_numbers(report: Path) -> dict[str, float]:
    """Numbers on the page by the key of their cell."""
    text = (report / "report.html").read_text()
    cells = re.findall(r'<td[^>]*data-value="([^"]*)" data-key="([^"]*)"', text)
    return {html.unescape(key): float(value) for value, key in cells}
