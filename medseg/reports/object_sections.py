"""The parts of a page about objects that are tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.metrics.detection import FROC_RATES, froc
from medseg.metrics.object_pairs import ObjectPairs
from medseg.reports import page
from medseg.reports.charts import Sample, agreement_plot, box_plot, legend, line_plot
from medseg.reports.evaluation_sections import NUM_COLOURS, comparison_body
from medseg.reports.object_evaluation import ObjectEvaluation
from medseg.reports.object_study import GROUPED, ObjectStudy
from medseg.reports.object_summary import QUALITIES
from medseg.reports.object_tables import shown_classes
from medseg.reports.page import Section

_CURVE_POINTS = 200


def scores_body(summaries: Mapping[str, Mapping[str, Any]], *, about: str = "All objects") -> str:
    """Scores of each class over all objects, with intervals.

    Args:
        summaries: scores by name of the model.
        about: begins the caption.
    """
    several = len(summaries) > 1
    rows = []
    for model, summary in summaries.items():
        for name, scores in shown_classes(summary).items():
            intervals = scores["intervals"]
            key = f"summary/{model}/{name}"
            row = [page.heading(name), *([page.text(model)] if several else [])]
            if "iou" in scores:
                at_half = scores["iou"]["0.50"]
                row += [
                    page.count(scores["num_references"]),
                    page.count(at_half["true_positives"]),
                    page.count(at_half["false_positives"]),
                    page.cell(scores["ap50"], interval=_pair(intervals["ap50"]), key=f"{key}/ap50"),
                    page.cell(scores["ap"], key=f"{key}/ap"),
                    page.cell(
                        at_half["accuracy"],
                        interval=_pair(intervals["accuracy"]),
                        key=f"{key}/accuracy",
                    ),
                    page.cell(
                        scores["lesion"]["f1"],
                        interval=_pair(intervals["lesion_f1"]),
                        key=f"{key}/lesion_f1",
                    ),
                ]
            else:
                row += ["<td></td>"] * 7
            row += [
                page.cell(
                    scores[quality], interval=_pair(intervals[quality]), key=f"{key}/{quality}"
                )
                for quality in QUALITIES
            ]
            rows.append(row)
    first = next(iter(summaries.values()))
    lesion = f"F1 at IoU {first['settings']['lesion_iou']:g}"
    confidence = first["bootstrap"]["confidence"]
    return page.table(
        [
            "class", *(["model"] if several else []), "objects", "found", "false", "AP50", "AP",
            "TP / (TP + FP + FN)", lesion, *(quality.upper() for quality in QUALITIES),
        ],
        rows,
        caption=f"{about} together, with {confidence:.0%} intervals from a bootstrap over cases; "
        "found, false and TP / (TP + FP + FN) at IoU 0.5",
    )  # fmt: skip


def sizes_body(study: ObjectStudy) -> str:
    """Scores of the objects of each range of volumes."""
    rows = []
    for model, summary in study.summaries.items():
        for label, scores in summary["labels"].items():
            for size in scores["sizes"]:
                if not size["num_references"]:
                    continue
                key = f"sizes/{model}/{label}/{size['name']}"
                rows.append(
                    [
                        page.heading(label),
                        *([page.text(model)] if len(study.models) > 1 else []),
                        page.text(size["name"].replace("_", " ")),
                        page.cell(size["from_mm3"], digits=0),
                        page.cell(size["below_mm3"], digits=0),
                        page.count(size["num_references"]),
                        page.cell(
                            size["sensitivity"],
                            interval=_pair(size["sensitivity_interval"]),
                            key=f"{key}/sensitivity",
                        ),
                        page.cell(size["ap50"], key=f"{key}/ap50"),
                    ]
                )
    if not rows:
        return ""
    lesion_iou = next(iter(study.summaries.values()))["settings"]["lesion_iou"]
    return "<h3>By size</h3>" + page.table(
        [
            "class", *(["model"] if len(study.models) > 1 else []), "size", "from mm³", "below mm³",
            "objects", f"share found at IoU {lesion_iou:g}", "AP50",
        ],
        rows,
        caption="Objects of the reference by their volume",
    )  # fmt: skip


def comparison_section(study: ObjectStudy) -> Section:
    """Differences between models on the same cases."""
    names = metric_names(study)
    return Section("comparison", "Comparison", comparison_body(study.tables.comparison, names))


def curves_section(study: ObjectStudy) -> Section:
    """Scores over the IoU from which an object counts as found, and FROC."""
    colours = {
        (model, label): n % NUM_COLOURS
        for n, (model, label) in enumerate(
            (model, label)
            for model, summary in study.summaries.items()
            for label in summary["labels"]
        )
    }
    charts = []
    for score, name in (("accuracy", "TP / (TP + FP + FN)"), ("f1", "F1")):
        curves = {
            _curve_name(study, place): (
                colour,
                [
                    (float(iou), found[score])
                    for iou, found in study.summaries[place[0]]["labels"][place[1]]["iou"].items()
                    if found[score] is not None
                ],
            )
            for place, colour in colours.items()
        }
        chart = line_plot(curves, title=name, x_title="least IoU of a found object", y_title=name)
        charts.append(page.figure(chart, f"{name} by the IoU from which an object is found"))
    rates = {}
    for (model, label), colour in colours.items():
        cases = _cases(study.evaluations[model], label)
        if len({float(score) for pairs in cases for score in pairs.scores}) > 1:
            rates[_curve_name(study, (model, label))] = (colour, _froc_curve(study, model, cases))
    if rates:
        chart = line_plot(
            rates, title="FROC", x_title="false objects per image", y_title="share found"
        )
        iou = next(iter(study.evaluations.values())).settings.lesion_iou
        charts.append(
            page.figure(chart, f"FROC at IoU {iou:g}: fewer false objects for higher scores")
        )
    names = {_curve_name(study, place): colour for place, colour in colours.items()}
    body = legend(names) if len(names) > 1 else ""
    return Section(
        "curves", "Over IoU and score", f'{body}<div class="grid">{"".join(charts)}</div>'
    )


def distribution_section(study: ObjectStudy) -> Section:
    """Box plots of every case's value."""
    figures = []
    for metric, name in metric_names(study).items():
        samples = [
            Sample(
                _curve_name(study, (model, label)),
                n % NUM_COLOURS,
                [(s.case, getattr(s, metric)) for s in study.scores[model] if s.label == label],
            )
            for n, (model, label) in enumerate(
                (model, label)
                for model, summary in study.summaries.items()
                for label in summary["labels"]
            )
        ]
        if metric != "f1" and samples:
            figures.append(page.figure(box_plot(samples, title=name, unit="", bounded=True), name))
    return Section("distribution", "Cases", f'<div class="grid">{"".join(figures)}</div>')


