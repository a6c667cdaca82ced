"""medseg and its peers on the same images with the same weights: whole commands, and windows alone.

    python benchmarks/end_to_end.py Task04_Hippocampus --nnunet ENV/bin/python --cases 12

Runs `python -m medseg predict` and `nnUNetv2_predict` (of the environment given) in turn on the
same files, with test-time mirroring, one thread each; nnU-Net gets one process for reading and one
for writing. With --openvino medseg also runs the exported network. With --monai medseg's windows
and MONAI's `sliding_window_inference` are compared in this process on the same prepared images.
The weights are those of --bundle, a plain U-Net of medseg (`model=unet model.light_finest=false`),
copied into nnU-Net's PlainConvUNet; without it they are random, and Dice means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.core.labels import LabelSet
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow, mirror_combinations
from medseg.models.unet import UNet
from medseg.sources.decathlon import Decathlon

PATCH = (40, 56, 40)
CHANNELS = [16, 32, 64, 128]


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    work: Path = options.work
    keys, references = copy_images(options.folder, work, options.cases)
    bundle = random_bundle(work / "bundle")
    if options.bundle:
        bundle = with_patch(ModelBundle.load(options.bundle), work / "bundle")
    medseg = [sys.executable, "-m", "medseg", "predict", f"bundle={bundle.folder}", "inference=tta"]
    runs = {
        "medseg": [
            *medseg,
            f"source.folder={work / 'medseg'}",
            f"paths.output={work / 'out_medseg'}",
        ]
    }
    if options.openvino:
        exported = work / "exported"
        export = [
            "export",
            f"bundle={bundle.folder}",
            "format=[openvino]",
            f"paths.output={exported}",
        ]
        subprocess.run([sys.executable, "-m", "medseg", *export], check=True)
        runs["medseg, OpenVINO"] = [
            *medseg[:4], f"bundle={exported}", "inference=tta", "inference.engine=openvino",
            f"source.folder={work / 'medseg'}", f"paths.output={work / 'out_openvino'}",
        ]  # fmt: skip
    if options.nnunet:
        model = write_nnunet(bundle, work / "nnunet")
        # Not resolved: a link to another interpreter would leave the environment.
        program = options.nnunet.parent / "nnUNetv2_predict_from_modelfolder"
        runs["nnU-Net"] = [
            str(program), "-i", str(work / "peer"), "-o", str(work / "out_nnunet"),
            "-m", str(model), "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1",
            "--disable_progress_bar",
        ]  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, command in runs.items():
            times[name].append(timed(command))
    folders = {"medseg": "out_medseg", "medseg, OpenVINO": "out_openvino", "nnU-Net": "out_nnunet"}
    print(f"{len(keys)} cases, one thread, mirrored, best of {options.rounds}:")
    first = min(cpu for _, cpu in times["medseg"])
    for name, found in times.items():
        wall, cpu = (min(column) for column in zip(*found, strict=True))
        dice = scores(work / folders[name], references)
        same = agreement(work / folders[name], work / "out_medseg", keys)
        print(
            f"{name:<17} {wall:7.1f} s, processor time {cpu:7.1f} s ({cpu / first:.2f} times "
            f"medseg's), Dice {dice:.4f}, {1 - same:.1e} of the voxels differ from medseg's"
        )
    if options.monai:
        compare_windows(bundle, sorted((work / "medseg").iterdir()), options.rounds)


def copy_images(folder: Path, work: Path, count: int) -> tuple[list[str], dict[str, Path]]:
    """Copies of the first images with both tools' names for them, and the references."""
    cases = [c for c in Decathlon(str(folder)).cases() if c.read_reference is not None][:count]
    references = {}
    for case in cases:
        for place, name in (("medseg", f"{case.key}.nii.gz"), ("peer", f"{case.key}_0000.nii.gz")):
            (work / place).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(case.paths[0], work / place / name)
        references[case.key] = folder / "labelsTr" / f"{case.key}.nii.gz"
    return [case.key for case in cases], references


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu


