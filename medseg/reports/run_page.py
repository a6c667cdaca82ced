"""The page of a training: curves, plan with reasons, what it learnt to see, what it ran on."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from medseg.core.atomic import write_text
from medseg.metrics.summary import Summary
from medseg.reports import page
from medseg.reports.charts import legend, line_plot
from medseg.reports.evaluation_sections import NUM_COLOURS
from medseg.reports.object_sections import scores_body

PAGE_NAME = "run.html"


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Args:
        caption: plain text.
        content: the bytes of the file.
        kind: "png" or "jpeg".
    """

    caption: str
    content: bytes
    kind: str = "jpeg"


@dataclass(frozen=True)
class RunFacts:
    """What the page says.

    Args:
        name: of the run.
        notice: what must be said about the data; "" if nothing.
        facts: large numbers at the top: value and word.
        summary: scores of the cases it did not train on; None if there are none.
        object_scores: the same where objects were scored, as scores.json holds them.
        summary_title: which cases these are.
        history: rows of history.csv.
        samples: predictions of one validation case over the training.
        plan: the plan's entries, and the reason for each that has one.
        reasons: by name of the entry.
        changes: option, default, value of what differs from the defaults.
        data: facts of the data set.
        labels: rows of its labels: name and facts.
        montage: training cases with their references.
        costs, environment, source: facts of time and memory, of the machine, and of the code.
        files: what else the run left, relative to the page.
    """

    name: str
    notice: str = ""
    facts: Sequence[tuple[str, str]] = ()
    summary: Summary | None = None
    object_scores: Mapping[str, Any] | None = None
    summary_title: str = ""
    history: Sequence[Mapping[str, str]] = ()
    samples: Sequence[Picture] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[tuple[str, str, str]] = ()
    data: Sequence[tuple[str, str]] = ()
    labels: Sequence[Mapping[str, Any]] = ()
    montage: Sequence[Picture] = ()
    costs: Sequence[tuple[str, str]] = ()
    environment: Sequence[tuple[str, str]] = ()
    source: Sequence[tuple[str, str]] = ()
    files: Sequence[str] = ()


def write_run_page(run: RunFacts, folder: Path) -> Path:
    """Writes run.html into a run's folder.

    Raises:
        OutputError: it cannot be written.
    """
    sections = [
        page.Section("scores", "Scores", _scores(run)),
        page.Section("curves", "Curves", _curves(run)),
        page.Section("samples", "What it saw over time", _samples(run)),
        page.Section("plan", "Plan", _plan(run)),
        page.Section("options", "Options", _changes(run)),
        page.Section("data", "Data", _data(run)),
        page.Section("costs", "Time and memory", _pairs(run.costs)),
        page.Section("environment", "Environment", _pairs([*run.environment, *run.source])),
        page.Section("files", "Files", _files(run)),
    ]
    intro = page.facts(run.facts) + (
        page.warning("About the data", [run.notice]) if run.notice else ""
    )
    path = folder / PAGE_NAME
    write_text(path, page.document(f"Training {run.name}", intro=intro, sections=sections))
    return path


def _scores(run: RunFacts) -> str:
    if run.object_scores is not None and run.object_scores["num_cases"]:
        return scores_body({"": run.object_scores}, about=f"{run.summary_title}: all objects")
    if run.summary is None or not run.summary.num_cases:
        return ""
    summary = run.summary
    labels = [*summary.labels, summary.overall] if len(summary.labels) > 1 else summary.labels
    rows = [
        [
            page.heading(label.label),
            page.count(label.statistics["dice"].num_cases),
            *(
                page.cell(
                    label.statistics[metric].mean,
                    digits=digits,
                    interval=(label.statistics[metric].low, label.statistics[metric].high),
                    key=f"summary/{label.label}/{metric}",
                )
                for metric, digits in (("dice", 3), ("nsd", 3), ("hd95_mm", 2), ("assd_mm", 2))
            ),
        ]
        for label in labels
    ]
    return page.table(
        ["structure", "cases", "Dice", "NSD", "HD95 mm", "ASSD mm"],
        rows,
        caption=f"{run.summary_title}: mean with its {summary.confidence:.0%} bootstrap interval",
    )


