"""A plan from a fingerprint, and a plan fitted to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.core.errors import ConfigError
from medseg.data.coarse import with_cascade
from medseg.data.fingerprint import Fingerprint
from medseg.data.plan import Plan, plain
from medseg.data.plan_rules import (
    ANISOTROPY,
    BASE_CHANNELS,
    MIN_COVERED,
    MIN_FEATURE_SIZE,
    VOXEL_BUDGET,
    choose_batch,
    choose_colour,
    choose_kernels,
    choose_normalisation,
    choose_orientation,
    choose_spacing,
    choose_strides,
    coarsen_pictures,
    few_objects_in,
    round_to_multiples,
    shrink_to_budget,
    shrink_to_objects,
)
from medseg.models.detection.object_sizes import representative_sizes

MAX_CASE_VOXELS = 2**32
"""16 GiB per channel: more is a slip in the spacing, or needs a machine of its own."""


def make_plan(
    fingerprint: Fingerprint,
    *,
    modality: str,
    given: Plan,
    device: str = "cpu",
    patch_voxels: float | None = None,
) -> Plan:
    """A finished plan: what `given` leaves open is chosen from the fingerprint.

    Args:
        fingerprint: measured facts of the training cases.
        modality: DICOM modality; "CT" normalises with the data set's values, others image by image.
        given: numbers set by hand are kept, and the rest is fitted to them.
        device: "cpu" or "cuda"; decides the voxel budget of a step.
        patch_voxels: most voxels of a patch, in place of the device's usual ones.

    Raises:
        ConfigError: a patch set by hand does not fit the strides or the data.
    """
    reasons: dict[str, str] = {"spatial_dims": "model.spatial_dims"}
    dims = given.spatial_dims
    if fingerprint.is_2d and dims == 3:
        _refuse_three_axes(given)
        dims, reasons["spatial_dims"] = 2, "every image is a single slice"
    spacings = np.array(
        [_in_ras_order(case.orientation, case.spacing_mm) for case in fingerprint.cases]
    )
    orientation = given.orientation
    if orientation is None and not fingerprint.is_2d:
        orientation, reasons["orientation"] = choose_orientation(spacings)
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
    budget = VOXEL_BUDGET[device]
    usual_voxels = budget / 2 if dims == 3 else budget / 8
    spacing = given.spacing_mm
    if spacing is None:
        spacing, reasons["spacing_mm"] = choose_spacing(spacings)
        if fingerprint.is_2d and given.patch_size is None:
            spacing, coarser = coarsen_pictures(
                fingerprint, spacing, np.median(shapes, axis=0), voxels=usual_voxels
            )
            reasons["spacing_mm"] += coarser
    scale = spacings / np.array(spacing)
    if dims == 2:
        scale[:, 2] = 1.0
    resampled = np.maximum(1, np.round(shapes * scale)).astype(int)[:, :dims]
    median, largest = np.median(resampled, axis=0), resampled.max(axis=0)
    if np.prod(largest.astype(float)) > MAX_CASE_VOXELS:
        raise ConfigError(
            "plan.spacing_mm",
            f"is {plain(spacing)}, at which the largest case has {_dims(largest)} voxels",
            "set a coarser plan.spacing_mm",
        )
    patch = given.patch_size
    strides = given.strides
    extents = object_extents(fingerprint, order=order, spacing_mm=spacing)[:, :dims]
    if patch is None:
        target = shrink_to_budget(median, spacing[:dims], patch_voxels or usual_voxels)
        of_objects = ""
        if dims == 3 and device == "cpu" and few_objects_in(target, extents, resampled):
            target, of_objects = shrink_to_objects(target, extents)
        stages = strides or choose_strides(target, spacing[:dims])
        factor = np.prod(np.array(stages), axis=0)
        patch = round_to_multiples(target, factor)
        reasons["patch_size"] = (
            f"the median case at this spacing is {_dims(median)} voxels; shrunk where needed to "
            + (f"{budget} voxels a step on {device}" if patch_voxels is None else "memory")
            + of_objects
            + f", rounded to multiples of {_dims(factor)}, down "
            f"only where {MIN_COVERED:.0%} remain"
        )
    if strides is None:
        strides = choose_strides(np.array(patch), spacing[:dims])
        reasons["strides"] = (
            f"each axis is halved while {MIN_FEATURE_SIZE} voxels of the patch remain"
        )
    kernels = given.kernel_sizes
    if kernels is None:
        kernels = choose_kernels(strides, spacing[:dims])
        reasons["kernel_sizes"] = (
            f"3, but 1 along axes still {ANISOTROPY:g} times coarser than the finest"
        )
    batch = given.batch_size
    if batch is None:
        batch, reasons["batch_size"] = choose_batch(patch, device)
    base = given.base_channels
    if base is None:
        base = BASE_CHANNELS[device]
        reasons["base_channels"] = f"a network that trains in reasonable time on {device}"
    light = given.light_finest
    if light is None:
        light = device == "cpu"
        reasons["light_finest"] = (
            "half of a step's time goes into the finest resolution"
            if light
            else "a GPU has the time for a full finest resolution"
        )
    colour = given.colour
    if colour is None:
        colour, reasons["colour"] = choose_colour(fingerprint)
    sizes = given.object_sizes
    if sizes is None and len(extents):
        sizes = representative_sizes(extents)
        reasons["object_sizes"] = "means of clusters of the objects' extents at this spacing"
    norms = given.normalisation
    if norms is None:
        norms, reasons["normalisation"] = choose_normalisation(fingerprint, modality, colour)
    plan = replace(
        given,
        spatial_dims=dims,
        orientation=orientation,
        spacing_mm=tuple(float(value) for value in spacing),
        patch_size=tuple(int(value) for value in patch),
        batch_size=batch,
        strides=tuple(tuple(row) for row in strides),
        kernel_sizes=tuple(tuple(row) for row in kernels),
        base_channels=base,
        light_finest=light,
        normalisation=tuple(dict(row) for row in norms),
        colour=colour,
        object_sizes=sizes,
        reasons=reasons,
    )
    check_patch(plan, largest)
    return with_cascade(plan, given=given, median=median)


def object_extents(
    fingerprint: Fingerprint, *, order: Sequence[int] | None, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Extents of the objects in voxels of network space, at least 1, shape (n, 3).

    Args:
        fingerprint: of the training cases.
        order: patient axis of each axis of network space; None leaves axes as they are stored.
        spacing_mm: of network space.
    """
    rows = [np.empty((0, 3))]
    for case in fingerprint.cases:
        extents = np.array(case.object_extents, float).reshape(-1, 3) * case.spacing_mm
        if order is not None:
            in_ras = np.argsort([_world_axis(code) for code in case.orientation])
            extents = extents[:, in_ras][:, list(order)]
        rows.append(extents / np.array(spacing_mm))
    return np.maximum(np.concatenate(rows), 1.0)


