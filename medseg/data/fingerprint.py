"""What a data set looks like: the facts of its cases, and what they are over all."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.errors import MAX_LISTED, InputError, raise_all
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.data.case_facts import CaseFingerprint, FactsFolder, Measured, measure_case, statistics
from medseg.data.check import CaseProblem
from medseg.data.readings import Readings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """Facts of a data set.

    Args:
        cases: one entry per case that is not held out.
        intensity: per channel mean, std, p0.5 and p99.5 of the pooled foreground samples.
    """

    cases: tuple[CaseFingerprint, ...]
    intensity: tuple[tuple[float, ...], ...]

    @property
    def num_channels(self) -> int:
        """Channels of the images; three where grey and colour pictures are mixed."""
        return max(case.num_channels for case in self.cases)

    @property
    def is_2d(self) -> bool:
        """True if every case has a single slice along k."""
        return all(case.shape[2] == 1 for case in self.cases)

    def summary(self, labels: LabelSet) -> dict[str, Any]:
        """What a person looks at first: ranges over all cases, and each class in turn."""
        shapes = np.array([case.shape for case in self.cases])
        spacings = np.array([case.spacing_mm for case in self.cases])
        classes = {}
        for label in labels.foreground:
            sizes = [c.class_voxels[label.class_id] for c in self.cases]
            mm3 = [n * float(np.prod(c.spacing_mm)) for n, c in zip(sizes, self.cases, strict=True)]
            present = [volume for volume in mm3 if volume > 0]
            parts = [c.components[label.class_id - 1] for c in self.cases if c.components]
            counts = [part.count for part in parts if part is not None]
            classes[label.name] = {
                "cases": len(present),
                "share_of_voxels": sum(sizes) / sum(int(np.prod(c.shape)) for c in self.cases),
                "median_mm3": float(np.median(present)) if present else None,
                "median_components": float(np.median(counts)) if counts else None,
                "smallest_component_mm3": min(
                    (part.smallest_mm3 for part in parts if part is not None), default=None
                ),
            }
        return {
            "cases": len(self.cases),
            "shape": _spread(shapes),
            "spacing_mm": _spread(spacings),
            "orientations": dict(Counter(case.orientation for case in self.cases)),
            "modalities": dict(Counter(case.modality for case in self.cases)),
            "channels": {
                f"{n} {kind}": count
                for (n, kind), count in Counter(
                    (case.num_channels, case.colours) for case in self.cases
                ).items()
            },
            "classes": classes,
        }

    def save(self, path: Path, *, labels: LabelSet | None = None) -> None:
        """Writes JSON: the summary (where labels are given), then what is pooled, then each case on
        a line of its own.
        """
        head: dict[str, Any] = {} if labels is None else {"summary": self.summary(labels)}
        head["intensity"] = self.intensity
        lines = ",\n".join(f"  {json.dumps(asdict(case))}" for case in self.cases)
        text = json.dumps(head, indent=1)
        write_text(path, f'{text[:-2]},\n "cases": [\n{lines}\n ]\n}}\n')

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        content = json.loads(path.read_text())
        return cls(
            tuple(CaseFingerprint.from_dict(case) for case in content["cases"]),
            tuple(tuple(row) for row in content["intensity"]),
        )


@dataclass(frozen=True)
class Measurement:
    """All measured cases, those that are held out included.

    Args:
        fingerprint: of the cases that count.
        cases: facts of all cases.
    """

    fingerprint: Fingerprint
    cases: tuple[CaseFingerprint, ...]


def measure(
    cases: Sequence[Case],
    labels: LabelSet,
    *,
    counted: Collection[str] | None = None,
    num_threads: int = 4,
    on_progress: Callable[[], None] | None = None,
    known: FactsFolder | None = None,
    readings: Readings | None = None,
) -> Measurement:
    """Measures every case that is not known yet; all bad cases are reported together.

    Args:
        cases: labelled cases.
        labels: their classes.
        counted: keys of the cases that enter the fingerprint, the others are only checked; None
            takes all.
        num_threads: cases read at once.
        on_progress: called after each case.
        known: where measured cases are kept between runs.
        readings: what is read here is kept there for whoever prepares the cases.

    Raises:
        InputError: `medseg.data.check` finds an error in a case, or channel numbers differ.
        OutputError: what was measured cannot be stored.
    """

    def one(case: Case) -> Measured:
        try:
            found = known.load(case) if known is not None else None
            if found is not None:
                return found
            found = measure_case(case, labels)
            if known is not None:
                known.store(case, found)
            if readings is not None and found.volume is not None and found.reference is not None:
                readings.keep(case.key, found.volume, found.reference)
            return Measured(found.problems, found.facts, found.samples)
        finally:
            if on_progress:
                on_progress()

    with ThreadPoolExecutor(num_threads) as pool:
        outcomes = list(pool.map(one, cases))
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    raise_all(
        [
            InputError(f"case {problem.key}", problem.what, problem.remedy, code=problem.code)
            for problem in problems
            if problem.severity == "error"
        ],
        where="data.source",
        what="problems with the cases",
    )
    _log_warnings(problems)
    measured = [(one.facts, one.samples) for one in outcomes if one.facts is not None]
    _refuse_mixed_channels([facts for facts, _ in measured])
    used = [
        (facts, samples) for facts, samples in measured if counted is None or facts.key in counted
    ]
    # Where grey and colour pictures are mixed, grey counts for each colour.
    width = max(len(samples) for _, samples in used)
    pooled = np.concatenate(
        [np.broadcast_to(samples, (width, samples.shape[1])) for _, samples in used], axis=1
    )
    fingerprint = Fingerprint(tuple(facts for facts, _ in used), statistics(pooled))
    return Measurement(fingerprint, tuple(facts for facts, _ in measured))


def _refuse_mixed_channels(cases: Sequence[CaseFingerprint]) -> None:
    """Only 2D pictures may differ: one channel is grey, three are its colours."""
    counts = sorted({case.num_channels for case in cases})
    is_pictures = counts == [1, 3] and all(
        case.shape[2] == 1 and (case.num_channels == 1 or case.colours != "grey") for case in cases
    )
    if len(counts) < 2 or is_pictures:
        return
    raise InputError(
        "data.source",
        f"cases have different numbers of channels: {counts}, such as "
        + " and ".join(
            next(f"{case.key} ({n})" for case in cases if case.num_channels == n) for n in counts
        ),
        "give every case the same channels",
        code="E_CHANNELS",
    )


def _log_warnings(problems: Sequence[CaseProblem]) -> None:
    """One line for each kind of problem that training can live with."""
    kinds: dict[str, list[CaseProblem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.code].append(problem)
    for alike in kinds.values():
        keys = ", ".join(problem.key for problem in alike[:MAX_LISTED])
        more = f" and {len(alike) - MAX_LISTED} more" if len(alike) > MAX_LISTED else ""
        logger.warning("%s: %s%s; %s", alike[0].what, keys, more, alike[0].remedy)


def _spread(rows: np.ndarray) -> dict[str, list[float]]:
    """Smallest, median and largest along each axis."""
    return {
        name: [float(f"{value:.6g}") for value in function(rows, axis=0)]
        for name, function in (("smallest", np.min), ("median", np.median), ("largest", np.max))
    }
