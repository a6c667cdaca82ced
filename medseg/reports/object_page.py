"""The page of an evaluation of objects: how many are found, where not, and what that looks like."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np

import medseg
from medseg.core.atomic import write_text
from medseg.reports import page
from medseg.reports.case_views import MAX_VOXELS
from medseg.reports.evaluation_page import (
    MAX_VIEW_VOXELS,
    PAGE_NAME,
    EvaluationPage,
    about_study,
    plane_figures,
)
from medseg.reports.object_sections import (
    comparison_section,
    counts_section,
    curves_section,
    distribution_section,
    groups_section,
    scores_body,
    sizes_body,
)
from medseg.reports.object_study import ObjectStudy
from medseg.reports.object_summary import ObjectCaseScore
from medseg.reports.object_views import IOU, KINDS, Kind, ObjectView, view_objects

_SAMPLE_WIDTH = 34


def write_object_page(
    study: ObjectStudy,
    folder: str | Path,
    layout: EvaluationPage,
    *,
    files: Sequence[Path] = (),
) -> Path:
    """Writes report.html.

    Args:
        study: what it is about.
        folder: where report.html goes.
        layout: its title, and how many cases are shown, by the mean PQ of the first model.
        files: further files of the evaluation, to be linked.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(folder) / PAGE_NAME
    shown = layout.picks(mean_quality_of_cases(study))
    sections = [
        page.Section("scores", "Scores", scores_body(study.summaries) + sizes_body(study)),
        comparison_section(study),
        curves_section(study),
        page.Section("views", "Best and worst cases", _views(study, shown)),
        distribution_section(study),
        counts_section(study),
        groups_section(study),
        page.Section("cases", "All cases", _all_cases(study, path.parent)),
        page.Section("files", "Files and method", _files(study, files, path.parent)),
    ]
    html = page.document(
        layout.title,
        intro=_intro(study),
        sections=sections,
        structures=[asdict(kind) for kind in KINDS],
        scripts=("objects.js", "page.js"),
    )
    write_text(path, html)
    return path


def mean_quality_of_cases(study: ObjectStudy) -> dict[str, float]:
    """Mean PQ over the classes that a case has, of the first model, by case."""
    values: dict[str, list[float]] = {}
    for score in study.scores[study.models[0]]:
        if np.isfinite(score.pq):
            values.setdefault(score.case, []).append(score.pq)
    return {case: float(np.mean(found)) for case, found in values.items()}


def _intro(study: ObjectStudy) -> str:
    scores = study.scores[study.models[0]]
    hits = sum(score.true_positives for score in scores)
    wanted = sum(score.references for score in scores)
    values = [
        (str(len(study.cases)), "cases"),
        (f"{wanted:,}", "objects"),
        (f"{hits / wanted:.1%}" if wanted else "–", f"of them found, {study.models[0]}"),  # noqa: RUF001
    ]
    if len(study.models) > 1:
        values.append((str(len(study.models)), "models"))
    return page.facts(values) + about_study(study)


def _views(study: ObjectStudy, shown: Sequence[tuple[str, str]]) -> str:
    if not shown:
        return ""
    # An object's number takes four times the room of a class.
    limit = min(MAX_VOXELS, MAX_VIEW_VOXELS // (len(shown) * (1 + len(study.models))))
    scored = {
        model: frozenset(score.case for score in found) for model, found in study.scores.items()
    }

    def one(key: str) -> ObjectView:
        return view_objects(
            key,
            {name: files for name, files in study.files.items() if key in scored[name]},
            image=study.images.get(key),
            min_score=next(iter(study.evaluations.values())).settings.min_score,
            max_voxels=limit,
        )

    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(one, [key for key, _ in shown]))
    about = page.paragraph(
        f"Chosen by PQ. Objects are found from an IoU of {IOU:g}; each has its own outline, along "
        "the inside of its border. Kinds differ in colour and in their dashes. In volumes, scroll "
        "with the wheel or the arrow keys, and click into a slice to move the others there."
    )
    return about + "".join(
        _case_box(study, view, reason) for view, (_, reason) in zip(views, shown, strict=True)
    )


