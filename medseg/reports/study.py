"""Everything a report of one or several models on the same cases is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.inference.ensemble import BundleGroup
from medseg.reports.case_facts import CaseFacts, look_at_case
from medseg.reports.evaluation import Evaluation
from medseg.reports.groups import Grouping, groupings_of, summarise_groups
from medseg.reports.label_files import LabelFiles, find_predictions, find_references
from medseg.reports.report_tables import (
    ReportTables,
    agreement_rows,
    calibration_rows,
    compare_models,
    confusion_rows,
    group_rows,
    settings_of,
)
from medseg.reports.score_tables import bundle_facts
from medseg.reports.unlike_training import unlike_training
from medseg.sources.folder import Folder

_NUM_THREADS = 4
_MOST_CLASSES = 255


@dataclass(frozen=True, eq=False)
class Study:
    """Models, scored on the same references.

    Args:
        evaluations: by name of the model, in the order given.
        labels: classes.
        references: label maps by case.
        predictions: label maps by case, by model.
        images: cases whose images can be shown, by key.
        facts: of every case that was scored.
        tables: computed from all that.
        unlike: why cases are unlike the training of the bundle.
        model: facts about the bundle; None without one.
        notes: what a reader must know besides.
    """

    evaluations: Mapping[str, Evaluation]
    labels: LabelSet
    references: LabelFiles
    predictions: Mapping[str, LabelFiles]
    images: Mapping[str, Case]
    facts: tuple[CaseFacts, ...]
    tables: ReportTables
    unlike: Mapping[str, Sequence[str]] = field(default_factory=dict)
    model: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.evaluations)

    @property
    def cases(self) -> list[str]:
        """Keys of the cases that any model was scored on, sorted."""
        return sorted({score.case for e in self.evaluations.values() for score in e.scores})


def model_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder of predictions: its own, with its parents' where that repeats,
    without what all of them end with (`a/predictions` and `b/predictions` are a and b).

    Raises:
        ConfigError: a folder is given twice.
    """
    places = [folder.expanduser().resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError("predictions", f"names {place} twice", "name each folder once")
    paths = [place.parts for place in places]
    while len(paths) > 1 and len({path[-1] for path in paths}) == 1 and min(map(len, paths)) > 2:
        paths = [path[:-1] for path in paths]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["_".join(part.strip("/") for part in path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def gather(
    evaluations: Mapping[str, Evaluation],
    *,
    predictions: Mapping[str, Path],
    references: Path,
    labels: LabelSet | None,
    images: Path | None = None,
    groups: Sequence[Grouping] = (),
    bundle: ModelBundle | BundleGroup | None = None,
    on_start: Callable[[int], object] | None = None,
    on_progress: Callable[[], object] | None = None,
) -> Study:
    """Looks at every case once more and computes the tables.

    Args:
        evaluations: scores by name of the model.
        predictions: folders that were scored, by the same names.
        references: folder that they were scored against.
        labels: classes; None numbers those that the scores name.
        images: folder of the images; None takes those of the references' data set if it has some.
        groups: subgroups besides those by scanner, spacing and size.
        bundle: model, or several that segment together, whose training the images are compared
            with.
        on_start, on_progress: called with the number of cases, and after each.
    """
    referred = find_references(references)
    labels = labels or referred.labels or _numbered(evaluations)
    found = {name: find_predictions(folder) for name, folder in predictions.items()}
    shown, notes = _images(referred, images)
    keys = sorted({score.case for e in evaluations.values() for score in e.scores})
    if on_start is not None:
        on_start(len(keys))

    def look(key: str) -> CaseFacts:
        paths = {name: files.paths[key] for name, files in found.items() if key in files.paths}
        result = look_at_case(key, referred.paths[key], paths, labels=labels, image=shown.get(key))
        if on_progress is not None:
            on_progress()
        return result

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        facts = tuple(pool.map(look, keys))
    first = next(iter(evaluations.values()))
    groupings = groupings_of(facts, first.scores, groups)
    settings = settings_of(evaluations)
    tables = ReportTables(
        compare_models(evaluations),
        group_rows(
            {
                name: summarise_groups(evaluation.scores, groupings, settings=settings)
                for name, evaluation in evaluations.items()
            }
        ),
        agreement_rows(evaluations),
        confusion_rows(facts, list(evaluations), labels),
        calibration_rows(facts, list(evaluations)),
    )
    return Study(
        evaluations,
        labels,
        referred,
        found,
        shown,
        facts,
        tables,
        unlike_bundle(facts, bundle),
        bundle_facts(bundle),
        tuple(notes),
    )


def unlike_bundle(
    facts: Sequence[CaseFacts], bundle: ModelBundle | BundleGroup | None
) -> dict[str, list[str]]:
    """Why cases are unlike the training of a bundle, or of any of several, by case key."""
    if not isinstance(bundle, BundleGroup):
        return {} if bundle is None else unlike_training(facts, bundle)
    reasons: dict[str, list[str]] = {}
    for one in bundle.bundles:
        for key, found in unlike_training(facts, one).items():
            reasons.setdefault(key, []).extend(f"{reason} ({one.name})" for reason in found)
    return reasons


def _images(references: LabelFiles, images: Path | None) -> tuple[dict[str, Case], list[str]]:
    """Cases by key; none, with a note, where nothing says where the images are."""
    if images is not None:
        return {case.key: case for case in Folder(str(images)).cases()}, []
    root = references.folder.expanduser().resolve()
    if references.is_dataset:
        if root.name.startswith("labels") and (root.parent / "dataset.json").is_file():
            root = root.parent
        try:
            return {case.key: case for case in Folder(str(root)).cases()}, []
        except MedsegError:
            return {}, ["the images of the data set cannot be read, so that none are shown"]
    return {}, ["no images were given (images=<folder>): outlines lie on black"]


def _numbered(evaluations: Mapping[str, Evaluation]) -> LabelSet:
    highest = max((s.class_id for e in evaluations.values() for s in e.scores), default=1)
    if highest > _MOST_CLASSES:
        raise ConfigError(
            "labels",
            f"are not given, and the label maps hold numbers up to {highest}",
            "name them with bundle=<folder> or labels={background: 0, ...}",
        )
    return LabelSet.from_names(["background", *(f"label_{n}" for n in range(1, highest + 1))])
