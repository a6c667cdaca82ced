"""Where the result of a case goes."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import OutputError
from medseg.core.identity import Case

PREVIEW = "_preview"
"""What follows the case key in the name of a picture."""
PROBABILITIES = "_probabilities"
"""What follows it in the name of a file of probabilities."""


def output_path(folder: Path, case: Case, ending: str) -> Path:
    """`<folder>/<case key><ending>`.

    Raises:
        OutputError: the case key cannot be a file name.
    """
    if not case.key or Path(case.key).name != case.key or case.key in (".", ".."):
        raise OutputError(
            str(folder),
            f"the case key '{case.key}' cannot be a file name",
            "use keys without slashes",
        )
    return folder / f"{case.key}{ending}"
