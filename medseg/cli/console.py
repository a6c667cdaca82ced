"""The terminal: one console for all commands, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

WIDTH_WITHOUT_TERMINAL = 120
"""Narrower tables break their numbers; a file or pipe has no width of its own."""


def make_console() -> Console:
    """A console as wide as the terminal, or of a fixed width where there is none."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    )


console = make_console()


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar with the time left; yields a function that advances it by one."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
