"""Command lines run inside a test's own process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from medseg.cli.commands import main


@contextmanager
def own_logging() -> Iterator[None]:
    """Takes away what a command adds to the terminal's log, which would show in later tests."""
    handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
    try:
        yield
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.captureWarnings(False)
        warnings.filters[:] = filters


def medseg_main(words: list[str]) -> int:
    """Runs a command line; for fixtures that outlive a test, whose log nobody else restores."""
    with own_logging():
        return main(words)
