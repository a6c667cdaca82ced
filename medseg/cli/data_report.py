"""What a folder of images holds, what is unusable in it, and why; the doctor's page on data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from medseg.cli.findings import Finding, Severity, finding_of
from medseg.core.errors import InputError, MedsegError
from medseg.core.labels import LabelSet
from medseg.core.protocols import Source
from medseg.data.check import check_source
from medseg.dicom.headers import DicomIndex, index_folder
from medseg.sources.dicom_files import may_be_dicom
from medseg.sources.dicom_folder import DicomFolder
from medseg.sources.dicom_labels import find_references
from medseg.sources.folder import Folder
from medseg.sources.image_files import find_files

_MOST_LISTED = 30
_KINDS = {"dicom_seg": "segmentations", "rtstruct": "structure sets"}


def source_findings(source: Source, folder: Path, *, labels: LabelSet | None) -> list[Finding]:
    """Cases of a source and what is wrong with each, then DICOM series and files left out.

    Args:
        source: lists the cases; every one is read.
        folder: where the source looks.
        labels: classes that references may hold; None takes those the source knows.
    """
    try:
        findings = _case_findings(source, labels)
    except MedsegError as error:
        findings = [finding_of(error)]
    if folder.exists() and _holds_dicom(folder):
        try:
            index = _index(source, folder)
            # What all series were refused for is told below, series by series.
            findings = [f for f in findings if not _repeats(f, index)] + _dicom_findings(index)
        except InputError as error:
            findings.append(finding_of(error))
    return findings


def _index(source: Source, folder: Path) -> DicomIndex:
    """The folder's DICOM volumes under the rules of the source, where it has rules for them."""
    if isinstance(source, DicomFolder | Folder):
        return index_folder(folder, on_gap=source.on_gap, trust_positions=source.trust_positions)
    return index_folder(folder)


def _repeats(finding: Finding, index: DicomIndex) -> bool:
    return bool(index.refused) and all(error.what in finding.text for error in index.refused)


def _case_findings(source: Source, labels: LabelSet | None) -> list[Finding]:
    cases, description = source.cases(), source.describe()
    labels = labels or description.labels
    with_reference = sum(case.read_reference is not None for case in cases)
    held_out = sum(case.is_held_out for case in cases)
    patients = len({case.patient for case in cases})
    findings = [
        Finding(
            "cases",
            f"{len(cases)}, of {patients} patients; {with_reference} with a reference, "
            f"{held_out} held out",
        )
    ]
    if labels is not None:
        findings.append(Finding("labels", ", ".join(labels.names)))
    if description.channel_names:
        findings.append(Finding("channels", ", ".join(description.channel_names)))
    if description.notice:
        findings.append(Finding("notice", description.notice, Severity.NOTE))
    # Images without any label are there to be predicted, each on its own.
    is_unlabelled = with_reference == 0 and not description.orphan_labels
    # Of a hospital's studies only some were drawn on; training leaves the others out.
    undrawn = {case.key for case in cases if case.series and case.read_reference is None}
    if undrawn and not is_unlabelled:
        findings.append(
            Finding(
                f"{len(undrawn)} series",
                "have no segmentation object; training leaves them out",
                Severity.NOTE,
            )
        )
    findings += [
        Finding(
            problem.key,
            f"{problem.what}; {problem.remedy}" if problem.remedy else problem.what,
            Severity.PROBLEM if problem.severity == "error" else Severity.NOTE,
        )
        for problem in check_source(source, labels)
        if problem.code not in ("E_NO_LABEL", "E_CHANNELS")
        or not (is_unlabelled or problem.key in undrawn)
    ]
    return findings


def _dicom_findings(index: DicomIndex) -> list[Finding]:
    findings = []
    for volume in index.volumes[:_MOST_LISTED]:
        shape = "x".join(map(str, volume.geometry.shape))
        spacing = " x ".join(f"{mm:.3g}" for mm in volume.geometry.spacing_mm)
        name = f", {volume.name}" if volume.name else ""
        findings.append(
            Finding(
                _below(volume.folder, index.root),
                f"{volume.series.modality}{name}: {shape} voxels of {spacing} mm, "
                f"{_files(len(volume.series.paths))}",
            )
        )
    if len(index.volumes) > _MOST_LISTED:
        findings.append(Finding("...", f"and {len(index.volumes) - _MOST_LISTED} more volumes"))
    # A damaged file refuses every series beside it, each with the same words.
    repeated = Counter((error.where, finding_of(error)) for error in index.refused)
    for (where, finding), count in repeated.items():
        series = f" (refuses {count} series)" if count > 1 else ""
        findings.append(
            replace(finding, subject=_below(where, index.root), text=finding.text + series)
        )
    return findings + _left_out(index)


def _left_out(index: DicomIndex) -> list[Finding]:
    """Files that are no images: those that are references of a series, and the others by reason."""
    references = find_references(index)
    used = [file for files in references.by_volume for file in files]
    findings = [
        Finding(_files(count), f"{name} drawn on a series here; data.labels={kind} trains on them")
        for kind, name in _KINDS.items()
        if (count := sum(file.kind == kind for file in used))
    ]
    reasons = Counter(f"a segmentation that {item.reason}" for item in references.unmatched)
    drawn = set(map(str, index.segmentations))
    names = {index.files.names.get(path, path) for path in index.segmentations}
    drawn |= set(map(str, names))
    reasons += Counter(item.reason for item in index.left_out if str(item.path) not in drawn)
    findings += [
        Finding(_files(count), f"left out: {reason}", Severity.NOTE)
        for reason, count in reasons.most_common()
    ]
    return findings


def _holds_dicom(folder: Path) -> bool:
    files = [folder] if folder.is_file() else find_files(folder)
    return any(may_be_dicom(path) for path in files)


def _below(path: str | Path, root: Path) -> str:
    """What stands behind the root in a path, or in a path followed by more words."""
    text, start = str(path), str(root)
    if not text.startswith(start) or text[len(start) :][:1] not in ("", "/", " "):
        return text
    return text[len(start) :].lstrip("/ ") or "."


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
