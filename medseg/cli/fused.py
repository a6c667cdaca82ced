"""Ensembles of predictions from several folders, written as further predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from medseg.cli.console import console, counting
from medseg.core.errors import ConfigError, MedsegError
from medseg.inference.fusion import FusionMethod, check_weights, fuse
from medseg.reports.label_files import find_predictions
from medseg.sources.label_maps import read_label_map
from medseg.writers.nifti import smallest_integers
from medseg.writers.nifti_file import write_nifti

FOLDER = "ensembles"


def fuse_folders(
    folders: Mapping[str, Path],
    methods: Sequence[str],
    output: Path,
    *,
    weights: Sequence[float] | None,
) -> dict[str, Path]:
    """Writes the cases that all folders have to <output>/ensembles/<method> and returns these
    folders by name.

    Raises:
        ConfigError: a method is unknown, there is one folder alone, or weights do not fit.
    """
    known = get_args(FusionMethod)
    for method in methods:
        if method not in known:
            raise ConfigError("ensembles", f"names '{method}'", f"use some of {', '.join(known)}")
        if method in folders:
            raise ConfigError(
                "predictions", f"has a folder called {method}, as an ensemble is", "rename it"
            )
    if methods and len(folders) < 2:
        raise ConfigError(
            "ensembles", "needs predictions of several models", "set predictions=[A,B,C]"
        )
    if "weighted" in methods:
        check_weights(weights, len(folders))
    if not methods:
        return {}
    files = [find_predictions(folder).paths for folder in folders.values()]
    keys = [key for key in files[0] if all(key in found for found in files)]
    with counting("combining", len(keys)) as step:
        for key in keys:
            try:
                maps = [read_label_map(found[key], None) for found in files]
                for method in methods:
                    result = fuse(maps, method, weights=weights)  # type: ignore[arg-type]
                    path = output / FOLDER / method / f"{key}.nii.gz"
                    write_nifti(smallest_integers(result, path), result.geometry, path)
            except MedsegError as error:
                console.print(f"{key} is not combined: {error}", style="yellow", markup=False)
            step()
    return {method: output / FOLDER / method for method in methods}
