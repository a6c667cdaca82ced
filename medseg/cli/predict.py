"""`medseg predict`: every case below a folder through a bundle or a baseline, to files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from medseg.cli.console import Count, console, counting
from medseg.cli.predictors import choose_predictor
from medseg.config.build import accepts, build
from medseg.config.compose import quoted
from medseg.core.errors import ConfigError, InputError, OutputError
from medseg.core.identity import Case
from medseg.core.protocols import Source
from medseg.inference.algorithm import build_writers
from medseg.inference.cases import CaseOutcome, predict_cases
from medseg.inference.ensemble import EnsemblePredictor
from medseg.inference.memory import Progress
from medseg.inference.predictor import NetworkPredictor

WINDOWS_WORTH_TELLING = 50
SECONDS_WORTH_TELLING = 20


def run(cfg: DictConfig) -> int:
    """Returns 0 if all cases were predicted and 3 if some failed."""
    return 0 if tell(predict_folder(cfg), Path(cfg.paths.output)) else 3


def tell(outcomes: Sequence[CaseOutcome], output: Path) -> bool:
    """Prints what became of the cases; False if one failed."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    done = len(outcomes) - len(failed)
    console.print(
        f"{done} of {len(outcomes)} cases predicted in {sum(o.seconds for o in outcomes):.1f} s; "
        f"results in {output}",
        soft_wrap=True,
        markup=False,
    )
    for outcome in failed:
        place = "" if outcome.key in str(outcome.error) else f"{outcome.key}: "
        console.print(f"failed: {place}{outcome.error}", style="red", soft_wrap=True, markup=False)
    return not failed


def predict_folder(cfg: DictConfig, *, keys: Collection[str] | None = None) -> list[CaseOutcome]:
    """Predicts and writes every case that the source finds; images that cannot be read rightly are
    outcomes with an error.

    Args:
        cfg: of the command.
        keys: cases to predict; None takes all.
    """
    chosen = choose_predictor(cfg)
    if chosen.notice:
        console.print(chosen.notice, style="bold yellow", markup=False)
    counts_channels = chosen.num_channels is not None and accepts(cfg.source, "num_channels")
    extra = {"num_channels": chosen.num_channels} if counts_channels else {}
    source: Source = build(cfg.source, **extra)
    cases = source.cases()
    if not cases:
        raise InputError("source.folder", "holds no images", "set source.folder=<folder of images>")
    if keys is not None:
        cases = _named(cases, keys)
    _require_apart(cases, Path(cfg.paths.output))
    if not cfg.get("output"):
        raise ConfigError(
            "output", "names no format", "set output=[nifti] or output=[nifti,dicom_seg]"
        )
    writers = build_writers(cfg.output, chosen.algorithm)
    predictor = chosen.make()
    with counting("predicting", len(cases)) as step:
        if isinstance(predictor, NetworkPredictor | EnsemblePredictor):
            predictor.on_progress = _WindowsShown(step)
        outcomes = predict_cases(
            predictor,
            cases,
            writers=writers,
            folder=Path(cfg.paths.output),
            # Whoever sets a budget has large images: two at once could break it.
            overlaps=cfg.inference.memory_budget_gib is None,
            on_done=lambda _: step.next(),
        )
    refused = source.describe().refused
    return outcomes + [CaseOutcome(error.where, error=error) for error in refused]


class _WindowsShown:
    """Shows how far an image has come, and before long ones what they will take.

    Args:
        step: the bar of the cases.
    """

    def __init__(self, step: Count) -> None:
        self._step = step

    def __call__(self, progress: Progress) -> None:
        is_long = progress.estimate_s >= SECONDS_WORTH_TELLING
        if progress.done == 0 and (is_long or progress.total >= WINDOWS_WORTH_TELLING):
            minutes = f"about {progress.estimate_s / 60:.1f} min, " if is_long else ""
            console.print(f"{minutes}{progress.total} windows, {progress.memory}", markup=False)
        self._step.share(progress.done / max(1, progress.total))


def predict(
    bundle: str | Path | None,
    source: str | Path,
    *,
    output: str | Path,
    overrides: Sequence[str] = (),
) -> list[CaseOutcome]:
    """Predicts a folder as `python -m medseg predict` does.

    Args:
        bundle: folder of the model; None where `overrides` name a baseline.
        source: folder or file with images.
        output: folder for the results.
        overrides: further options as on the command line, such as "output=[nifti,dicom_seg]".

    Returns:
        What became of each case; those that failed carry their error. DICOM series that cannot be
        read rightly are among them, under the place where they lie.

    Raises:
        MedsegError: the options do not fit, the bundle is damaged, or there are no images.
    """
    from medseg.config.check import load_config, refuse_dry_run

    named = [] if bundle is None else [f"bundle={quoted(bundle)}"]
    cfg = load_config("predict", [*named, *overrides])
    refuse_dry_run(cfg, command="predict")
    with open_dict(cfg):
        cfg.source.folder = str(source)
        cfg.paths.output = str(output)
    return predict_folder(cfg)


def _named(cases: Sequence[Case], keys: Collection[str]) -> list[Case]:
    chosen = [case for case in cases if case.key in keys]
    if not chosen:
        raise InputError(
            "source.folder",
            f"none of its {len(cases)} cases (first: {cases[0].key}) is named like one of the "
            f"{len(keys)} references (first: {min(keys, default=None)})",
            "give image and reference of a case the same file name",
            code="E_NO_PAIR",
        )
    return chosen


def _require_apart(cases: Sequence[Case], output: Path) -> None:
    """Raises an error if images lie in the output folder: a result of the same name would replace
    one, and results of an earlier run would be predicted like images.
    """
    folder = output.resolve()
    inside = [
        case.key
        for case in cases
        for path in (*case.paths, *(case.series.paths[:1] if case.series else ()))[:1]
        if folder in path.resolve().parents
    ]
    if inside:
        shown = ", ".join(inside[:3]) + (" ..." if len(inside) > 3 else "")
        raise OutputError(
            output,
            f"holds {len(inside)} of the images to be predicted ({shown}): results could replace "
            "them, or they are results of an earlier run",
            "set paths.output to another folder",
            code="E_OUTPUT_HOLDS_INPUT",
        )
