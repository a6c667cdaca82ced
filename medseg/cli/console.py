"""The terminal: one console for all commands, and progress bars."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from medseg.reports.evaluation import Evaluation
    from medseg.reports.object_evaluation import ObjectEvaluation

_log = logging.getLogger(__name__)

_MOST_LISTED = 20
FIRST_LINE_S, NEXT_LINE_S = 30.0, 60.0
"""Seconds of work after which a log says how far it is, and from one line to the next (chosen)."""
WIDTH_WITHOUT_TERMINAL = 140
"""Narrower tables break their numbers; a file or pipe has no width of its own."""


def make_console() -> Console:
    """A console as wide as the terminal, or of a fixed width where there is none."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    )


console = make_console()


class Count:
    """How far a piece of work has come: calling it counts one more as done."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self._whole = 0
        self._start = time.monotonic()
        self._next_line = self._start + FIRST_LINE_S

    def __call__(self) -> None:
        self._bar.advance(self._task)
        self._tell()

    def share(self, part: float) -> None:
        """Says how much of the present one is done, 0 to 1."""
        self._bar.update(self._task, completed=self._whole + min(part, 1.0))

    def next(self) -> None:
        """Counts the present one as done, whatever its share was."""
        self._whole += 1
        self._bar.update(self._task, completed=self._whole)
        self._tell()

    def start(self, total: int) -> None:
        """Says how many there are, where that is only known after the work has begun."""
        self._start = time.monotonic()
        self._bar.update(self._task, total=total)

    def _tell(self) -> None:
        """A line of the log now and then, where there is no bar."""
        now = time.monotonic()
        if not self._bar.disable or now < self._next_line:
            return
        self._next_line = now + NEXT_LINE_S
        task = self._bar.tasks[0]
        done, total = int(task.completed), int(task.total or 0)
        if total <= done:
            return
        left_min = (now - self._start) / done * (total - done) / 60
        _log.info("%s: %d of %d, about %.1f min left", task.description, done, total, left_min)


@contextmanager
def counting(title: str, total: int | None = None) -> Iterator[Count]:
    """A progress bar with the time left on a terminal; elsewhere the log says it now and then."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield Count(bar, bar.add_task(title, total=total))


def print_shortcomings(evaluation: Evaluation | ObjectEvaluation) -> None:
    """Says which cases were not scored, and why."""
    problems = [problem.message for problem in evaluation.problems]
    for heading, items in (
        ("not scored", problems),
        ("without a prediction (allow_missing=true accepts this)", evaluation.missing),
        ("predicted, but without a reference", evaluation.unmatched),
    ):
        _print_list(heading, items)
    if evaluation.num_left_out:
        console.print(
            f"{evaluation.num_left_out} other references of the data set have no prediction and "
            "are not scored",
            style="yellow",
            soft_wrap=True,
        )


def _print_list(heading: str, items: Sequence[str]) -> None:
    if not items:
        return
    console.print(f"{len(items)} {heading}:", style="yellow", soft_wrap=True)
    for item in items[:_MOST_LISTED]:
        console.print(f"  {item}", soft_wrap=True, markup=False)
    if len(items) > _MOST_LISTED:
        console.print(f"  and {len(items) - _MOST_LISTED} more, all listed in scores.json")
