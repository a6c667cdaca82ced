"""Abdominal CT phantoms as a data set, and the source that takes a folder where one is given."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import ConfigError, InputError, LabelError
from medseg.core.identity import Case, SeriesRef
from medseg.core.labels import LabelSet
from medseg.core.protocols import NamedReferences, SegmentationKind, Source, SourceDescription
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.sources.phantom_scan import PHANTOM_LABELS, make_phantom

NOTICE = "trained on synthetic phantoms, not for patients"

_TRAINING, _HELD_OUT = 0, 1


class Phantoms:
    """Synthetic abdominal CT with liver and tumours, made on the fly from a seed.

    Training cases exist in memory only and are drawn when read. Held-out cases are written once as
    DICOM CT series with NIfTI references and are read back from there, so that testing goes
    through the reader for real studies.

    Args:
        num_cases: training cases, phantom_000 and on.
        num_held_out: cases set aside for testing, unseen_000 and on, which share no phantom with
            training.
        seed: of the whole data set; at least 0.
        studies_folder: where the held-out studies are written; None keeps them in memory, without
            DICOM.
    """

    def __init__(
        self,
        num_cases: int = 32,
        num_held_out: int = 4,
        *,
        seed: int = 0,
        studies_folder: str | None = None,
    ) -> None:
        for name, value, least in (
            ("num_cases", num_cases, 0),
            ("num_held_out", num_held_out, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ConfigError(
                    f"source.{name}", f"is {value}, must be at least {least}", "use a whole number"
                )
        if num_cases + num_held_out == 0:
            raise ConfigError("source", "asks for no phantom at all", "set source.num_cases=32")
        self.num_cases = num_cases
        self.num_held_out = num_held_out
        self.seed = seed
        self.studies_folder = studies_folder

    def cases(self) -> list[Case]:
        training = [
            _in_memory(f"phantom_{number:03d}", self.seed, number, stream=_TRAINING)
            for number in range(self.num_cases)
        ]
        return sorted([*training, *self._held_out()], key=lambda case: case.key)

    def describe(self) -> SourceDescription:
        return SourceDescription(labels=PHANTOM_LABELS, channel_names=("CT",), notice=NOTICE)

    def _held_out(self) -> list[Case]:
        keys = tuple(f"unseen_{number:03d}" for number in range(self.num_held_out))
        if self.studies_folder is None:
            return [
                _in_memory(key, self.seed, number, stream=_HELD_OUT)
                for number, key in enumerate(keys)
            ]
        from medseg.sources.phantom_files import held_out_studies

        studies = held_out_studies(
            Path(self.studies_folder).expanduser(), keys=keys, seed=self.seed, stream=_HELD_OUT
        )
        return [_on_disk(study.key, study.series_paths, study.reference_path) for study in studies]


class FolderOrPhantoms:
    """The images below a folder, or phantoms where no folder is named.

    A folder that is named but missing is an error; phantoms never stand in for it.

    Args:
        folder: real data in any layout that `medseg.sources.folder.Folder` knows; None makes
            phantoms.
        num_cases, num_held_out, seed, studies_folder: of the phantoms, see `Phantoms`.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        num_cases: int = 32,
        num_held_out: int = 4,
        seed: int = 0,
        studies_folder: str | None = None,
    ) -> None:
        if folder is not None and not str(folder).strip():
            raise ConfigError(
                "source.folder",
                "is empty",
                "name a folder, or leave the option out to work on phantoms",
            )
        self.folder = folder
        self.phantoms = Phantoms(num_cases, num_held_out, seed=seed, studies_folder=studies_folder)

    def cases(self) -> list[Case]:
        return self._source().cases()

    def describe(self) -> SourceDescription:
        return self._source().describe()

    def labelled_by(self, labels: LabelSet | SegmentationKind | None) -> Source:
        """The same source, for training; of concern to a folder of DICOM."""
        source = self._source()
        if isinstance(source, NamedReferences):
            return source.labelled_by(labels)
        if isinstance(labels, str):
            raise LabelError(
                "data.labels",
                f"is {labels}, but phantoms have labels of their own",
                "set data.source.folder to a folder of DICOM studies",
            )
        return source

    def _source(self) -> Source:
        if self.folder is None:
            return self.phantoms
        if not Path(self.folder).expanduser().is_dir():
            raise InputError(
                self.folder,
                "there is no such folder",
                "correct source.folder, or leave it out to work on phantoms",
            )
        from medseg.sources.folder import Folder

        return Folder(folder=self.folder)


class _Drawing:
    """A phantom drawn on demand; the half that was not asked for is kept until it is asked for.

    Readers ask for image and reference one after the other, so each phantom is drawn once per pair.
    """

    def __init__(self, seed: int, number: int, *, stream: int) -> None:
        self.seed = seed
        self.number = number
        self.stream = stream
        self._kept: dict[str, Volume | LabelMap] = {}

    def image(self) -> Volume:
        kept = self._kept.pop("image", None)
        if isinstance(kept, Volume):
            return kept
        volume, self._kept["reference"] = self._draw()
        return volume

    def reference(self) -> LabelMap:
        kept = self._kept.pop("reference", None)
        if isinstance(kept, LabelMap):
            return kept
        self._kept["image"], label_map = self._draw()
        return label_map

    def _draw(self) -> tuple[Volume, LabelMap]:
        return make_phantom(self.seed, self.number, stream=self.stream)


def _in_memory(key: str, seed: int, number: int, *, stream: int) -> Case:
    drawing = _Drawing(seed, number, stream=stream)
    return Case(key, drawing.image, drawing.reference, is_held_out=stream == _HELD_OUT)


class _StudyOnDisk:
    """Reads a held-out phantom through the DICOM reader."""

    def __init__(self, series: SeriesRef, reference_path: Path) -> None:
        self.series = series
        self.reference_path = reference_path

    def image(self) -> Volume:
        from medseg.dicom.volumes import read_series

        return read_series(self.series)

    def reference(self) -> LabelMap:
        from medseg.sources.phantom_files import read_reference

        return read_reference(self.reference_path, PHANTOM_LABELS)


def _on_disk(key: str, series_paths: tuple[Path, ...], reference_path: Path) -> Case:
    from pydicom import dcmread

    header = dcmread(series_paths[0], stop_before_pixels=True)
    series = SeriesRef(
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        frame_of_reference_uid=str(header.FrameOfReferenceUID),
        modality=str(header.Modality),
        paths=series_paths,
    )
    study = _StudyOnDisk(series, reference_path)
    return Case(
        key,
        study.image,
        study.reference,
        series=series,
        paths=(*series_paths, reference_path),
        is_held_out=True,
    )
