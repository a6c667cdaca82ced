"""A self-contained HTML page: style and script inline, nothing from the network, text escaped."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

# Scripts and styles are those of this page alone, and nothing is ever fetched.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LONGEST_WORD = 24
"""Letters; longer words, such as paths, may be broken, and shorter texts never are."""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading.

    Args:
        name: of the anchor; letters and dashes.
        title: of the heading and of the menu.
        body: HTML.
    """

    name: str
    title: str
    body: str


def document(
    title: str,
    *,
    intro: str,
    sections: Sequence[Section],
    structures: Sequence[Mapping[str, Any]] = (),
    scripts: Sequence[str] = ("page.js",),
) -> str:
    """The whole page.

    Args:
        title: of the page, plain text.
        intro: HTML below the heading.
        sections: in order; those without a body are left out.
        structures: name, class numbers and colour of what cases are drawn with.
        scripts: files beside this one, in the order in which they are needed.
    """
    shown = [section for section in sections if section.body]
    menu = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in shown)
    body = "".join(
        f'<section id="{s.name}"><h2>{escape(s.title)}</h2>{s.body}</section>' for s in shown
    )
    folder = files("medseg.reports")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "".join((folder / name).read_text(encoding="utf-8") for name in scripts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        f'<nav aria-label="Sections">{menu}<button type="button" id="theme">Light / dark</button>'
        f'</nav><main id="content"><h1>{escape(title)}</h1>{intro}{body}</main>'
        f'<script type="application/json" id="structures">{script_json(structures)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    is_sortable: bool = False,
    is_tall: bool = False,
) -> str:
    """A table of cells made by `cell`, `text` and `heading`; it scrolls where it is too wide.

    Args:
        head: plain titles.
        rows: cells in HTML.
        caption: plain text above.
        is_sortable: titles are buttons that sort.
        is_tall: scroll many rows within a frame.
    """
    first = rows[0] if rows else [""] * len(head)
    titles = "".join(
        f'<th scope="col"{_class_of_title(cell)}>{escape(title)}</th>'
        for title, cell in zip(head, first, strict=True)
    )
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll{" tall" if is_tall else ""}" tabindex="0" role="region" '
        f'aria-label="{escape(caption or head[0])}"><table'
        f"{' class=sortable' if is_sortable else ''}>{about}"
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def cell(
    value: float | None,
    *,
    digits: int = 3,
    sign: bool = False,
    interval: tuple[float, float] | None = None,
    key: str = "",
) -> str:
    """A number, rounded for the eye and in full in `data-value`; its interval below it.

    Args:
        value: nan and None are shown as a dash.
        digits: after the point.
        sign: show a plus.
        interval: from and to.
        key: where the number stands in the files, as `data-key`.
    """
    style = f"{'+' if sign else ''}.{digits}f"
    known = value is not None and math.isfinite(value)
    shown = format(value, style) if known else "–"  # noqa: RUF001 - a dash of the width of digits
    below = ""
    if interval is not None and all(math.isfinite(limit) for limit in interval):
        below = f"<small>{interval[0]:{style}} to {interval[1]:{style}}</small>"
    place = f' data-key="{escape(key)}"' if key else ""
    return f'<td data-value="{value if known else "nan"!s}"{place}>{shown}{below}</td>'


def count(value: int) -> str:
    return f'<td data-value="{value}">{value:,}</td>'


def text(value: str) -> str:
    return f'<td class="text{_width(value)}">{_breakable(value)}</td>'


def heading(value: str) -> str:
    return f'<th scope="row" class="text{_width(value)}">{_breakable(value)}</th>'


def _class_of_title(cell: str) -> str:
    """Titles stand where the cells below them do: text on the left, numbers on the right."""
    is_text = cell.startswith(("<th", '<td class="text'))
    return ' class="text"' if is_text else ""


def _width(value: str) -> str:
    """Class of a cell: short text keeps to one line, long words are broken where needed."""
    if len(value) <= _LONGEST_WORD:
        return " short"
    return " long" * _has_long_word(value)


def _breakable(value: str) -> str:
    """HTML of a text whose long words, such as paths, break behind their parts."""
    if not _has_long_word(value):
        return escape(value)
    return re.sub(r"([./_])(?=[^\W\d]|\$)", r"\1<wbr>", escape(value))


def _has_long_word(value: str) -> bool:
    return any(len(word) > _LONGEST_WORD for word in value.split())


def p_value(value: float) -> str:
    """A p value with two digits, small ones as a bound."""
    if not math.isfinite(value):
        return cell(None)
    shown = "< 0.0001" if value < 1e-4 else f"{value:.2g}"
    return f'<td data-value="{value}">{escape(shown)}</td>'


def figure(picture: str, caption: str) -> str:
    """A picture (SVG or img) with its caption; nothing for an empty picture."""
    return (
        f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>" if picture else ""
    )


def warning(title: str, items: Sequence[str], *, most: int = 20) -> str:
    """A box that lists what a reader must know; nothing for no items."""
    if not items:
        return ""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items[:most])
    more = f"<li>and {len(items) - most} more</li>" if len(items) > most else ""
    return f'<div class="warn"><strong>{escape(title)}</strong><ul>{lines}{more}</ul></div>'


def facts(values: Sequence[tuple[str, str]]) -> str:
    """Large numbers with a word below each."""
    items = "".join(
        f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in values
    )
    return f'<ul class="facts">{items}</ul>'


def paragraph(words: str) -> str:
    return f'<p class="soft">{escape(words)}</p>'


def link(path: Path, folder: Path, name: str = "") -> str:
    """A link to a file from a page in a folder; without a name it shows where the file lies."""
    target = relative(path.resolve(), folder.resolve())
    return f'<a href="{escape(target)}">{escape(name or relative(path, folder))}</a>'


def relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
