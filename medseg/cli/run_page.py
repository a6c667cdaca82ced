"""Gathers what a training leaves for its page, run.html."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import medseg
from medseg.cli.preparation import Preparation
from medseg.config.compose import compose
from medseg.core.errors import MedsegError
from medseg.metrics.summary import Summary, summarise
from medseg.reports.object_tables import read_object_scores
from medseg.reports.run_page import Picture, RunFacts, write_run_page
from medseg.reports.score_tables import read_scores
from medseg.tasks.parts import Parts
from medseg.training.fit import FitResult
from medseg.training.history import FILE_NAME, peak_memory_gib, read_history
from medseg.training.overlays import contour_overview

logger = logging.getLogger(__name__)

SAMPLES = "samples"
_MOST_MONTAGE = 6
_MOST_CHARACTERS = 120
_ABSENT = "not an option"
_PACKAGES = ("torch", "lightning", "monai", "numpy", "scipy", "SimpleITK", "pydicom")


def write_page(
    cfg: DictConfig, prepared: Preparation, result: FitResult, folder: Path
) -> Path | None:
    """Writes run.html; what goes wrong is logged, for a training must not fail by its page."""
    try:
        return write_run_page(_facts(cfg, prepared, result, folder), folder)
    except MedsegError as error:
        logger.warning("run.html is not written: %s", error)
    except Exception as error:  # the bundle is there, and matters more
        logger.debug("run.html is not written", exc_info=True)
        logger.warning("run.html is not written: %s", type(error).__name__)
    return None


def _facts(cfg: DictConfig, prepared: Preparation, result: FitResult, folder: Path) -> RunFacts:
    history = read_history(folder / FILE_NAME)
    spread = prepared.fingerprint.summary(prepared.labels)
    classes = spread.pop("classes")
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    minutes = f"{result.elapsed_s / 60:.1f} min"
    plan = prepared.plan.to_dict()
    return RunFacts(
        name=f"{cfg.name}, fold {cfg.fold}",
        notice=prepared.notice,
        facts=[
            (f"{result.num_steps:,}", "steps"),
            (minutes, "of training"),
            (str(len(prepared.split.train)), "cases trained on"),
            (f"{np.mean(list(result.scores.values())):.3f}" if result.scores else "none",
             "last validation score"),
        ],
        summary=_summary(folder / "scores.csv"),
        object_scores=_object_scores(folder / "scores.json"),
        summary_title="Held-out cases" if prepared.split.test else "Validation cases",
        history=history,
        samples=_samples(folder / SAMPLES),
        plan=plan,
        reasons={str(k): str(v) for k, v in (plan.get("reasons") or {}).items()},
        changes=changed_options(cfg),
        data=[
            ("data set", prepared.spec.name),
            ("modality", prepared.spec.modality),
            ("training, validation, held out",
             f"{len(prepared.split.train)}, {len(prepared.split.validation)}, "
             f"{len(prepared.split.test)} cases"),
            *((name.replace("_", " "), _plain(value)) for name, value in spread.items()),
        ],
        labels=[
            {"label": name, **{key.replace("_", " "): entry for key, entry in facts.items()}}
            for name, facts in classes.items()
        ],
        montage=_montage(prepared),
        costs=[
            ("training", minutes),
            ("time per step", f"{1000 * result.elapsed_s / max(1, result.num_steps):.1f} ms"),
            ("highest memory of the process", f"{peak_memory_gib():.2f} GiB"),
            *_gpu_memory(),
            ("last validation", scores or "none"),
            ("validation cases scored",
             f"{result.scored_cases[0]} of {len(prepared.split.validation)}"),
        ],
        environment=_environment(prepared.device),
        source=git_state(Path(medseg.__file__).parent),
        files=[
            name
            for name in ("bundle/card.yaml", "config.yaml", "plan.yaml", "split.yaml",
                         "fingerprint.json", FILE_NAME, "scores.csv", "scores.json")
            if (folder / name).exists()
        ],
    )  # fmt: skip


def changed_options(cfg: DictConfig) -> list[tuple[str, str, str]]:
    """Every option whose value differs from that of `train` without options, with both.

    The plan is left out: it has a table of its own.
    """
    default = _flat(OmegaConf.to_container(compose("train").config))
    chosen = _flat(OmegaConf.to_container(cfg))
    values = _flat(OmegaConf.to_container(cfg, resolve=True))
    names = [name for name in dict.fromkeys([*chosen, *default]) if not name.startswith("plan.")]
    return [
        (name, _brief(default.get(name, _ABSENT)), _brief(values.get(name, _ABSENT)))
        for name in names
        if default.get(name) != chosen.get(name)
    ]


def git_state(folder: Path) -> list[tuple[str, str]]:
    """Commit of the code and whether it was changed since; nothing outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
        return done.stdout.rstrip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".").splitlines()
    except (OSError, subprocess.SubprocessError):
        return [("git commit", "not a git checkout")]
    names = ", ".join(line[3:] for line in changed[:5]) + (" ..." if len(changed) > 5 else "")
    return [("git commit", commit), ("changed since", names or "nothing")]


def _summary(path: Path) -> Summary | None:
    """The summary of scores.csv; None where the cases were scored otherwise."""
    scores = read_scores(path) if path.is_file() else []
    return summarise(scores) if scores else None


def _object_scores(path: Path) -> dict[str, Any] | None:
    return read_object_scores(path) if path.is_file() else None


def _environment(device: str) -> list[tuple[str, str]]:
    """Software and hardware; no name of the machine or the person."""
    facts = [
        ("medseg", medseg.__version__),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor cores", str(os.cpu_count())),
        ("device", torch.cuda.get_device_name() if device == "cuda" else device),
    ]
    for name in _PACKAGES:
        try:
            facts.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return facts


def _gpu_memory() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return []
    peak = torch.cuda.max_memory_allocated() / 2**30
    return [("highest memory of the GPU", f"{peak:.2f} GiB")]


def _samples(folder: Path) -> list[Picture]:
    pictures = []
    for path in sorted(folder.glob("step_*.png")):
        with Image.open(path) as image:
            step = int(path.stem.removeprefix("step_"))
            pictures.append(Picture(f"step {step:,}", _jpeg(np.asarray(image))))
    return pictures


def _montage(prepared: Preparation) -> list[Picture]:
    """Prepared training cases, spread over the list."""
    keys = prepared.split.train
    picks = np.unique(np.linspace(0, len(keys) - 1, min(_MOST_MONTAGE, len(keys))).astype(int))
    pictures = []
    for key in (keys[n] for n in picks):
        case = prepared.cache.get(prepared.cases[key])
        codes = getattr(case, "codes", None)
        numbers = np.asarray(case.labels)
        parts = Parts.of_classes(numbers) if codes is None else Parts(numbers, codes.classes)
        picture = contour_overview(
            np.asarray(case.image[0], np.float32),
            parts,
            None,
            labels=prepared.labels,
            spacing_mm=case.spacing_mm,
        )
        pictures.append(Picture(key, _jpeg(picture)))
    return pictures


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        found: dict[str, Any] = {}
        for key, entry in value.items():
            found |= _flat(entry, f"{path}.{key}" if path else str(key))
        return found
    return {path: value}


def _brief(value: Any) -> str:
    text = value or '""' if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return " x ".join(
            f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in value
        )
    return str(value)