def _curves(run: RunFacts) -> str:
    if not run.history:
        return ""
    fixed = ("epoch", "step", "elapsed_s", "loss", "learning_rate", "memory_gib", "gpu_memory_gib")

    def curve(column: str) -> list[tuple[float, float]]:
        return [(float(row["step"]), float(row[column])) for row in run.history if row.get(column)]

    names = [name for name in run.history[-1] if name not in fixed and curve(name)]
    colours = {name: n % NUM_COLOURS for n, name in enumerate(names)}
    charts = [
        page.figure(
            line_plot({"loss": (0, curve("loss"))}, title="Loss", x_title="step", y_title="loss"),
            "Mean training loss of each epoch",
        ),
        page.figure(
            line_plot(
                {name: (colours[name], curve(name)) for name in names},
                title="Validation",
                x_title="step",
                y_title="validation score",
            ),
            "Score of the validation cases in network space",
        ),
        page.figure(
            line_plot(
                {"learning rate": (2, curve("learning_rate"))},
                title="Learning rate",
                x_title="step",
                y_title="learning rate",
            ),
            "Learning rate",
        ),
        page.figure(
            line_plot(
                {
                    name: (n, curve(column))
                    for n, (name, column) in enumerate(
                        (("process", "memory_gib"), ("GPU", "gpu_memory_gib"))
                    )
                },
                title="Memory",
                x_title="step",
                y_title="GiB",
            ),
            "Highest memory so far",
        ),
    ]
    return legend(colours) + f'<div class="grid">{"".join(charts)}</div>'


def _samples(run: RunFacts) -> str:
    if not run.samples:
        return ""
    about = page.paragraph("The same validation case: contours in the colours named above it.")
    return about + _gallery(run.samples)


def _gallery(pictures: Sequence[Picture]) -> str:
    figures = "".join(
        page.figure(
            f'<img alt="{escape(picture.caption)}" '
            f'src="data:image/{picture.kind};base64,{base64.b64encode(picture.content).decode()}">',
            picture.caption,
        )
        for picture in pictures
    )
    return f'<div class="grid gallery">{figures}</div>'


def _plan(run: RunFacts) -> str:
    rows = [
        [page.heading(name), page.text(_shown(value)), page.text(run.reasons.get(name, ""))]
        for name, value in run.plan.items()
        if name != "reasons" and value is not None
    ]
    return page.table(["entry", "value", "reason"], rows) if rows else ""


def _changes(run: RunFacts) -> str:
    if not run.changes:
        return page.paragraph("All options have their defaults.")
    rows = [
        [page.heading(name), page.text(default), page.text(value)]
        for name, default, value in run.changes
    ]
    return page.table(
        ["option", "default", "value"], rows, caption="What differs from the defaults"
    )


def _data(run: RunFacts) -> str:
    parts = [_pairs(run.data)]
    if run.labels:
        head = list(run.labels[0])
        rows = [
            [
                page.heading(str(row[name])) if n == 0 else page.text(_shown(row[name]))
                for n, name in enumerate(head)
            ]
            for row in run.labels
        ]
        parts.append(page.table(head, rows))
    if run.montage:
        parts.append("<h3>Training cases with their references</h3>" + _gallery(run.montage))
    return "".join(parts)


def _pairs(values: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values)
    return f"<dl>{items}</dl>" if items else ""


def _files(run: RunFacts) -> str:
    items = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in run.files)
    return f"<ul>{items}</ul>" if items else ""


def _shown(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - a dash of the width of digits
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(
            f"({_shown(entry)})" if isinstance(entry, list | tuple | Mapping) else _shown(entry)
            for entry in value
        )
    return str(value)
