"""The parts of an evaluation page that are tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg.metrics.summary import LabelSummary
from medseg.reports import page
from medseg.reports.charts import (
    Sample,
    agreement_plot,
    box_plot,
    legend,
    reliability_plot,
)
from medseg.reports.page import Section
from medseg.reports.report_tables import ComparisonRow
from medseg.reports.study import Study

NUM_COLOURS = 6
_MOST_CHARTED = 8
"""Structures with charts of their own; tables hold all."""
_METRICS = (
    ("dice", "Dice", 3, False),
    ("iou", "IoU", 3, False),
    ("nsd", "NSD", 3, False),
    ("hd95_mm", "HD95 mm", 2, False),
    ("assd_mm", "ASSD mm", 2, False),
    ("volume_difference_ml", "volume diff. ml", 2, True),
)
_NAMES = {metric: name for metric, name, _, _ in _METRICS}
_NAMES["relative_volume_difference"] = "rel. volume diff."


def metrics_section(study: Study) -> Section:
    """Means with intervals per structure, and over all."""
    rows = []
    for model, evaluation in study.evaluations.items():
        summary = evaluation.summarise()
        labels = [*summary.labels, summary.overall] if len(summary.labels) > 1 else summary.labels
        for label in labels:
            row = [page.heading(label.label)]
            if len(study.models) > 1:
                row.append(page.text(model))
            row.append(_counts(label))
            for metric, _, digits, sign in _METRICS:
                found = label.statistics[metric]
                row.append(
                    page.cell(
                        found.mean,
                        digits=digits,
                        sign=sign,
                        interval=(found.low, found.high),
                        key=f"summary/{model}/{label.label}/{metric}",
                    )
                )
            rows.append(row)
    head = ["structure", *(["model"] if len(study.models) > 1 else []), "cases"]
    confidence = next(iter(study.evaluations.values())).settings.confidence
    body = page.table(
        [*head, *(name for _, name, _, _ in _METRICS)],
        rows,
        caption=f"Mean over the cases, with its {confidence:.0%} bootstrap interval",
    )
    return Section("metrics", "Metrics", body)


def _counts(label: LabelSummary) -> str:
    parts = [f"{label.num_missed} missed"] if label.num_missed else []
    parts += [f"{label.num_spurious} spurious"] if label.num_spurious else []
    parts += [f"{label.num_absent} absent"] if label.num_absent else []
    below = f"<small>{', '.join(parts)}</small>" if parts and label.class_id else ""
    shown = str(label.num_both) if label.class_id else ""
    return f'<td data-value="{label.num_both}">{shown}{below}</td>'


def comparison_section(study: Study) -> Section:
    """Differences between models on the same cases."""
    return Section("comparison", "Comparison", comparison_body(study.tables.comparison, _NAMES))


def comparison_body(comparison: Sequence[ComparisonRow], names: Mapping[str, str]) -> str:
    """The differences as a table; "" for none.

    Args:
        comparison: the differences.
        names: of the metrics.
    """
    rows = []
    for row in comparison:
        key = f"comparison/{row.first}/{row.second}/{row.label}/{row.metric}"
        rows.append(
            [
                page.heading(row.label),
                page.text(names[row.metric]),
                page.text(row.first),
                page.text(row.second),
                page.count(row.num_cases),
                page.cell(row.first_mean, key=f"{key}/first_mean"),
                page.cell(row.second_mean, key=f"{key}/second_mean"),
                page.cell(
                    row.difference,
                    sign=True,
                    interval=(row.low, row.high),
                    key=f"{key}/difference",
                ),
                page.text(f"{row.num_higher} / {row.num_lower}"),
                page.p_value(row.p_value),
                page.p_value(row.p_holm),
            ]
        )
    if not rows:
        return ""
    body = page.table(
        [
            "structure", "metric", "first", "second", "cases", "first mean", "second mean",
            "second - first", "higher / lower", "p", "p (Holm)",
        ],
        rows,
        caption="Same cases, paired: mean difference with its bootstrap interval, and Wilcoxon's "
        "signed-rank test",
        is_sortable=True,
    )  # fmt: skip
    note = page.paragraph(
        "p (Holm) is adjusted for the number of rows. A small p says that one is better more "
        "often, not by how much: read the difference."
    )
    return body + note


def distribution_section(study: Study) -> Section:
    """Box plots of every case's value."""
    labels = [structure.name for structure in study.labels.structures][:_MOST_CHARTED]
    several = len(study.models) > 1
    figures = []
    for metric, name, _, _ in _METRICS[:1] + _METRICS[2:4]:
        values = {
            (model, label): [
                (score.case, getattr(score, metric))
                for score in evaluation.scores
                if score.label == label
            ]
            for model, evaluation in study.evaluations.items()
            for label in labels
        }
        unit = "mm" if metric.endswith("_mm") else ""
        columns = labels if several else [""]
        for label in columns:
            samples = (
                [
                    Sample(model, n % NUM_COLOURS, values[model, label])
                    for n, model in enumerate(study.models)
                ]
                if several
                else [
                    Sample(one, n % NUM_COLOURS, values[study.models[0], one])
                    for n, one in enumerate(labels)
                ]
            )
            title = f"{name}, {label}" if label else name
            chart = box_plot(samples, title=title, unit=unit, bounded=not unit)
            figures.append(page.figure(chart, title))
    body = "".join(figures)
    return Section(
        "distribution", "Distributions", f'<div class="grid">{body}</div>' if body else ""
    )


