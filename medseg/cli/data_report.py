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
from medseg.sources.image_files import find_files

_MOST_LISTED = 30


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
            findings += _dicom_findings(index_folder(folder))
        except InputError as error:
            findings.append(finding_of(error))
    return findings


def _case_findings(source: Source, labels: LabelSet | None) -> list[Finding]:
    cases, description = source.cases(), source.describe()
    labels = labels or description.labels
    with_reference = sum(case.read_reference is not None for case in cases)
    held_out = sum(case.is_held_out for case in cases)
    patients = len({case.patient for case in cases})
    findings = [
        Finding(
            "cases",
            f"{len(cases)} of {patients} patients; {with_reference} with a reference, "
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
    accepted = {"E_NO_LABEL", "E_CHANNELS"} if is_unlabelled else set()
    findings += [
        Finding(
            problem.key,
            f"{problem.what}; {problem.remedy}" if problem.remedy else problem.what,
            Severity.PROBLEM if problem.severity == "error" else Severity.NOTE,
        )
        for problem in check_source(source, labels)
        if problem.code not in accepted
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
                f"{len(volume.series.paths)} files",
            )
        )
    if len(index.volumes) > _MOST_LISTED:
        findings.append(Finding("...", f"and {len(index.volumes) - _MOST_LISTED} more volumes"))
    refused = [finding_of(error) for error in index.refused]
    findings += [
        replace(finding, subject=_below(Path(finding.subject), index.root)) for finding in refused
    ]
    reasons = Counter(item.reason for item in index.left_out)
    findings += [
        Finding(
            f"{count} {'file' if count == 1 else 'files'}", f"left out: {reason}", Severity.NOTE
        )
        for reason, count in reasons.most_common()
    ]
    return findings


def _holds_dicom(folder: Path) -> bool:
    files = [folder] if folder.is_file() else find_files(folder)
    return any(may_be_dicom(path) for path in files)


def _below(path: Path, root: Path) -> str:
    try:
        return str(path.relative_to(root))
    except ValueError:
        return str(path)
