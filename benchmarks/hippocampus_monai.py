"""Bare MONAI on the hippocampus task, for comparison: DynUNet and AdamW, decaying over the time.

python benchmarks/hippocampus_monai.py FOLDER --minutes 10 [--split split.yaml]

FOLDER is Task04_Hippocampus. With the split.yaml of a medseg run it trains on that run's training
cases and scores its validation cases; without, it trains on all. What others would write in an
afternoon: no deep supervision, no moving average, no test-time mirroring.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import DynUNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandSpatialCropd,
    SpatialPadd,
)

PATCH = (40, 56, 40)


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    listed = json.loads((arguments.folder / "dataset.json").read_text())["training"]
    cases = {Path(row["image"]).name.split(".")[0]: row for row in listed}
    cases = {key: row for key, row in cases.items() if (arguments.folder / row["label"]).exists()}
    train, held_out = sorted(cases), []
    if arguments.split:
        split = yaml.safe_load(arguments.split.read_text())
        train, held_out = split["train"], split["validation"]
    keys = ("image", "label")
    fixed = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS"),
        NormalizeIntensityd("image"),
    ]
    random = [
        SpatialPadd(keys, PATCH),
        RandSpatialCropd(keys, PATCH, random_size=False),
        RandAffined(
            keys,
            prob=0.5,
            rotate_range=(0.3,) * 3,
            scale_range=(0.2,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandGaussianNoised("image", prob=0.1, std=0.1),
        RandScaleIntensityd("image", factors=0.25, prob=0.2),
        RandAdjustContrastd("image", prob=0.2, gamma=(0.7, 1.5)),
    ]
    files = [{name: str(arguments.folder / cases[key][name]) for name in keys} for key in train]
    cached = CacheDataset(files, Compose([*fixed, *random]), progress=False)
    loader = DataLoader(cached, batch_size=2, shuffle=True, drop_last=True)
    model = DynUNet(
        3, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[16, 32, 64, 128], norm_name="instance"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    limit_s = 60 * arguments.minutes
    start, steps = time.monotonic(), 0
    while time.monotonic() - start < limit_s:
        for batch in loader:
            share = min(1.0, (time.monotonic() - start) / limit_s)
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - share) ** 0.9
            optimizer.zero_grad()
            loss = loss_function(model(batch["image"]), batch["label"])
            loss.backward()
            optimizer.step()
            steps += 1
            if share >= 1:
                break
    print(f"{steps} steps, {(time.monotonic() - start) / steps:.3f} s a step", flush=True)
    if held_out:
        scores = _scores(model, [cases[key] for key in held_out], arguments.folder, fixed)
        print(f"Dice {scores.mean():.4f} ({', '.join(f'{v:.4f}' for v in scores)})")


def _scores(
    model: torch.nn.Module, rows: list[dict[str, str]], folder: Path, fixed: list[object]
) -> np.ndarray:
    """Mean Dice per class over the cases."""
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    one_hot = AsDiscrete(argmax=True, to_onehot=3), AsDiscrete(to_onehot=3)
    files = [{name: str(folder / row[name]) for name in ("image", "label")} for row in rows]
    model.eval()
    with torch.inference_mode():
        for batch in DataLoader(CacheDataset(files, Compose(fixed), progress=False)):
            logits = sliding_window_inference(
                batch["image"], PATCH, 4, model, overlap=0.5, mode="gaussian"
            )
            metric(
                [one_hot[0](item) for item in decollate_batch(logits)],
                [one_hot[1](item) for item in decollate_batch(batch["label"])],
            )
    return metric.aggregate().numpy()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--split", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
