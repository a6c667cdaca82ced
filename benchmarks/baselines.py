"""Classical methods beside trained networks, on cases that neither has seen.

    python benchmarks/baselines.py --data DIR [--minutes 3] [--folder runs/baselines]

DIR holds us_nerves_usgra (images/ and masks/) and nuclei_dsb2018 (images/ and instances/); the
phantom CT is made. Every fourth picture of the nerves, every eighth of the nuclei and 8 phantoms
made from another seed are scored; networks and baselines learn from the others. All is done with
the public commands: `train` once for each data set (a plain U-Net, whose connected parts are cut
into objects as those of the baselines), `evaluate baseline=NAME fit_on=...` for each method. What
is there already is left alone, so that the script goes on where it was stopped; it ends by printing
the tables, with a dash for what has not been measured.

A training stops after --minutes of processor time of one thread, however busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from medseg.baselines.objects import split_touching
from medseg.baselines.predictor import Baseline
from medseg.baselines.thresholding import Otsu
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet
from medseg.sources.label_maps import read_label_map
from medseg.sources.picture_io import read_picture
from medseg.writers.instance_files import write_instances

BASELINES = (
    "threshold", "otsu", "multi_otsu", "histogram", "kmeans", "edges", "superpixels", "saliency",
)  # fmt: skip
SMALLEST_PIXELS = 20
_ON_PROCESSOR_TIME = (
    "import sys, time; time.monotonic = time.process_time; "
    "from medseg.cli.commands import main; sys.exit(main())"
)


@dataclass(frozen=True)
class DataSet:
    """What is learnt from and what is scored.

    Args:
        name: of its folder.
        options: of `train`.
        finds_objects: True if objects are scored besides.
    """

    name: str
    options: tuple[str, ...]
    finds_objects: bool = False


DATA_SETS = (
    DataSet("phantom_ct", ("data=liver",)),
    DataSet("us_nerves_usgra", ("data=folder", "model.spatial_dims=2")),
    DataSet(
        "nuclei_dsb2018",
        ("data=nuclei", "model.spatial_dims=2", "plan.colour=rgb",
         "plan.normalisation=[{kind: zscore},{kind: zscore},{kind: zscore}]"),
        finds_objects=True,
    ),
)  # fmt: skip


def prepare(data_set: DataSet, data: Path, folder: Path) -> None:
    """Writes <folder>/train and <folder>/test."""
    if (folder / "test").is_dir():
        return
    if data_set.name == "phantom_ct":
        for part, count, seed in (("train", 24, 0), ("test", 8, 1000)):
            medseg("phantom", f"num_cases={count}", f"seed={seed}", f"paths.output={folder / part}")
        return
    every = 8 if data_set.finds_objects else 4
    for place in sorted(path for path in (data / data_set.name).iterdir() if path.is_dir()):
        for n, path in enumerate(sorted(place.iterdir())):
            part = folder / ("test" if n % every == every // 2 else "train") / place.name
            part.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, part)


def train(data_set: DataSet, folder: Path, *, minutes: float) -> Path:
    """The bundle of a U-Net that was trained for so long; it is measured by `evaluate`."""
    bundle = folder / "runs" / "unet" / "fold_0" / "bundle"
    if not bundle.is_dir():
        seconds = round(60 * minutes)
        medseg(
            "train",
            *data_set.options,
            f"data.source.folder={folder / 'train'}",
            "name=unet",
            f"trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}",
            f"paths.runs={folder / 'runs'}",
            f"paths.cache={folder / 'cache'}",
            "inference.tta=none",
            on_processor_time=True,
        )
    return bundle


def score_network(data_set: DataSet, folder: Path, bundle: Path) -> None:
    source = f"source.folder={folder / 'test'}"
    references = references_of(data_set, folder)
    out = folder / "scores" / "unet"
    evaluate(folder, "unet", f"bundle={bundle}", source, f"references={references}")
    if data_set.finds_objects:
        apart_mm = fitted_distance(folder)
        place = folder / "unet_objects"
        for path in sorted((out / "predictions").glob("*.nii.gz")):
            key = path.name.removesuffix(".nii.gz")
            found = split_touching(
                read_label_map(path, None), apart_mm=apart_mm, smallest_mm3=SMALLEST_PIXELS
            )
            write_instances(found, case_of(folder, key), folder=place)
        evaluate(folder, "unet_objects", f"predictions={place}", f"references={folder / 'test'}")


def score_baseline(data_set: DataSet, folder: Path, name: str) -> None:
    """Classes, and objects where there are some."""
    fitted = [f"baseline={name}", f"fit_on={folder / 'train'}", f"source.folder={folder / 'test'}"]
    references = references_of(data_set, folder)
    evaluate(folder, name, *fitted, f"references={references}")
    if data_set.finds_objects:
        objects = [*fitted, "baseline.task=instance", f"references={folder / 'test'}"]
        evaluate(folder, f"{name}_objects", *objects)


def score_recipe(folder: Path) -> None:
    """Objects of scikit-image's gallery example "Watershed segmentation" on Otsu's threshold: each
    peak of the distance transform in a window of 3 x 3 is a marker.
    """
    place = folder / "scikit_image"
    for path in sorted((folder / "test" / "images").iterdir()):
        volume = read_picture(path)
        mask = Baseline(Otsu()).predict_volume(volume).array[..., 0] > 0
        distance = ndimage.distance_transform_edt(mask)
        peaks = np.zeros(distance.shape, bool)
        found = peak_local_max(distance, footprint=np.ones((3, 3)), labels=mask.astype(int))
        peaks[tuple(found.T)] = True
        numbers = watershed(-distance, ndimage.label(peaks)[0], mask=mask)[..., None]
        objects = InstanceSet.from_map(numbers, volume.geometry)
        write_instances(objects, case_of(folder, path.stem), folder=place)
    evaluate(
        folder, "scikit_image_objects", f"predictions={place}", f"references={folder / 'test'}"
    )


def references_of(data_set: DataSet, folder: Path) -> Path:
    """Classes: of a data set with objects, where any object is."""
    if not data_set.finds_objects:
        return folder / "test"
    place = folder / "test_classes"
    if not place.is_dir():
        place.mkdir()
        for path in sorted((folder / "test" / "instances").iterdir()):
            numbers = read_picture(path)
            mask = (numbers.array[0, ..., 0].T > 0).astype(np.uint8)
            Image.fromarray(mask).save(place / path.name)
    return place


def case_of(folder: Path, key: str) -> Case:
    path = folder / "test" / "images" / f"{key}.png"
    return Case(key, lambda: read_picture(path), paths=(path,))


def fitted_distance(folder: Path) -> float:
    """How far objects are apart, as Otsu's baseline learnt it."""
    kept = folder / "scores" / "otsu_objects" / "predictions" / "baseline.yaml"
    return float(yaml.safe_load(kept.read_text())["apart_mm"])


