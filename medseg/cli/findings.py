"""One line of a doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from medseg.core.errors import MedsegError, one_line, printable


class Severity(Enum):
    """How much a finding matters: the word in the report and its colour."""

    OK = ("ok", "green")
    NOTE = ("note", "yellow")
    PROBLEM = ("problem", "red")


@dataclass(frozen=True)
class Finding:
    """What was found about one subject.

    Args:
        subject: package, device, folder, case or file.
        text: what is so, and for a problem the remedy.
        severity: problems make the doctor's exit code 1.
    """

    subject: str
    text: str
    severity: Severity = Severity.OK

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", one_line(self.subject))
        object.__setattr__(self, "text", printable(self.text))


def finding_of(error: MedsegError) -> Finding:
    """An error as a problem about the place it names."""
    text = f"{error.what}; {error.remedy}" if error.remedy else error.what
    return Finding(error.where, text, Severity.PROBLEM)
