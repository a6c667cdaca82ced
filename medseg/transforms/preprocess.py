"""A volume as the network sees it: reoriented, resampled, normalised. The same for training and
prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError, InputError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.transforms.colour import as_colour
from medseg.transforms.resample import resample_image, resample_labels, resample_nearest


class PreprocessingPlan(Protocol):
    """The entries of a plan that preprocessing needs."""

    @property
    def spatial_dims(self) -> int: ...
    @property
    def orientation(self) -> str | None: ...
    @property
    def spacing_mm(self) -> Sequence[float] | None: ...
    @property
    def colour(self) -> Literal["grey", "rgb"] | None: ...
    @property
    def normalisation(self) -> Sequence[Mapping[str, Any]] | None: ...


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """An image in network space.

    Args:
        array: float32, shape (C, I, J, K), normalised.
        geometry: grid of the array.
        source: grid of the image as it was read; predictions go back onto it.
        coarse: the same image for the coarse network of a cascade.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    source: Geometry
    coarse: Preprocessed | None = None


def preprocess(volume: Volume, plan: PreprocessingPlan) -> Preprocessed:
    """The volume in the plan's orientation and spacing, each channel normalised.

    Raises:
        InputError: the number of channels differs from the plan's, or a value is not finite.
    """
    assert plan.normalisation is not None
    if plan.colour is not None:
        volume = as_colour(volume, plan.colour)
    if volume.num_channels != len(plan.normalisation):
        raise InputError(
            "image",
            f"has {volume.num_channels} channels, the model expects {len(plan.normalisation)}",
            "give the channels that the model was trained on",
            code="E_CHANNELS",
        )
    if not np.isfinite(volume.array).all():
        raise InputError(
            "image",
            "holds NaN or infinite values, which would spread to their neighbours",
            "replace them, for example by the value of air",
            code="E_IMAGE_NAN",
        )
    turned = volume if plan.orientation is None else volume.reoriented(plan.orientation)
    shape = network_shape(turned.geometry, plan)
    array = resample_image(np.ascontiguousarray(turned.array, dtype=np.float32), shape)
    if np.may_share_memory(array, volume.array):
        array = array.copy()  # normalised in place below
    for channel, rule in zip(array, plan.normalisation, strict=True):
        normalise(channel, rule)
    return Preprocessed(array, turned.geometry.resized(shape), volume.geometry)


def preprocess_labels(reference: LabelMap, plan: PreprocessingPlan) -> NDArray[np.integer]:
    """The reference on the same grid as `preprocess` gives the image, shape (I, J, K)."""
    turned = reference if plan.orientation is None else reference.reoriented(plan.orientation)
    shape = network_shape(turned.geometry, plan)
    return resample_labels(np.ascontiguousarray(turned.array), shape)


def preprocess_numbers(reference: LabelMap, plan: PreprocessingPlan) -> NDArray[np.integer]:
    """As `preprocess_labels`, for any numbers: each voxel takes the one its centre lies in."""
    turned = reference if plan.orientation is None else reference.reoriented(plan.orientation)
    shape = network_shape(turned.geometry, plan)
    return resample_nearest(np.ascontiguousarray(turned.array), shape)


def network_shape(geometry: Geometry, plan: PreprocessingPlan) -> tuple[int, int, int]:
    """Voxels of a grid in the plan's orientation once it has the plan's spacing; in 2D slices are
    kept.
    """
    assert plan.spacing_mm is not None
    scale = np.array(geometry.spacing_mm) / np.array(plan.spacing_mm)
    if plan.spatial_dims == 2:
        scale[2] = 1.0
    # Rounding errors of headers (0.9999 mm) must not cost a resampling.
    shape = np.where(
        np.abs(scale - 1) < 1e-3,
        geometry.shape,
        np.maximum(1, np.round(np.array(geometry.shape) * scale)),
    ).astype(int)
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def normalise(image: NDArray[np.float32], rule: Mapping[str, Any]) -> None:
    """Normalises one channel in place by a plan's rule."""
    kind = rule.get("kind")
    if kind == "clip_zscore":
        np.clip(image, rule["low"], rule["high"], out=image)
        image -= np.float32(rule["mean"])
        image /= np.float32(max(rule["std"], 1e-8))
    elif kind == "zscore":
        image -= image.mean(dtype=np.float64)
        image /= np.float32(max(float(image.std(dtype=np.float64)), 1e-8))
    elif kind == "scale_255":
        image /= np.float32(255.0)
    else:
        raise ConfigError(
            "plan.normalisation", f"has the kind '{kind}'", "use clip_zscore, zscore or scale_255"
        )