def _case_box(study: ObjectStudy, view: ObjectView, reason: str) -> str:
    kinds = "".join(
        f'<label><input type="checkbox" data-kind="{kind.code}" checked>{_line(kind)}'
        f"{escape(kind.name)}</label>"
        for kind in KINDS
        if kind.code in view.kinds
    )
    models = ""
    for n, model in enumerate(study.models):
        name = escape(f"prediction {model}")
        hidden = " hidden" if len(study.models) == 1 else ""
        models += (
            f'<label{hidden}><input type="radio" name="model of {escape(view.key)}" '
            f'data-model="{name}"{" checked" if n == 0 else ""}> {name}</label>'
        )
    rows = [
        [
            page.heading(score.label),
            *([page.text(model)] if len(study.models) > 1 else []),
            page.count(score.references),
            page.count(score.true_positives),
            page.count(score.false_positives),
            page.count(score.false_negatives),
            page.cell(score.accuracy),
            page.cell(score.pq),
        ]
        for model, found in study.scores.items()
        for score in found
        if score.case == view.key and score.references + score.predictions
    ]
    head = ["class", *(["model"] if len(study.models) > 1 else []), "objects", "found", "false",
            "missed", "accuracy", "PQ"]  # fmt: skip
    caption = f"At IoU {IOU:g}; accuracy is TP / (TP + FP + FN)"
    facts = page.table(head, rows, caption=caption)
    planes = plane_figures(view.key)
    # Beside a picture there is room for the facts; the planes of a volume take the whole width.
    planes = (
        f'<div class="planes flat">{planes}<div>{facts}</div></div>'
        if view.is_flat
        else f'<div class="planes solid">{planes}</div>{facts}'
    )
    key = escape(view.key)
    return (
        f'<article class="case objects" data-case="{key}" id="case-{key}">'
        f"<header><h3>{key}</h3><span>{reason}</span></header>"
        f'<div class="switches">{models}</div><div class="switches">{kinds}</div>'
        f'{planes}<script type="text/plain">{view.packed}</script></article>'
    )


def _line(kind: Kind) -> str:
    """A piece of the line that a kind is drawn with."""
    dash = f' stroke-dasharray="{" ".join(f"{part:g}" for part in kind.dash)}"' if kind.dash else ""
    return (
        f'<svg class="sample" viewBox="0 0 {_SAMPLE_WIDTH} 12" width="{_SAMPLE_WIDTH}" height="12" '
        f'aria-hidden="true"><rect width="{_SAMPLE_WIDTH}" height="12" fill="#333"/>'
        f'<line x1="2" x2="{_SAMPLE_WIDTH - 2}" y1="6" y2="6" stroke="{kind.colour}" '
        f'stroke-width="{kind.width:g}"{dash}/></svg>'
    )


def _all_cases(study: ObjectStudy, folder: Path) -> str:
    rows = []
    for model, found in study.scores.items():
        for score in found:
            key = f"{model}/{score.case}/{score.label}"
            row = [page.heading(score.case), page.text(score.label)]
            if len(study.models) > 1:
                row.insert(1, page.text(model))
            row += [
                page.count(score.references),
                page.count(score.predictions),
                page.count(score.true_positives),
                page.count(score.false_positives),
                page.count(score.false_negatives),
                page.cell(score.accuracy, key=f"{key}/accuracy"),
                page.cell(score.f1, key=f"{key}/f1"),
                page.cell(score.lesion_f1, key=f"{key}/lesion_f1"),
                page.cell(score.pq, key=f"{key}/pq"),
                f'<td class="text short">{_case_links(study, model, score, folder)}</td>',
            ]
            rows.append(row)
    lesion_iou = next(iter(study.evaluations.values())).settings.lesion_iou
    head = [
        "case", *(["model"] if len(study.models) > 1 else []), "class", "objects", "predicted",
        "found", "false", "missed", "TP / (TP + FP + FN)", "F1", f"F1 at IoU {lesion_iou:g}", "PQ",
        "files",
    ]  # fmt: skip
    return page.table(head, rows, caption="Click a heading to sort", is_sortable=True, is_tall=True)


def _case_links(study: ObjectStudy, model: str, score: ObjectCaseScore, folder: Path) -> str:
    files = study.files[model]
    paths = [
        ("reference", files.reference_paths.get(score.case)),
        ("prediction", files.prediction_paths.get(score.case)),
    ]
    return " ".join(page.link(path, folder, name) for name, path in paths if path is not None)


def _files(study: ObjectStudy, files: Sequence[Path], folder: Path) -> str:
    links = "".join(f"<li>{page.link(path, folder)}</li>" for path in files)
    first = next(iter(study.evaluations.values()))
    settings, bootstrap = first.settings, first.bootstrap
    notes = [
        f"Objects of a score below {settings.min_score:g} count for AP and FROC alone.",
        f"Intervals hold {bootstrap.confidence:.0%} of the scores of {bootstrap.num_resamples} "
        f"draws of whole cases with replacement (seed {bootstrap.seed}).",
        "Scores of all cases are over all their objects together; those that models are compared "
        "by are of each case.",
        f"medseg {medseg.__version__}.",
    ]
    return f"<ul>{links}</ul>" + "".join(page.paragraph(note) for note in notes)