def counts_section(study: ObjectStudy) -> Section:
    """Bland-Altman plots of the number of objects, with their numbers."""
    figures, rows = [], []
    for n, row in enumerate(study.tables.counts):
        key = f"counts/{row.model}/{row.label}"
        rows.append(
            [
                page.heading(row.label),
                page.text(row.model),
                page.count(row.num_cases),
                page.cell(row.mean, digits=2, sign=True, key=f"{key}/mean"),
                page.cell(row.lower, digits=2, sign=True, key=f"{key}/lower"),
                page.cell(row.upper, digits=2, sign=True, key=f"{key}/upper"),
            ]
        )
        points = [
            (s.case, (s.references + s.predictions) / 2, float(s.predictions - s.references))
            for s in study.scores[row.model]
            if s.label == row.label
        ]
        title = _curve_name(study, (row.model, row.label)) or row.label
        chart = agreement_plot(
            points,
            title=f"Agreement of counts, {title}",
            colour=n % NUM_COLOURS,
            mean=row.mean,
            limits=(row.lower, row.upper),
            unit="objects",
        )
        figures.append(page.figure(chart, title))
    table = page.table(
        ["class", "model", "cases", "mean difference", "lower limit", "upper limit"],
        rows,
        caption="Objects predicted minus objects of the reference per case, with limits of "
        "agreement (1.96 standard deviations)",
    )
    inside, below = (f"<div>{table}</div>", "") if len(figures) == 1 else ("", table)
    body = f'<div class="grid">{"".join(figures)}{inside}</div>{below}'
    return Section("counts", "Agreement of counts", body if rows else "")


def groups_section(study: ObjectStudy) -> Section:
    """Scores of subgroups."""
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in study.tables.groups:
        place = (row.grouping, row.group, row.label, row.model)
        found = cells.setdefault(
            place,
            [
                page.heading(row.grouping),
                *(page.text(part) for part in place[1:]),
                page.count(row.num_cases),
                page.count(row.num_references),
            ],
        )
        key = f"groups/{row.model}/{row.grouping}/{row.group}/{row.label}/{row.metric}"
        found.append(page.cell(row.value, interval=(row.low, row.high), key=key))
    if not cells:
        return Section("groups", "Subgroups", "")
    names = metric_names(study)
    body = page.table(
        ["grouped by", "group", "class", "model", "cases", "objects", *(names[m] for m in GROUPED)],
        list(cells.values()),
        caption="Over all objects of the cases, with bootstrap intervals; few cases make wide ones",
        is_tall=len(cells) > 20,
    )
    return Section("groups", "Subgroups", body)


def metric_names(study: ObjectStudy) -> dict[str, str]:
    """Headings of what is compared between models."""
    lesion_iou = next(iter(study.evaluations.values())).settings.lesion_iou
    return {
        "accuracy": "TP / (TP + FP + FN)",
        "f1": "F1 at IoU 0.5",
        "lesion_f1": f"F1 at IoU {lesion_iou:g}",
        "pq": "PQ",
    }


def _froc_curve(
    study: ObjectStudy, model: str, cases: Sequence[ObjectPairs]
) -> list[tuple[float, float]]:
    wrong = sum(len(pairs.scores) for pairs in cases) / len(cases)
    rates = np.linspace(0, min(max(FROC_RATES), wrong), _CURVE_POINTS)
    iou = study.evaluations[model].settings.lesion_iou
    found = froc(cases, iou, rates=rates.tolist())
    return list(zip(rates.tolist(), found, strict=True))


def _cases(evaluation: ObjectEvaluation, label: str) -> Sequence[ObjectPairs]:
    return evaluation.things[evaluation.labels.names.index(label)]


def _curve_name(study: ObjectStudy, place: tuple[str, str]) -> str:
    """The model, the class, or both: whatever tells the curves apart."""
    model, label = place
    has_classes = max(len(summary["labels"]) for summary in study.summaries.values()) > 1
    if len(study.models) == 1:
        return label
    return f"{label}, {model}" if has_classes else model


def _pair(interval: Any) -> tuple[float, float] | None:
    """An interval of the file; None where it has none."""
    low, high = interval
    return None if low is None or high is None else (low, high)