def scores(folder: Path, references: dict[str, Path]) -> float:
    """Mean Dice over cases and classes."""
    values = []
    for key, path in references.items():
        found = np.asanyarray(nibabel.load(folder / f"{key}.nii.gz").dataobj)
        truth = np.asanyarray(nibabel.load(path).dataobj)
        for number in (1, 2):
            a, b = found == number, truth == number
            values.append(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    return float(np.mean(values))


def agreement(one: Path, other: Path, keys: list[str]) -> float:
    same = [
        (
            np.asanyarray(nibabel.load(one / f"{key}.nii.gz").dataobj)
            == np.asanyarray(nibabel.load(other / f"{key}.nii.gz").dataobj)
        ).mean()
        for key in keys
    ]
    return float(np.mean(same))


def random_bundle(folder: Path) -> ModelBundle:
    torch.manual_seed(0)
    options = {"in_channels": 1, "base_channels": CHANNELS[0], "strides": [1, 2, 2, 2]}
    network = UNet(out_channels=3, **options)
    strides = tuple((n, n, n) for n in (1, 2, 2, 2))
    return ModelBundle.write(
        folder,
        weights={"fold_0": network.state_dict()},
        plan=Plan(
            spatial_dims=3,
            orientation="RAS",
            spacing_mm=(1.0, 1.0, 1.0),
            patch_size=PATCH,
            batch_size=2,
            strides=strides,
            kernel_sizes=((3, 3, 3),) * 4,
            base_channels=CHANNELS[0],
            normalisation=({"kind": "zscore"},),
        ),
        labels=LabelSet.from_names(["background", "anterior", "posterior"]),
        config={},
        card={
            "name": "hippocampus",
            "mirror_axes": "RAS",
            "network": {"class": "medseg.models.unet.UNet", "options": options},
        },
    )


def with_patch(bundle: ModelBundle, folder: Path) -> ModelBundle:
    """The bundle with the patch that covers most cases: medseg would stretch a smaller one over
    them, nnU-Net would take eight, and the windows would not be the same.
    """
    facts = bundle.card["network"]
    return ModelBundle.write(
        folder,
        weights={"fold_0": bundle.build_networks()[0].state_dict()},
        plan=replace(bundle.plan, patch_size=PATCH),
        labels=bundle.labels,
        config={},
        card={"name": bundle.name, "mirror_axes": "RAS", "network": facts},
    )


def write_nnunet(bundle: ModelBundle, folder: Path) -> Path:
    """A trained model as nnU-Net stores it, with the weights and the plan of the bundle."""
    network = bundle.build_networks()[0]
    assert isinstance(network, UNet)
    state = peer_weights(network)
    features = [stage[0].conv.out_channels for stage in network.encoder]
    patch = [int(n) for n in reversed(bundle.plan.patch_size or ())]
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
            "n_conv_per_stage": [2] * 4,
            "n_conv_per_stage_decoder": [2] * 3,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [36.0, 50.0, 35.0],
        "spacing": [float(n) for n in reversed(bundle.plan.spacing_mm or ())],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
        "batch_dice": False,
    }
    for name, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        configuration[f"resampling_fn_{name}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{name}_kwargs"] = {
            **resampling, "is_seg": is_seg, "order": order,
        }  # fmt: skip
    intensities = dict.fromkeys(
        ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0
    )
    plans = {
        "dataset_name": "Dataset004_Hippocampus",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [36, 50, 35],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": state,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def peer_weights(network: UNet) -> dict[str, Tensor]:
    """Weights by the names of PlainConvUNet, whose axes run the other way round."""

    def turned(weight: Tensor) -> Tensor:
        return weight.permute(0, 1, 4, 3, 2).contiguous()

    state: dict[str, Tensor] = {}

    def add(name: str, layer: torch.nn.Module) -> None:
        state[f"{name}.conv.weight"] = turned(layer.conv.weight)
        state[f"{name}.conv.bias"] = torch.zeros(layer.conv.out_channels)
        state[f"{name}.norm.weight"], state[f"{name}.norm.bias"] = (
            layer.norm.weight,
            layer.norm.bias,
        )
        # The same modules once more, as its nn.Sequential knows them.
        for part, place in (("conv", 0), ("norm", 1)):
            for kind in ("weight", "bias"):
                state[f"{name}.all_modules.{place}.{kind}"] = state[f"{name}.{part}.{kind}"]

    for n, stage in enumerate(network.encoder):
        for m, layer in enumerate(stage):
            for root in ("encoder", "decoder.encoder"):
                add(f"{root}.stages.{n}.0.convs.{m}", layer)
    for n, (up, stage) in enumerate(zip(network.ups, network.decoder, strict=True)):
        state[f"decoder.transpconvs.{n}.weight"] = turned(up.weight)
        state[f"decoder.transpconvs.{n}.bias"] = up.bias
        for m, layer in enumerate(stage):
            add(f"decoder.stages.{n}.convs.{m}", layer)
        # Heads of coarser resolutions are there but unused; medseg has those of the finest alone.
        level = len(network.ups) - 1 - n
        width = stage[-1].conv.out_channels
        classes = network.heads[0].out_channels
        has_head = level < len(network.heads)
        weight = network.heads[level].weight if has_head else torch.zeros(classes, width, 1, 1, 1)
        state[f"decoder.seg_layers.{n}.weight"] = weight
        state[f"decoder.seg_layers.{n}.bias"] = (
            network.heads[level].bias if has_head else torch.zeros(classes)
        )
    return {name: value.detach().clone() for name, value in state.items()}


def compare_windows(bundle: ModelBundle, paths: list[Path], rounds: int) -> None:
    """Windows and mirrored images alone, on prepared images, single precision."""
    from monai.inferers import sliding_window_inference

    predictor = NetworkPredictor(
        bundle, inference=SlidingWindow(tta="mirror"), device="cpu", precision="32-true"
    )
    network = bundle.build_networks()[0].eval()
    images = [torch.from_numpy(predictor.prepare(read(path)).array) for path in paths]
    patch = tuple(bundle.plan.patch_size or ())

    def with_monai(image: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for axes in mirror_combinations((0, 1, 2)):
            dims = [axis + 2 for axis in axes]
            logits = sliding_window_inference(
                torch.flip(image[None], dims), patch, 4, network, overlap=0.5, mode="gaussian",
                sigma_scale=0.125,
            )  # fmt: skip
            total = total + torch.flip(logits, dims)
        return total[0] / 8

    work = {"medseg": predictor.logits, "MONAI": with_monai}
    times: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for one in work.values():
            one(images[0])
        largest = max(float((work["medseg"](i) - with_monai(i)).abs().max()) for i in images[:3])
        for _ in range(rounds):
            for name, one in work.items():
                start = time.process_time()
                for image in images:
                    one(image)
                times[name].append(time.process_time() - start)
    ours, theirs = (min(times[name]) for name in work)
    print(
        f"windows alone, processor time: medseg {ours:.1f} s, MONAI {theirs:.1f} s "
        f"({theirs / ours:.2f} times); logits differ by at most {largest:.1e}"
    )


def read(path: Path) -> Volume:
    from medseg.sources.nifti_files import NiftiFiles

    return NiftiFiles(str(path)).cases()[0].read_image()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Task04_Hippocampus")
    parser.add_argument("--bundle", type=Path, help="of a plain U-Net; None makes a random one")
    parser.add_argument("--nnunet", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--openvino", action="store_true", help="also export, and run that")
    parser.add_argument("--monai", action="store_true", help="also compare windows alone")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("end_to_end"), help="folder for files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
