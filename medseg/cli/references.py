"""References that no folder of label maps holds, made into one for the time of an evaluation."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from medseg.cli.console import console, counting
from medseg.config.build import build
from medseg.core.errors import InputError, MedsegError
from medseg.core.labels import LabelSet
from medseg.reports.label_files import find_predictions
from medseg.sources.class_masks import ClassMasks
from medseg.sources.manifest import Manifest
from medseg.writers.nifti import NiftiWriter


@dataclass(frozen=True)
class TakenReferences:
    """References of a source whose folder is none of label maps.

    Args:
        folder: holds a map of each; None leaves the references to the options.
        labels: of the source.
        is_complete: False if one could not be read.
    """

    folder: Path | None = None
    labels: LabelSet | None = None
    is_complete: bool = True


@contextmanager
def taken_references(cfg: DictConfig) -> Iterator[TakenReferences]:
    """The references of `source=class_masks` and `source=manifest`, in a folder that is gone
    afterwards; of cases that are predicted already, those alone.

    Args:
        cfg: of evaluate.

    Raises:
        InputError: no case has a reference.
    """
    if cfg.references is not None or not cfg.source:
        yield TakenReferences()
        return
    source = build(cfg.source) if _is_asked_for(cfg) else None
    if not isinstance(source, ClassMasks | Manifest):
        yield TakenReferences()
        return
    folder = Path(tempfile.mkdtemp(prefix="medseg-references-"))
    try:
        is_complete = _write(source, folder, _predicted(cfg))
        yield TakenReferences(folder, source.describe().labels, is_complete)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_asked_for(cfg: DictConfig) -> bool:
    """Whether the source can be built: the usual one has a folder only to predict its images."""
    return any(cfg.source.get(name) is not None for name in ("folder", "path"))


def _predicted(cfg: DictConfig) -> Collection[str] | None:
    """Cases of the first folder of predictions; None if they are yet to be made."""
    given = cfg.predictions
    if given is None:
        return None
    first = given if isinstance(given, str) else given[0]
    return find_predictions(first).paths.keys()


def _write(source: ClassMasks | Manifest, folder: Path, wanted: Collection[str] | None) -> bool:
    """Writes references as maps; one that cannot be read is told, and the others go on."""
    cases = source.cases()
    readers = [
        (case, case.read_reference)
        for case in cases
        if case.read_reference is not None and (wanted is None or case.key in wanted)
    ]
    if not readers:
        named = "" if wanted is None else f" that is named like one of {len(wanted)} predictions"
        raise InputError(
            "source",
            f"has {len(cases)} cases, but no reference{named}",
            "correct source.masks or the names, or set references=<folder of label maps>",
            code="E_NO_LABEL",
        )
    writer = NiftiWriter()
    failed = 0
    with counting("reading references", len(readers)) as count:
        for case, read in readers:
            try:
                writer.write(read(), case, folder=folder)
            except MedsegError as error:
                failed += 1
                console.print(f"not scored: {error}", style="red", markup=False, soft_wrap=True)
            count()
    if failed == len(readers):
        raise InputError(
            "source",
            f"gives none of its {failed} references",
            "see the messages above",
            code="E_NO_LABEL",
        )
    return not failed