def fit_to_network(
    plan: Plan,
    *,
    given: Plan,
    stride: Sequence[int],
    min_size: Sequence[int],
    device: str = "cpu",
) -> Plan:
    """The plan with a patch that the network takes: a multiple of its stride, and not too small.

    Args:
        plan: from `make_plan`.
        given: a patch that was set by hand is not changed.
        stride: factor by which the network reduces each axis.
        min_size: least extent of the network's input along each axis.
        device: as for `make_plan`; a batch that was not set by hand follows the patch.

    Raises:
        ConfigError: the patch was set by hand and does not fit; the remedy names one that does.
    """
    assert plan.patch_size is not None
    patch, least = np.array(plan.patch_size), np.array(min_size)
    step = np.array(stride) if given.patch_size else np.lcm(np.array(plan.stride), stride)
    fitting = np.ceil(np.maximum(patch, least) / step).astype(int) * step
    if (fitting == patch).all():
        return plan
    is_small = (patch < least).any()
    reason = (
        f"smaller than the network's least input {list(min_size)}"
        if is_small
        else f"no multiple of the network's stride {list(stride)}"
    )
    if given.patch_size is not None:
        raise ConfigError(
            "plan.patch_size",
            f"is {plain(plan.patch_size)}, {reason}",
            f"set plan.patch_size=[{','.join(map(str, fitting))}]",
        )
    reasons = dict(plan.reasons)
    reasons["patch_size"] += f"; raised from {_dims(patch)}, {reason}"
    batch = plan.batch_size
    if given.batch_size is None:
        batch, reasons["batch_size"] = choose_batch(fitting, device)
    return replace(
        plan, patch_size=tuple(int(n) for n in fitting), batch_size=batch, reasons=reasons
    )


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


def _refuse_three_axes(given: Plan) -> None:
    for name in ("patch_size", "strides", "kernel_sizes"):
        if getattr(given, name) is not None:
            raise ConfigError(
                f"plan.{name}",
                f"is {plain(getattr(given, name))}, but every image is a single slice",
                "set model.spatial_dims=2 and give two numbers for each",
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