def agreement_section(study: Study) -> Section:
    """Bland-Altman plots of volumes, with their numbers."""
    labels = [structure.name for structure in study.labels.structures][:_MOST_CHARTED]
    figures, rows = [], []
    for row in study.tables.agreement:
        n = study.models.index(row.model)
        key = f"agreement/{row.model}/{row.label}"
        rows.append(
            [
                page.heading(row.label),
                page.text(row.model),
                page.count(row.num_cases),
                page.cell(row.mean_ml, sign=True, key=f"{key}/mean_ml"),
                page.cell(row.lower_ml, sign=True, key=f"{key}/lower_ml"),
                page.cell(row.upper_ml, sign=True, key=f"{key}/upper_ml"),
            ]
        )
        if row.label not in labels:
            continue
        points = [
            (s.case, (s.reference_ml + s.prediction_ml) / 2, s.volume_difference_ml)
            for s in study.evaluations[row.model].scores
            if s.label == row.label and s.status != "absent"
        ]
        title = row.label if len(study.models) == 1 else f"{row.label}, {row.model}"
        chart = agreement_plot(
            points,
            title=f"Agreement of volumes, {title}",
            colour=n % NUM_COLOURS,
            mean=row.mean_ml,
            limits=(row.lower_ml, row.upper_ml),
        )
        figures.append(page.figure(chart, title))
    body = f'<div class="grid">{"".join(figures)}</div>' if figures else ""
    if rows:
        body += page.table(
            ["structure", "model", "cases", "mean difference ml", "lower limit ml",
             "upper limit ml"],
            rows,
            caption="Prediction minus reference, with limits of agreement (1.96 standard "
            "deviations)",
        )  # fmt: skip
    return Section("agreement", "Agreement of volumes", body)


