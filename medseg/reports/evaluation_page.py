"""The page of an evaluation: how good, where it fails, what it looks like, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path

import medseg
from medseg.core.atomic import write_text
from medseg.core.errors import ConfigError
from medseg.metrics.case_scores import CaseScore
from medseg.reports import page
from medseg.reports.case_views import MAX_VOXELS, CaseView, view_case
from medseg.reports.evaluation_sections import (
    agreement_section,
    calibration_section,
    comparison_section,
    confusion_section,
    distribution_section,
    groups_section,
    metrics_section,
)
from medseg.reports.object_study import ObjectStudy
from medseg.reports.report_tables import mean_dice
from medseg.reports.study import Study

PAGE_NAME = "report.html"
MAX_VIEW_VOXELS = 6_000_000
"""Of all cases shown together; packed they stay below 10 MB."""


@dataclass(frozen=True)
class EvaluationPage:
    """Writes report.html.

    Args:
        title: of the page.
        num_worst, num_median, num_best: cases shown with slices and surfaces, by mean Dice of the
            first model.

    Raises:
        ConfigError: a number is negative.
    """

    title: str = "Evaluation"
    num_worst: int = 3
    num_median: int = 1
    num_best: int = 1

    def __post_init__(self) -> None:
        for name in ("num_worst", "num_median", "num_best"):
            if getattr(self, name) < 0:
                raise ConfigError(f"report.{name}", f"is {getattr(self, name)}", "use 0 or more")

    def write(self, study: Study, folder: str | Path, *, files: Sequence[Path] = ()) -> Path:
        """Writes the page.

        Args:
            study: what it is about.
            folder: where report.html goes.
            files: further files of the evaluation, to be linked.

        Raises:
            OutputError: it cannot be written.
        """
        path = Path(folder) / PAGE_NAME
        shown = self.shown_cases(study)
        sections = [
            metrics_section(study),
            comparison_section(study),
            distribution_section(study),
            page.Section("views", "Best and worst cases", _views(study, shown)),
            agreement_section(study),
            groups_section(study),
            confusion_section(study),
            calibration_section(study),
            page.Section("cases", "All cases", _all_cases(study, path.parent)),
            page.Section("files", "Files and method", _files(study, files, path.parent)),
        ]
        structures = [
            {
                "name": structure.name,
                "ids": list(structure.class_ids),
                "colour": list(study.labels.labels[structure.paints].rgb),
            }
            for structure in study.labels.structures
        ]
        html = page.document(
            self.title, intro=_intro(study), sections=sections, structures=structures
        )
        write_text(path, html)
        return path

    def shown_cases(self, study: Study) -> list[tuple[str, str]]:
        """Case keys with why they are shown, each once, the worst first."""
        return self.picks(mean_dice(next(iter(study.evaluations.values())).scores))

    def picks(self, values: Mapping[str, float]) -> list[tuple[str, str]]:
        """The worst, median and best of some cases with why, each once, the worst first.

        Args:
            values: by case key; more is better.
        """
        ranked = sorted(values, key=lambda case: (values[case], case))
        middle = len(ranked) // 2
        picks = [(case, "worst") for case in ranked[: self.num_worst]]
        start = max(0, middle - self.num_median // 2)
        picks += [(case, "median") for case in ranked[start : start + self.num_median]]
        picks += [(case, "best") for case in ranked[::-1][: self.num_best]]
        reasons: dict[str, str] = {}
        for case, reason in picks:
            reasons.setdefault(case, reason)
        return list(reasons.items())


def _intro(study: Study) -> str:
    first = next(iter(study.evaluations.values()))
    summary = first.summarise()
    dice = summary.overall.statistics["dice"]
    values = [
        (str(len(study.cases)), "cases"),
        (str(len(study.labels.structures)), "structures"),
        (f"{dice.mean:.3f}", f"mean Dice, {study.models[0]}"),
    ]
    if len(study.models) > 1:
        values.append((str(len(study.models)), "models"))
    return page.facts(values) + about_study(study)


def about_study(study: Study | ObjectStudy) -> str:
    """The model, what the page is not for, and what went wrong."""
    parts = []
    if study.model is not None:
        name = f"Model: {study.model['name']}, sha256 {study.model['sha256'][:12]}"
        parts.append(page.paragraph(name))
        if study.model["notice"]:
            parts.append(page.warning("About the model", [study.model["notice"]]))
    parts.append(
        page.paragraph(
            "Research software, not a medical device. Pictures are reduced in size and depth and "
            "are not for diagnosis."
        )
    )
    for model, evaluation in study.evaluations.items():
        where = f" ({model})" if len(study.models) > 1 else ""
        parts += [
            page.warning(f"Not scored{where}", [p.message for p in evaluation.problems]),
            page.warning(f"Without a prediction{where}", list(evaluation.missing)),
        ]
    parts += [
        page.warning(
            "Images unlike the training data",
            [f"{case}: {'; '.join(reasons)}" for case, reasons in study.unlike.items()],
        ),
        page.warning("About this page", list(study.notes)),
    ]
    return "".join(parts)


def _views(study: Study, shown: Sequence[tuple[str, str]]) -> str:
    if not shown:
        return ""
    limit = min(MAX_VOXELS, MAX_VIEW_VOXELS // (len(shown) * (1 + len(study.models))) * 2)

    def one(key: str) -> CaseView:
        return view_case(
            key,
            study.references.paths[key],
            {name: files.paths[key] for name, files in study.predictions.items()
             if key in files.paths},
            labels=study.labels,
            image=study.images.get(key),
            max_voxels=limit,
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(one, [key for key, _ in shown]))
    about = page.paragraph(
        "Reference: pale, dotted. Predictions: line in the colour of the structure, darker for "
        "further models. Scroll with the wheel or the arrow keys, click into a slice to move the "
        "others there, drag the surfaces or turn them with the arrow keys. Transverse and coronal "
        "slices show the patient's right on the left, sagittal ones the front on the left."
    )
    keys = "".join(
        f'<li><span class="key" style="background: rgb{label.rgb}"></span>{escape(s.name)}</li>'
        for s in study.labels.structures
        for label in [study.labels.labels[s.paints]]
    )
    boxes = "".join(
        _case_box(study, view, reason) for view, (_, reason) in zip(views, shown, strict=True)
    )
    return f'{about}<ul class="legend">{keys}</ul>{boxes}'


def _case_box(study: Study, view: CaseView, reason: str) -> str:
    scores = []
    for model, evaluation in study.evaluations.items():
        values = ", ".join(
            f"{score.label} {_short(score.dice)}"
            for score in evaluation.scores
            if score.case == view.key and score.status != "absent"
        )
        scores.append(f"{model}: Dice {values}" if values else f"{model}: no score")
    maps = ["reference", *(f"prediction {model}" for model in study.models)]
    switches = "".join(
        f'<label><input type="checkbox" data-map="{escape(name)}"'
        f"{' checked' if n < 2 else ''}> {escape(name)}</label>"
        for n, name in enumerate(maps)
    )
    planes = plane_figures(view.key)
    solid = (
        '<figure class="plane" data-surfaces><canvas tabindex="0" role="img" '
        f'aria-label="surfaces of {escape(view.key)}; arrow keys turn them"></canvas>'
        "<figcaption><span>surfaces</span><span>drag, or arrow keys</span></figcaption></figure>"
    )
    return (
        f'<article class="case" data-case="{escape(view.key)}" id="case-{escape(view.key)}">'
        f"<header><h3>{escape(view.key)}</h3><span>{reason}</span>"
        f'<span class="soft">{escape("; ".join(scores))}</span></header>'
        f'<div class="switches">{switches}</div><div class="planes">{planes}{solid}</div>'
        f'<script type="text/plain">{view.packed}</script></article>'
    )


def plane_figures(key: str) -> str:
    """The three planes of a case, which the page's script fills."""
    return "".join(
        f'<figure class="plane" data-plane="{plane}"><canvas role="img" '
        f'aria-label="{plane} slice of {escape(key)}"></canvas>'
        f'<input type="range" min="0" value="0" aria-label="{plane} slice of {escape(key)}">'
        f"<figcaption><span>{plane}</span><output></output></figcaption></figure>"
        for plane in ("transverse", "coronal", "sagittal")
    )


