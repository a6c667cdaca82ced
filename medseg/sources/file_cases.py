"""Cases from image files: channels stacked, references checked, all read on demand.

The functions a Case carries are module-level, so that cases can be sent to other processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medseg.core.errors import InputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.sources.image_files import read_geometry, read_image
from medseg.sources.label_maps import read_label_map, refuse_other_grid
from medseg.sources.read_rules import ReadRules


def file_case(
    key: str,
    images: Sequence[Path],
    *,
    reference: Path | None = None,
    labels: LabelSet | None = None,
    modality: str = "OT",
    group: str = "",
    is_held_out: bool = False,
    rules: ReadRules | None = None,
) -> Case:
    """A case whose channels are the given files, in order."""
    rules = rules or ReadRules()
    paths = tuple(images)
    return Case(
        key=key,
        read_image=partial(_read_channels, paths, modality=modality, rules=rules),
        read_reference=None
        if reference is None
        else partial(_read_reference, reference, paths[0], labels=labels, rules=rules),
        group=group,
        paths=paths if reference is None else (*paths, reference),
        is_held_out=is_held_out,
    )


def sorted_cases(cases: list[Case], *, where: str | Path) -> list[Case]:
    """The cases in the order of their keys.

    Raises:
        InputError: E_KEY_COLLISION, two cases have one key (or keys that differ in case only, which
            are one file on some systems).
    """
    counts = Counter(case.key.casefold() for case in cases)
    repeated = [case for case in cases if counts[case.key.casefold()] > 1]
    if repeated:
        lines = "".join(
            f"\n  {case.key}: {', '.join(str(path) for path in case.paths)}"
            for case in sorted(repeated, key=lambda case: case.key.casefold())[:20]
        )
        raise InputError(
            where,
            f"{len(repeated)} cases share their names with others:{lines}",
            "rename the files so that each case has its own name",
            code="E_KEY_COLLISION",
        )
    return sorted(cases, key=lambda case: case.key)


def _read_channels(paths: tuple[Path, ...], *, modality: str, rules: ReadRules) -> Volume:
    volumes = [read_image(path, rules=rules) for path in paths]
    first = volumes[0]
    if len(volumes) == 1:
        return replace(first, modality=modality)
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        refuse_other_grid(volume.geometry, first.geometry, path=path)
    notes = [
        f"{p.name}: {note}"
        for p, volume in zip(paths, volumes, strict=True)
        for note in volume.notes
    ]
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array, first.geometry, modality, tuple(notes))


def _read_reference(
    path: Path, image: Path, *, labels: LabelSet | None, rules: ReadRules
) -> LabelMap:
    return read_label_map(path, labels, geometry=read_geometry(image, rules=rules), rules=rules)