def groups_section(study: Study) -> Section:
    """Means of subgroups."""
    cells: dict[tuple[str, str, str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str, str, str], int] = {}
    for row in study.tables.groups:
        place = (row.grouping, row.group, row.label, row.model)
        digits = 2 if row.metric.endswith("_mm") else 3
        cells.setdefault(place, {})[row.metric] = page.cell(
            row.mean,
            digits=digits,
            sign=row.metric.startswith("relative"),
            interval=(row.low, row.high),
            key=f"groups/{row.model}/{row.grouping}/{row.group}/{row.label}/{row.metric}",
        )
        counts[place] = max(counts.get(place, 0), row.num_cases)
    if not cells:
        return Section("groups", "Subgroups", "")
    metrics = list(next(iter(cells.values())))
    rows = [
        [
            page.heading(place[0]),
            *(page.text(part) for part in place[1:]),
            page.count(counts[place]),
            *(found[metric] for metric in metrics),
        ]
        for place, found in sorted(cells.items(), key=lambda item: _group_order(item[0], study))
    ]
    body = page.table(
        ["grouped by", "group", "structure", "model", "cases", *(_NAMES[m] for m in metrics)],
        rows,
        caption="Mean with its bootstrap interval; few cases make wide intervals",
        is_tall=len(rows) > 20,
    )
    return Section("groups", "Subgroups", body)


def _group_order(place: tuple[str, str, str, str], study: Study) -> tuple[int, ...]:
    """By grouping, structure, group and model, each in the order of the tables."""
    first: dict[tuple[int, str], int] = {}
    for n, row in enumerate(study.tables.groups):
        for m, part in enumerate((row.grouping, row.label, row.group, row.model)):
            first.setdefault((m, part), n)
    grouping, group, label, model = place
    return tuple(first[m, part] for m, part in enumerate((grouping, label, group, model)))


def confusion_section(study: Study) -> Section:
    """What was taken for what, in voxels."""
    tables = []
    names = study.labels.names
    for model in study.models:
        found = {
            (row.reference, row.prediction): row
            for row in study.tables.confusion
            if row.model == model
        }
        if not found or len(names) > 30:
            continue
        rows = []
        for reference in names:
            row = [page.heading(reference)]
            for prediction in names:
                entry = found[reference, prediction]
                share = 0.0 if entry.share != entry.share else entry.share
                row.append(
                    f'<td class="heat" style="--share: {share:.4f}" data-value="{entry.voxels}" '
                    f'data-key="confusion/{model}/{reference}/{prediction}/voxels">'
                    f"{share:.1%}<small>{entry.voxels:,}</small></td>"
                )
            rows.append(row)
        caption = "Share of the reference's voxels (rows) by predicted class (columns)"
        caption += f", {model}" if len(study.models) > 1 else ""
        tables.append(page.table(["reference", *names], rows, caption=caption))
    return Section("confusion", "Confusion", "".join(tables))


def calibration_section(study: Study) -> Section:
    """How often models are right at each confidence."""
    curves: dict[str, tuple[int, list[tuple[float, float, float]]]] = {}
    rows = []
    for n, model in enumerate(study.models):
        found = [row for row in study.tables.calibration if row.model == model]
        if not found:
            continue
        total, *bins = found
        curves[model] = (
            n % NUM_COLOURS,
            [(row.confidence, row.right, row.voxels / total.voxels) for row in bins],
        )
        rows.append(
            [
                page.heading(model),
                page.count(total.voxels),
                page.cell(total.confidence, key=f"calibration/{model}/confidence"),
                page.cell(total.right, key=f"calibration/{model}/right"),
                page.cell(
                    total.expected_calibration_error,
                    digits=4,
                    key=f"calibration/{model}/expected_calibration_error",
                ),
                page.cell(total.brier, digits=4, key=f"calibration/{model}/brier"),
            ]
        )
    if not curves:
        return Section("calibration", "Calibration", "")
    chart = page.figure(
        reliability_plot(curves, title="Calibration"),
        "Share of voxels that are right against the probability of the likeliest class; the area "
        "of a point stands for its voxels. On the dashed line probabilities are what they say.",
    )
    table = page.table(
        ["model", "voxels", "mean confidence", "share right", "ECE", "Brier"],
        rows,
        caption="Voxels in the box around the reference, grown by a fifth on each side",
    )
    colours = legend({model: colour for model, (colour, _) in curves.items()})
    return Section(
        "calibration", "Calibration", f'{colours}<div class="grid">{chart}<div>{table}</div></div>'
    )