def _all_cases(study: Study, folder: Path) -> str:
    places = {
        model: {(s.case, s.label): s for s in evaluation.scores}
        for model, evaluation in study.evaluations.items()
    }
    labels = [structure.name for structure in study.labels.structures]
    rows = []
    for case in study.cases:
        for label in labels:
            for model in study.models:
                score: CaseScore | None = places[model].get((case, label))
                if score is None or score.status == "absent":
                    continue
                place = f"{model}/{case}/{label}"
                row = [page.heading(case), page.text(label), page.text(score.status)]
                if len(study.models) > 1:
                    row.insert(1, page.text(model))
                row += [
                    page.cell(score.dice, key=f"{place}/dice"),
                    page.cell(score.nsd, key=f"{place}/nsd"),
                    page.cell(score.hd95_mm, digits=2, key=f"{place}/hd95_mm"),
                    page.cell(score.assd_mm, digits=2, key=f"{place}/assd_mm"),
                    page.cell(score.reference_ml, digits=2, key=f"{place}/reference_ml"),
                    page.cell(score.prediction_ml, digits=2, key=f"{place}/prediction_ml"),
                    f'<td class="text short">{_case_links(study, model, case, folder)}</td>',
                ]
                rows.append(row)
    head = [
        "case", "structure", "status", "Dice", "NSD", "HD95 mm", "ASSD mm", "reference ml",
        "prediction ml", "files",
    ]  # fmt: skip
    if len(study.models) > 1:
        head.insert(1, "model")
    return page.table(head, rows, caption="Click a heading to sort", is_sortable=True, is_tall=True)


def _case_links(study: Study, model: str, case: str, folder: Path) -> str:
    files = [("reference", study.references.paths.get(case))]
    files.append(("prediction", study.predictions[model].paths.get(case)))
    return " ".join(page.link(path, folder, name) for name, path in files if path is not None)


def _files(study: Study, files: Sequence[Path], folder: Path) -> str:
    links = "".join(f"<li>{page.link(path, folder)}</li>" for path in files)
    settings = next(iter(study.evaluations.values())).settings
    notes = [
        f"Surface Dice (NSD) at {settings.surface_dice_tolerance_mm:g} mm; distances between "
        f"{settings.surface.replace('_', ' ')}.",
        f"Intervals hold {settings.confidence:.0%} of the means of {settings.num_resamples} draws "
        f"of whole cases with replacement (seed {settings.seed}).",
        "Cases where neither label map has a structure count for nothing; a structure that only "
        "one of them has scores 0 and has no distance.",
        f"medseg {medseg.__version__}.",
    ]
    return f"<ul>{links}</ul>" + "".join(page.paragraph(note) for note in notes)


def _short(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"  # noqa: RUF001 - as in the tables
