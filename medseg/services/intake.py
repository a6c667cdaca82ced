"""From files to jobs: the studies below a folder, and the series of a study for each model."""

from __future__ import annotations

import glob
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, OutputError
from medseg.dicom.archives import is_archive
from medseg.services.jobs import Job, NewJob, job_key
from medseg.services.ledger import Ledger
from medseg.services.models import ModelRecipe
from medseg.services.reader import FoundSeries, Reader, Refusal
from medseg.services.reading import DETACHED, plain_series, series_of
from medseg.sources.image_files import file_key, find_files, image_files

_SPLIT_ON = frozenset({"E_READER_CRASH", "E_READER_TIME", "E_READER_MEMORY"})


@dataclass(frozen=True)
class StudyFolder:
    """What is taken for one study: a folder and all below it, an archive, or loose files.

    Args:
        path: folder or archive.
        root: folder that names of cases are relative to.
        is_loose: only the files in the folder itself.
        fingerprint: changes when a file is added, removed or written.
        is_empty: nothing in it could be read: an empty folder, or a link, pipe or device.
    """

    path: Path
    root: Path
    is_loose: bool
    fingerprint: str
    is_empty: bool = False


def find_studies(root: Path, *, inside: Path | None = None) -> Iterator[StudyFolder]:
    """The studies below a folder: each folder and archive in it, and the other files together.

    A link, pipe or device in it is one too, so that it is told of; it is never followed or opened.
    Files whose names begin with a dot are left alone.

    Args:
        root: what names are relative to.
        inside: look here instead, at or below the root.
    """
    folder = inside or root
    loose: list[tuple[str, int, int]] = []
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            listed = list(_listing(path))
            yield StudyFolder(path, root, False, job_key(listed), is_empty=not listed)
        elif stat.S_ISREG(found.st_mode):
            facts = (entry.name, found.st_size, found.st_mtime_ns)
            if is_archive(path):
                yield StudyFolder(path, root, False, job_key(facts))
            else:
                loose.append(facts)
        else:
            facts = (entry.name, found.st_mode, found.st_mtime_ns)
            yield StudyFolder(path, root, False, job_key(facts), is_empty=True)
    if loose:
        yield StudyFolder(folder, root, True, job_key(loose))


def find_images(root: Path) -> Iterator[StudyFolder]:
    """The image files below a folder that are no DICOM (NIfTI, NRRD, MetaImage), each by itself."""
    for path in image_files(find_files(root)):
        parts = [path]
        if path.name.lower().endswith(DETACHED):
            parts = sorted(path.parent.glob(f"{glob.escape(file_key(path))}.*"))
        facts = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
        yield StudyFolder(path, root, False, job_key(facts))


def recipes_of(models: Mapping[str, ModelRecipe], reading: Mapping[str, Any]) -> list[str]:
    """Of the jobs that these models are for: a study's, and those of series."""
    several = list(models.values())
    return [_study_recipe(several, reading), *(job_key(_identity(model)) for model in several)]


def study_job(
    study: StudyFolder, models: Sequence[ModelRecipe], reading: Mapping[str, Any]
) -> NewJob:
    """The job of looking into a study, for these models and options of reading."""
    place = str(study.path.absolute())
    recipe = _study_recipe(models, reading)
    key = job_key("study", place, study.is_loose, study.fingerprint, recipe)
    source: dict[str, Any] = {
        "path": place,
        "root": str(study.root.absolute()),
        "is_loose": study.is_loose,
    }
    if study.is_empty:
        source["is_empty"] = True
    return NewJob("study", key, f"study_{key[:12]}", source, recipe=recipe)


def require_apart(root: Path, apart: Sequence[Path]) -> None:
    """Raises an OutputError if a path that is written to lies in the folder of the input."""
    for path in apart:
        if root.resolve() in (path.resolve(), *path.resolve().parents):
            raise OutputError(
                path,
                f"lies in {root}, whose studies are to be segmented: results would be taken for "
                "input",
                "set paths.output and paths.ledger to places outside source.folder",
                code="E_OUTPUT_HOLDS_INPUT",
            )


def receive_studies(
    root: Path,
    *,
    ledger: Ledger,
    models: Sequence[ModelRecipe],
    reading: Mapping[str, Any],
) -> list[str]:
    """Adds every study below a folder that the ledger does not know.

    One that was set aside and has other files now, or is read with other options, takes the place
    of the old one.

    Args:
        root: folder.
        ledger: that receives them.
        models: that the studies are for.
        reading: options of reading; with "images" every image file is one study.

    Returns:
        Keys of all studies that are there.

    Raises:
        InputError: the folder cannot be listed.
    """
    found = find_images(root) if reading.get("images") else find_studies(root)
    jobs = [study_job(study, models, reading) for study in found]
    with ledger.transaction() as connection:
        for job in jobs:
            if ledger.receive(job):
                connection.execute(
                    "UPDATE jobs SET state = 'done', note = ? "
                    "WHERE state = 'quarantined' AND kind = 'study' AND key <> ? "
                    "AND json_extract(source, '$.path') = ? "
                    "AND json_extract(source, '$.is_loose') = ?",
                    (
                        f"replaced by {job.name}",
                        job.key,
                        job.source["path"],
                        job.source["is_loose"],
                    ),
                )
    return [job.key for job in jobs]