def evaluate(folder: Path, name: str, *options: str) -> None:
    out = folder / "scores" / name
    if (out / "scores.json").is_file():
        return
    started = os.times()
    medseg("evaluate", *options, f"paths.output={out}")
    ended = os.times()
    spent = ended.children_user + ended.children_system
    spent -= started.children_user + started.children_system
    (out / "seconds.json").write_text(json.dumps(round(spent, 1)))
    print(f"{folder.name} {name}: {spent:.0f} s of processor time", flush=True)


def medseg(*words: str, on_processor_time: bool = False) -> None:
    start = ["-c", _ON_PROCESSOR_TIME] if on_processor_time else ["-m", "medseg"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, *words], env=environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 3):
        sys.exit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def table(folder: Path) -> str:
    """Markdown: Dice of each class, and AP and F1 of objects; dashes for what is not there."""
    lines = []
    methods: list[tuple[str, str]] = [("unet", "U-Net"), *((name, name) for name in BASELINES)]
    for data_set in DATA_SETS:
        place = folder / data_set.name
        first = read(place / "scores" / "otsu" / "scores.json")
        trained = place / "scores" / "unet" / "scores.json"
        labels = list((read(trained) if trained.is_file() else first)["labels"])
        heads = ["", *(f"{label} Dice" for label in labels)]
        if data_set.finds_objects:
            heads += ["AP at IoU 0.5", "AP 0.5 to 0.95", "F1 at IoU 0.5"]
        training = ""
        card = place / "runs/unet/fold_0/bundle/card.yaml"
        if card.is_file():
            training = f"; U-Net: {yaml.safe_load(card.read_text())['training']['steps']} steps"
        lines += [f"{data_set.name}, {first['num_cases']} cases{training}", ""]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, shown in methods:
            cells = [shown, *dice_cells(place / "scores" / name, len(labels))]
            if data_set.finds_objects:
                cells += object_cells(place / "scores" / f"{name}_objects")
            lines.append(f"| {' | '.join(cells)} |")
        if data_set.finds_objects:
            cells = object_cells(place / "scores" / "scikit_image_objects")
            lines.append(f"| scikit-image's recipe | - | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def dice_cells(folder: Path, num_labels: int) -> list[str]:
    """Of each class; the networks and the methods call the same classes by different names."""
    if not (folder / "scores.json").is_file():
        return ["-"] * num_labels
    entries = [found["dice"] for found in read(folder / "scores.json")["labels"].values()]
    return [
        f"{entry['mean']:.3f} ({entry['interval'][0]:.3f} to {entry['interval'][1]:.3f})"
        for entry in entries
    ]


def object_cells(folder: Path) -> list[str]:
    if not (folder / "scores.json").is_file():
        return ["-"] * 3
    (found,) = read(folder / "scores.json")["labels"].values()
    values = (found["ap50"], found["ap"], found["iou"]["0.50"]["f1"])
    return [f"{value:.3f}" for value in values]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/baselines"))
    arguments = parser.parse_args()
    for data_set in DATA_SETS:
        folder = arguments.folder.absolute() / data_set.name
        prepare(data_set, arguments.data, folder)
        for name in BASELINES:
            score_baseline(data_set, folder, name)
        if data_set.finds_objects:
            score_recipe(folder)
        score_network(data_set, folder, train(data_set, folder, minutes=arguments.minutes))
    print(table(arguments.folder.absolute()))


if __name__ == "__main__":
    main()
