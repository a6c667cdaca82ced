"""What reaches the terminal: medseg's own lines, and what a person can act on from others."""

from __future__ import annotations

import logging
import sys
import warnings

from medseg.core.errors import printable

# Remarks of Lightning and torch about choices that medseg makes on purpose.
_KNOWN = (
    ".*does not have many workers.*",
    ".*The number of training batches.*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`.*",
    ".*Starting from v1.9.0, `tensorboardX` has been removed.*",
    ".*GPU available but not used.*",
    ".*on epoch-level in distributed setting.*",
)


def silence_known_warnings() -> None:
    """Hides warnings for developers and those provoked on purpose; `python -W` shows them."""
    if sys.warnoptions:
        return
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    for message in _KNOWN:
        warnings.filterwarnings("ignore", message=message)


def start_logging() -> None:
    """Sends log lines to the terminal: all of medseg's from INFO on, others' from WARNING on."""
    root = logging.getLogger()
    if any(isinstance(handler, _Terminal) for handler in root.handlers):
        return
    handler = _Terminal()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_concerns_user)
    root.addHandler(handler)
    logging.getLogger("medseg").setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.formatwarning = _one_line


class _Printable(logging.Formatter):
    """Lines that cannot steer the terminal, whatever the files that they name are called."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """The one handler that medseg adds; its lines stand above a progress bar, not in it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._is_terminal = sys.stderr.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_terminal:
            # While a bar is drawn, rich has put a stream there that writes above it.
            self.stream = sys.stderr
        super().emit(record)


def _concerns_user(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == "medseg" or record.levelno >= logging.WARNING


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return " ".join(str(message).split())
