"""References as label maps, where a source has them in another form, such as a mask per class."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from medseg.cli.console import counting
from medseg.config.build import build
from medseg.core.errors import InputError
from medseg.core.protocols import Source
from medseg.writers.nifti import NiftiWriter

FOLDER = "references"
_READ_AS_FOLDER = "medseg.sources.folder.Folder"


def lie_in_a_folder(cfg: DictConfig) -> bool:
    """True if evaluate reads the references itself: a folder is given, or the source is one whose
    layout is recognised.
    """
    return cfg.references is not None or cfg.source.get("_target_") == _READ_AS_FOLDER


def write_references(cfg: DictConfig) -> Path:
    """Writes the reference of each case of the source that has one to <output>/references.

    Args:
        cfg: of evaluate.

    Raises:
        InputError: no case has a reference.
        MedsegError: a reference cannot be read.
    """
    source: Source = build(cfg.source)
    readers = [(case, case.read_reference) for case in source.cases()]
    folder = Path(cfg.paths.output) / FOLDER
    writer = NiftiWriter()
    num_written = 0
    with counting("reading references", len(readers)) as count:
        for case, read in readers:
            if read is not None:
                writer.write(read(), case, folder=folder)
                num_written += 1
            count()
    if not num_written:
        raise InputError(
            "source",
            f"has {len(readers)} cases, but a reference of none",
            "set references=<folder of label maps>",
            code="E_NO_LABEL",
        )
    return folder
