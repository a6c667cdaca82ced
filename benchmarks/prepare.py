"""Time and memory of `medseg prepare` on an empty cache, against nnU-Net's plan_and_preprocess.

python benchmarks/prepare.py FOLDER [--rounds 2] [--nnunet COMMAND] [--options "-c 3d_fullres"]

FOLDER is a Decathlon task with `experiment=hippocampus`'s layout. nnU-Net gets the same cases by
links, plans and preprocesses all its configurations unless its options say otherwise, and is left
out where its command is not found. Both run in turn, and their children are counted with them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

DATASET = "Dataset004_Hippocampus"


@dataclass(frozen=True)
class Cost:
    """What a command took, its children included; memory is that of its largest process."""

    wall_s: float
    cpu_s: float
    peak_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--nnunet", default="nnUNetv2_plan_and_preprocess")
    parser.add_argument("--options", default="", help="more options for nnU-Net")
    options = parser.parse_args()
    costs: dict[str, list[Cost]] = {"medseg": []}
    peer = shutil.which(options.nnunet)
    if peer is None:
        print(f"{options.nnunet} is not there, so medseg runs alone")
    else:
        costs["nnU-Net"] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            costs["medseg"].append(_medseg(options.folder, Path(folder)))
        if peer is not None:
            with tempfile.TemporaryDirectory() as folder:
                costs["nnU-Net"].append(
                    _nnunet(
                        [peer, "-d", "4", *options.options.split()], options.folder, Path(folder)
                    )
                )
    best = {name: _best(rounds) for name, rounds in costs.items()}
    for name, cost in best.items():
        print(
            f"{name}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} s of processors, "
            f"{cost.peak_gib:.2f} GiB (least of {options.rounds})"
        )
    if peer is not None:
        ours, theirs = best["medseg"], best["nnU-Net"]
        print(
            f"nnU-Net takes {theirs.wall_s / ours.wall_s:.1f} times as long and "
            f"{theirs.cpu_s / ours.cpu_s:.1f} times the processor time"
        )


def _medseg(task: Path, folder: Path) -> Cost:
    return _cost(
        [
            sys.executable, "-m", "medseg", "prepare", "+experiment=hippocampus",
            f"data.source.folder={task.resolve()}", f"paths.runs={folder / 'runs'}",
            f"paths.cache={folder / 'cache'}",
        ],
        dict(os.environ),
        folder,
    )  # fmt: skip


def _nnunet(command: list[str], task: Path, folder: Path) -> Cost:
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    content = json.loads((task / "dataset.json").read_text())
    keys = [Path(case["label"]).name.removesuffix(".nii.gz") for case in content["training"]]
    for key in keys:
        image, label = (task / name / f"{key}.nii.gz" for name in ("imagesTr", "labelsTr"))
        (raw / "imagesTr" / f"{key}_0000.nii.gz").symlink_to(image.resolve())
        (raw / "labelsTr" / f"{key}.nii.gz").symlink_to(label.resolve())
    (raw / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": content["modality"],
                "labels": {name: int(number) for number, name in content["labels"].items()},
                "numTraining": len(keys),
                "file_ending": ".nii.gz",
            }
        )
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
    }
    environment |= {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
    }
    return _cost(command, environment, folder)


def _cost(command: list[str], environment: dict[str, str], folder: Path) -> Cost:
    log = folder / "log.txt"
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - start
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    # Children that were waited for are counted with their parent.
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def _best(costs: list[Cost]) -> Cost:
    return Cost(
        min(cost.wall_s for cost in costs),
        min(cost.cpu_s for cost in costs),
        max(cost.peak_gib for cost in costs),
    )


if __name__ == "__main__":
    main()