def look_into(
    job: Job,
    *,
    ledger: Ledger,
    reader: Reader,
    models: Sequence[ModelRecipe],
    reading: Mapping[str, Any],
    kept: Path,
) -> str:
    """Splits a study into one job for each series and model, or sets it aside.

    Args:
        job: a study, leased.
        ledger: that holds it.
        reader: asked for its series.
        models: that series may be for.
        reading: options of reading, for parts of the study.
        kept: where members of archives stay until their jobs are done.

    Returns:
        What became of it, in a few words.
    """
    path, root = Path(job.source["path"]), Path(job.source["root"])
    is_loose = bool(job.source.get("is_loose"))
    refusal = _refused_unopened(path)
    if refusal is not None:
        _set_aside(ledger, job, [refusal])
        return refusal.code
    # Nothing has come for a study that was announced, or its files have been taken away since.
    if path.is_dir() and not any(_listing(path)) and not job.source.get("is_empty"):
        ledger.split(job, [], note="holds no files")
        return "holds no files"
    try:
        found, refused = reader.index(path, root=root, is_loose=is_loose, keep=kept / job.key[:32])
    except InputError as error:
        parts = _parts(path, root, is_loose) if error.code in _SPLIT_ON else []
        if len(parts) > 1:
            # What ends the reading process lies in one of the parts; the others go on.
            ledger.split(job, [study_job(part, models, reading) for part in parts])
            return "looked at in parts"
        refused, found = [Refusal(error.code, _sentence(error), error.where)], []
    jobs = [
        series_job(series, model, len(models), path)
        for series in found
        for model in models
        if model.rule.fits(series.facts)
    ]
    if refused and (not found or job.source.get("is_remainder")):
        _set_aside(ledger, job, refused)
        return refused[0].code
    known = _known(ledger, jobs)
    note = "no model is for any of its series" if not jobs else ""
    if known:
        note = f"holds the same images as {', '.join(known)}"
    with ledger.transaction():
        if refused:
            remainder = NewJob(
                "study",
                job_key("remainder", job.key),
                f"{job.name}_rest",
                {**job.source, "is_remainder": True},
                recipe=_study_recipe(models, reading),
            )
            ledger.add_quarantined(
                job,
                remainder,
                code=refused[0].code,
                sentence=_listed(refused),
                place=refused[0].place,
            )
        ledger.split(job, jobs, note=note)
    return note or f"{len(jobs)} series"


def _refused_unopened(path: Path) -> Refusal | None:
    """Why a path is not even opened: a link leads elsewhere, and reading a pipe may never end."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return None
    what = "is a link, and links are not followed" if stat.S_ISLNK(mode) else "is no regular file"
    return Refusal("E_NO_IMAGES", f"{what}; give a folder with images", str(path))


def forget_unpacked(job: Job, *, ledger: Ledger, kept: Path) -> None:
    """Removes what an archive was unpacked to once the last job of its study is done."""
    if not kept.is_dir() or job.parent is None:
        return
    rows = ledger.query(
        "SELECT key, (SELECT count(*) FROM jobs WHERE parent = study.id AND state <> 'done') "
        "FROM jobs AS study WHERE id = ?",
        (job.parent,),
    )
    for key, num_left in rows:
        if not num_left:
            shutil.rmtree(kept / str(key)[:32], ignore_errors=True)


def series_job(series: FoundSeries, model: ModelRecipe, num_models: int, path: Path) -> NewJob:
    """The job of segmenting a series with a model; the same for the same images and options."""
    return NewJob(
        "series",
        job_key("series", *series.identity, _identity(model)),
        series.key if num_models == 1 else f"{series.key}_{model.name}",
        {"path": str(path), "series": plain_series(series.series)},
        model.name,
        job_key(_identity(model)),
    )


def _known(ledger: Ledger, jobs: Sequence[NewJob]) -> list[str]:
    """Names of those that the ledger has already, from another place or an earlier delivery."""
    found = [ledger.query("SELECT name FROM jobs WHERE key = ?", (job.key,)) for job in jobs]
    return [str(rows[0][0]) for rows in found if rows]


def series_in(job: Job) -> Any:
    """The series of a job."""
    return series_of(job.source["series"])


def _study_recipe(models: Sequence[ModelRecipe], reading: Mapping[str, Any]) -> str:
    return job_key([_identity(model) for model in models], reading)


def _identity(model: ModelRecipe) -> list[str]:
    return [model.name, model.sha256, model.config_hash]


def _set_aside(ledger: Ledger, job: Job, refused: Sequence[Refusal]) -> None:
    ledger.quarantine(job, code=refused[0].code, sentence=_listed(refused), place=refused[0].place)


def _listed(refused: Sequence[Refusal]) -> str:
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"{refused[0].sentence}{more}"


def _sentence(error: InputError) -> str:
    return f"{error.what}; {error.remedy}" if error.remedy else error.what


def _parts(path: Path, root: Path, is_loose: bool) -> list[StudyFolder]:
    """The folders and loose files of a study, one by one."""
    if is_loose or path.is_file():
        return []
    found = find_studies(root, inside=path)
    return [replace(part, root=root) for part in found if not part.is_empty]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            folder, f"cannot be listed ({error.strerror})", "check the path", code="E_NO_FOLDER"
        ) from error


def _listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of everything below a folder that is no folder, in order."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)  # noqa: PTH118
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                found.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
    yield from sorted(found)
