"""The numbers chosen for a data set, with the reason for each: spacing, patch, batch, strides,
intensities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import yaml

from medseg.core.errors import ConfigError
from medseg.core.geometry import ALL_ORIENTATIONS
from medseg.data.fingerprint import Fingerprint

VOXEL_BUDGET = {"cpu": 192_000, "cuda": 2 * 128**3}
"""Voxels per training step. cuda: nnU-Net's usual 2 x 128^3 (Isensee et al. 2021). cpu: about half
a second a step for the U-Net with 16 channels on two cores (docs/benchmarks.md).
"""

BASE_CHANNELS = {"cpu": 16, "cuda": 32}
MIN_FEATURE_SIZE = 4
"""An axis is halved only while the coarsest feature map keeps this many voxels along it (as
nnU-Net).
"""
ANISOTROPY = 3.0
"""Ratio of spacings from which an axis counts as coarse (Isensee et al. 2021)."""
MAX_STAGES = 6
MAX_CASE_VOXELS = 2**32
"""16 GiB per channel: more is a slip in the spacing, or needs a machine of its own."""


@dataclass(frozen=True)
class Plan:
    """Everything preprocessing, network and sliding window need to agree on; None means "to be
    planned".

    Args:
        spatial_dims: 2 or 3.
        orientation: axis codes of network space; in 2D the last axis runs through the slices; None
            in a finished plan leaves images as they are stored (2D images).
        spacing_mm: voxel spacing of network space along its axes; in 2D the through-slice entry is
            kept as it is in each image.
        patch_size: voxels per axis, `spatial_dims` numbers.
        batch_size: patches per step.
        strides, kernel_sizes: per stage and axis, finest first.
        base_channels: feature channels of the finest stage.
        normalisation: per channel {"kind": "clip_zscore", "low", "high", "mean", "std"} (CT: values
            of the data set's foreground), {"kind": "zscore"} (each image by its own values) or
            {"kind": "scale_255"}.
        reasons: a sentence for each number.
    """

    spatial_dims: int = 3
    orientation: str | None = None
    spacing_mm: Sequence[float] | None = None
    patch_size: Sequence[int] | None = None
    batch_size: int | None = None
    strides: Sequence[Sequence[int]] | None = None
    kernel_sizes: Sequence[Sequence[int]] | None = None
    base_channels: int | None = None
    normalisation: Sequence[Mapping[str, Any]] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            raise ConfigError("plan.spatial_dims", f"is {self.spatial_dims}", "set it to 2 or 3")
        if self.patch_size is not None and (
            len(self.patch_size) != self.spatial_dims or min(self.patch_size) < 1
        ):
            raise ConfigError(
                "plan.patch_size",
                f"is {list(self.patch_size)}",
                f"give {self.spatial_dims} positive numbers",
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError("plan.batch_size", f"is {self.batch_size}", "use 1 or more")
        if self.base_channels is not None and self.base_channels < 1:
            raise ConfigError("plan.base_channels", f"is {self.base_channels}", "use 1 or more")
        if self.spacing_mm is not None and (
            len(self.spacing_mm) != 3 or not all(0 < value < math.inf for value in self.spacing_mm)
        ):
            raise ConfigError(
                "plan.spacing_mm",
                f"is {list(self.spacing_mm)}",
                "give three positive numbers, also in 2D",
            )
        if self.orientation is not None and self.orientation not in ALL_ORIENTATIONS:
            raise ConfigError(
                "plan.orientation", f"is '{self.orientation}'", "use three letters such as RAS"
            )
        for name in ("strides", "kernel_sizes"):
            rows = getattr(self, name)
            if rows is not None and any(
                len(row) != self.spatial_dims or min(row) < 1 for row in rows
            ):
                raise ConfigError(
                    f"plan.{name}",
                    f"is {_plain(rows)}",
                    f"give {self.spatial_dims} positive numbers per stage",
                )

    @property
    def open_entries(self) -> tuple[str, ...]:
        """Entries that a finished plan has and this one has not."""
        return tuple(
            name
            for name in self.__dataclass_fields__
            if name != "orientation" and getattr(self, name) is None
        )

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides along each axis: the patch size must be a multiple of it."""
        assert self.strides is not None
        return tuple(int(n) for n in np.prod(np.array(self.strides), axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; `Plan(**...)` reads it back."""
        plain = asdict(self)
        return {key: _plain(value) for key, value in plain.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, where: str = "plan") -> Plan:
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(where, f"has unknown entries {sorted(unknown)}", "remove them")
        return cls(**content)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=110)


def make_plan(fingerprint: Fingerprint, *, modality: str, given: Plan, device: str = "cpu") -> Plan:
    """A finished plan: what `given` leaves open is chosen from the fingerprint.

    Args:
        fingerprint: measured facts of the training cases.
        modality: DICOM modality; "CT" normalises with the data set's values, others image by image.
        given: numbers set by hand are kept, and the rest is fitted to them.
        device: "cpu" or "cuda"; decides the voxel budget of a step.

    Raises:
        ConfigError: a patch set by hand does not fit the strides or the data.
    """
    reasons: dict[str, str] = {}
    dims = given.spatial_dims
    if fingerprint.is_2d and dims == 3:
        raise ConfigError(
            "model.spatial_dims",
            "is 3, but every image is a single slice",
            "set model.spatial_dims=2",
        )
    spacings = np.array(
        [_in_ras_order(case.orientation, case.spacing_mm) for case in fingerprint.cases]
    )
    orientation = given.orientation
    if orientation is None and not fingerprint.is_2d:
        orientation, reasons["orientation"] = _choose_orientation(spacings)
    if orientation is None:
        order = None
        reasons["orientation"] = "2D images are used as they are stored"
        spacings = np.array([case.spacing_mm for case in fingerprint.cases])
        shapes = np.array([case.shape for case in fingerprint.cases])
    else:
        order = [_world_axis(code) for code in orientation]
        spacings = spacings[:, order]
        shapes = np.array(
            [_in_ras_order(case.orientation, case.shape) for case in fingerprint.cases]
        )[:, order]
    spacing = given.spacing_mm
    if spacing is None:
        spacing, reasons["spacing_mm"] = _choose_spacing(spacings)
    scale = spacings / np.array(spacing)
    if dims == 2:
        scale[:, 2] = 1.0
    resampled = np.maximum(1, np.round(shapes * scale)).astype(int)[:, :dims]
    median, largest = np.median(resampled, axis=0), resampled.max(axis=0)
    if np.prod(largest.astype(float)) > MAX_CASE_VOXELS:
        raise ConfigError(
            "plan.spacing_mm",
            f"is {_plain(spacing)}, at which the largest case has {_dims(largest)} voxels",
            "set a coarser plan.spacing_mm",
        )
    budget = VOXEL_BUDGET[device]
    patch = given.patch_size
    strides = given.strides
    if patch is None:
        target = _shrink_to_budget(median, spacing[:dims], budget / 2 if dims == 3 else budget / 8)
        stages = strides or _choose_strides(target, spacing[:dims])
        factor = np.prod(np.array(stages), axis=0)
        patch = tuple(int(n) for n in np.maximum(1, np.ceil(target / factor)) * factor)
        reasons["patch_size"] = (
            f"the median case at this spacing is {_dims(median)} voxels; shrunk where needed to "
            f"{budget} voxels a step on {device}, rounded up to multiples of {_dims(factor)}"
        )
    if strides is None:
        strides = _choose_strides(np.array(patch), spacing[:dims])
        reasons["strides"] = (
            f"each axis is halved while {MIN_FEATURE_SIZE} voxels of the patch remain"
        )
    kernels = given.kernel_sizes
    if kernels is None:
        kernels = _choose_kernels(strides, spacing[:dims])
        reasons["kernel_sizes"] = (
            f"3, but 1 along axes still {ANISOTROPY:g} times coarser than the finest"
        )
    batch = given.batch_size
    if batch is None:
        batch = int(np.clip(round(budget / np.prod(patch)), 2, 32))
        reasons["batch_size"] = (
            f"{budget} voxels a step on {device}, at least 2 patches, at most 32"
        )
    base = given.base_channels
    if base is None:
        base = BASE_CHANNELS[device]
        reasons["base_channels"] = f"a network that trains in reasonable time on {device}"
    norms = given.normalisation
    if norms is None:
        norms, reasons["normalisation"] = _choose_normalisation(fingerprint, modality)
    plan = replace(
        given,
        orientation=orientation,
        spacing_mm=tuple(float(value) for value in spacing),
        patch_size=tuple(int(value) for value in patch),
        batch_size=batch,
        strides=tuple(tuple(row) for row in strides),
        kernel_sizes=tuple(tuple(row) for row in kernels),
        base_channels=base,
        normalisation=tuple(dict(row) for row in norms),
        reasons=reasons,
    )
    check_patch(plan, largest)
    return plan


def check_patch(plan: Plan, largest: np.ndarray) -> None:
    """Raises ConfigError unless the patch is a multiple of the strides and no larger than the
    largest case.
    """
    patch, stride = np.array(plan.patch_size), np.array(plan.stride)
    fitting = np.ceil(largest / stride).astype(int) * stride
    if (patch % stride).any():
        nearest = np.maximum(1, np.round(patch / stride)).astype(int) * stride
        raise ConfigError(
            "plan.patch_size",
            f"is {_dims(patch)}, no multiple of the network's stride {_dims(stride)}",
            f"set plan.patch_size=[{','.join(map(str, nearest))}]",
        )
    if (patch > fitting).any():
        raise ConfigError(
            "plan.patch_size",
            f"is {_dims(patch)}, larger than the largest case, {_dims(largest)} voxels at this "
            "spacing",
            f"set plan.patch_size=[{','.join(map(str, np.minimum(patch, fitting)))}] or less",
        )


def _choose_orientation(spacings: np.ndarray) -> tuple[str, str]:
    median = np.median(spacings, axis=0)
    coarse = int(np.argmax(median)) if median.max() > 1.5 * np.median(median) else 2
    axes = [axis for axis in range(3) if axis != coarse] + [coarse]
    codes = "".join("RAS"[axis] for axis in axes)
    return codes, f"last axis along the slices (median spacing {median[coarse]:.3g} mm)"


def _choose_spacing(spacings: np.ndarray) -> tuple[list[float], str]:
    spacing = np.median(spacings, axis=0)
    coarse = int(np.argmax(spacing))
    others = np.delete(spacing, coarse).max()
    reason = "median of the training cases"
    if spacing[coarse] / others > ANISOTROPY:
        # Half of the cases would be blurred along the coarse axis at the median (Isensee et al.
        # 2021).
        spacing[coarse] = max(np.percentile(spacings[:, coarse], 10), others)
        reason += f"; 10th percentile along the coarse axis {coarse}"
    return [float(f"{value:.4g}") for value in spacing], reason


def _shrink_to_budget(shape: np.ndarray, spacing: Sequence[float], voxels: float) -> np.ndarray:
    """Shape cut along its physically longest axes until it holds at most `voxels`."""
    target = np.array(shape, dtype=float)
    while np.prod(target) > voxels:
        longest = int(np.argmax(target * np.array(spacing)))
        target[longest] -= 1
    return target


def _choose_strides(patch: np.ndarray, spacing: Sequence[float]) -> list[tuple[int, ...]]:
    size, current = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    strides = [(1,) * len(size)]
    while len(strides) < MAX_STAGES:
        # An axis waits until the others have become as coarse, so that features stay isotropic.
        ready = (size / 2 >= MIN_FEATURE_SIZE) & (
            current < 2 * current[size / 2 >= MIN_FEATURE_SIZE].min(initial=np.inf)
        )
        if not ready.any():
            break
        step = np.where(ready, 2, 1)
        strides.append(tuple(int(n) for n in step))
        size, current = size / step, current * step
    if len(strides) < 2:
        strides.append((1,) * len(size))
    return strides


def _choose_kernels(
    strides: Sequence[Sequence[int]], spacing: Sequence[float]
) -> list[tuple[int, ...]]:
    current = np.array(spacing, dtype=float)
    kernels = []
    for step in strides:
        current = current * np.array(step)
        kernels.append(tuple(1 if value > ANISOTROPY * current.min() else 3 for value in current))
    return kernels


def _choose_normalisation(
    fingerprint: Fingerprint, modality: str
) -> tuple[list[dict[str, Any]], str]:
    if modality == "CT":
        rows = [
            {"kind": "clip_zscore", "low": low, "high": high, "mean": mean, "std": max(std, 1e-6)}
            for mean, std, low, high in fingerprint.intensity
        ]
        return (
            rows,
            "CT: clipped to the foreground's 0.5 and 99.5 percentiles, its mean and deviation",
        )
    return (
        [{"kind": "zscore"} for _ in range(fingerprint.num_channels)],
        f"{modality}: each image by its own mean and deviation, as its units are arbitrary",
    )


def _world_axis(code: str) -> int:
    return "RAS".find(code) if code in "RAS" else "LPI".find(code)


def _in_ras_order(orientation: str, values: Sequence[float]) -> list[float]:
    """Values given along (i, j, k), rearranged to the R, A, S axes."""
    row = [0.0, 0.0, 0.0]
    for code, value in zip(orientation, values, strict=True):
        row[_world_axis(code)] = value
    return row


def _dims(numbers: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{int(n)}" for n in numbers)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
