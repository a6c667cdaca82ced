"""The trained folds of one cross-validation: found, compared, and the cases that each kept back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from medseg.bundle import ModelBundle
from medseg.config.build import build
from medseg.core.errors import MAX_LISTED, ConfigError, InputError
from medseg.core.identity import Case
from medseg.data.spec import DatasetSpec

# Entries of a plan that change no result, or only say why.
_FREE_ENTRIES = ("reasons", "batch_size", "memory_budget_gib")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold that has been trained.

    Args:
        folder: its run folder.
        number: 0-based.
        num_folds: how many there were to be.
        bundle: what it gave.
        trained, validated: keys of the cases.
    """

    folder: Path
    number: int
    num_folds: int
    bundle: ModelBundle
    trained: frozenset[str]
    validated: tuple[str, ...]


def find_folds(folder: str | Path) -> list[Fold]:
    """The folds below a folder that have a bundle, in order; they must fit together.

    Raises:
        ConfigError: there are fewer than two, or they differ in what an ensemble must share.
        BundleError: a bundle is damaged.
    """
    root = Path(folder).expanduser()
    folders = sorted(root.glob("fold_*"), key=lambda path: (len(path.name), path.name))
    folds = [_fold(path) for path in folders if (path / "bundle" / "card.yaml").is_file()]
    found = [fold for fold in folds if fold is not None]
    if len(found) < 2:
        names = ", ".join(str(fold.number) for fold in found) or "none"
        raise ConfigError(
            root,
            f"holds the bundles of these folds: {names}; an ensemble needs two or more",
            "train them with: train -m fold=0,1,2,3,4 ..., and give the folder that holds fold_0, "
            "fold_1, ...",
            code="E_FOLDS",
        )
    if any(fold.bundle.task_kind != "label_map" for fold in found):
        raise ConfigError(
            root,
            "holds networks that find objects, which are not averaged in one bundle",
            "predict with the bundles of all folds together: bundle=[A,B,...]",
            code="E_FOLDS",
        )
    _require_alike(found)
    _require_apart(found)
    return found


def read_cases(folds: Sequence[Fold], *, source_folder: str | None) -> dict[str, Case]:
    """The cases that the folds validated, by key, from the data that the first was trained on.

    Args:
        folds: of one cross-validation.
        source_folder: where the data are now, if they were moved.

    Raises:
        InputError: cases are missing there.
    """
    where = folds[0].folder / "config.yaml"
    config = OmegaConf.create(_load(where))
    if source_folder is not None:
        OmegaConf.update(config, "data.source.folder", source_folder)
    spec: DatasetSpec = build(config.data)
    wanted = {key for fold in folds for key in fold.validated}
    cases = {case.key: case for case in spec.labelled_cases() if case.key in wanted}
    missing = sorted(wanted - cases.keys())
    if missing:
        shown = ", ".join(missing[:MAX_LISTED]) + (" ..." if len(missing) > MAX_LISTED else "")
        raise InputError(
            str(config.data.source.get("folder") or where),
            f"lacks {len(missing)} of {len(wanted)} cases of the folds: {shown}",
            "set source.folder=<folder of the data that the folds were trained on>",
            code="E_FOLDS",
        )
    return cases


def _fold(folder: Path) -> Fold | None:
    """A fold; None for one that was trained on every case."""
    split = _load(folder / "split.yaml")
    number = split.get("fold")
    if not isinstance(number, int):
        return None
    return Fold(
        folder,
        number,
        int(split.get("num_folds", 0)),
        ModelBundle.load(folder / "bundle"),
        frozenset(map(str, split.get("train") or ())),
        tuple(map(str, split.get("validation") or ())),
    )


def _require_alike(folds: Sequence[Fold]) -> None:
    first = _shared(folds[0])
    differences = []
    for fold in folds[1:]:
        for key, value in _shared(fold).items():
            if value != first[key]:
                differences.append(
                    f"{key} is {_short(first[key])} in {folds[0].folder.name} and {_short(value)} "
                    f"in {fold.folder.name}"
                )
    if differences:
        more = len(differences) - MAX_LISTED
        raise ConfigError(
            folds[0].folder.parent,
            "holds folds that cannot be averaged: "
            + "; ".join(differences[:MAX_LISTED])
            + (f"; and {more} more" if more > 0 else ""),
            "train all folds in one go, with the same options: train -m fold=0,1,2,3,4 ...",
            code="E_FOLDS",
        )


def _shared(fold: Fold) -> dict[str, Any]:
    """What all folds of an ensemble must agree in."""
    shared = {**_shared_by(fold.bundle), "num_folds": fold.num_folds}
    if fold.bundle.coarse is not None:
        coarse = _shared_by(fold.bundle.coarse)
        shared |= {f"coarse.{key}": value for key, value in coarse.items()}
    return shared


def _shared_by(bundle: ModelBundle) -> dict[str, Any]:
    card = bundle.card
    network = card["network"]
    plan = bundle.plan.to_dict()
    return {
        **{f"plan.{key}": value for key, value in plan.items() if key not in _FREE_ENTRIES},
        "labels": bundle.labels.to_mapping(),
        "network": network["class"],
        **{f"network.{key}": value for key, value in sorted(network["options"].items())},
        "channel_names": _data(card).get("channel_names"),
        "mirror_axes": bundle.mirror_axes,
    }


def _require_apart(folds: Sequence[Fold]) -> None:
    """Raises an error unless the folds are parts of one division of the cases."""
    everything = {frozenset(fold.trained | set(fold.validated)) for fold in folds}
    twice = [key for fold in folds for key in fold.validated if key in fold.trained]
    validated = [key for fold in folds for key in fold.validated]
    if len(everything) > 1 or twice or len(set(validated)) < len(validated):
        raise ConfigError(
            folds[0].folder.parent,
            "holds folds that divide the cases differently, so that a case would be scored by a "
            "network that was trained on it",
            "train all folds on the same data with the same data.num_folds and data.split_seed",
            code="E_FOLDS",
        )


def _data(card: Mapping[str, Any]) -> Mapping[str, Any]:
    data = card.get("data")
    return data if isinstance(data, Mapping) else {}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            path, "cannot be read", "give the folder that train wrote", code="E_FOLDS"
        ) from error
    if not isinstance(content, dict):
        raise InputError(path, "is no mapping", "give the folder that train wrote", code="E_FOLDS")
    return content
