"""The numbers that preprocessing, network and sliding window agree on, with the reason for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import yaml

from medseg.core.errors import ConfigError
from medseg.core.geometry import ALL_ORIENTATIONS

Colour = Literal["grey", "rgb"]
OPTIONAL = frozenset(
    {
        "orientation", "colour", "light_finest", "object_sizes", "memory_budget_gib", "cascade",
        "coarse_spacing_mm", "coarse_margin_mm",
    }
)  # fmt: skip
"""Entries that stay empty in some finished plans, such as those older than the entry."""


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
        memory_budget_gib: what a training step may take, in GiB; batch and patch fit into it, as
            measured.
        strides, kernel_sizes: per stage and axis, finest first.
        base_channels: feature channels of the finest stage.
        light_finest: the finest stage has half of `base_channels` and a single convolution.
        normalisation: per channel {"kind": "clip_zscore", "low", "high", "mean", "std"} (CT: values
            of the data set's foreground), {"kind": "zscore"} (each image by its own values) or
            {"kind": "scale_255"}.
        colour: what becomes of 2D pictures: "grey" takes one channel of those stored as red, green
            and blue, "rgb" repeats grey ones as three channels; None takes channels as they are.
        object_sizes: extents along each axis, in voxels of network space, of boxes that stand for
            the objects of the data; None where objects are not asked for.
        cascade: two networks, coarse to fine: the plan is the fine one's, which looks only where
            the coarse one found something.
        coarse_spacing_mm: spacing of the coarse network's space, along the axes of network space.
        coarse_margin_mm: how far the fine network looks beyond what the coarse one found.
        reasons: a sentence for each number.
    """

    spatial_dims: int = 3
    orientation: str | None = None
    spacing_mm: Sequence[float] | None = None
    patch_size: Sequence[int] | None = None
    batch_size: int | None = None
    memory_budget_gib: float | None = None
    strides: Sequence[Sequence[int]] | None = None
    kernel_sizes: Sequence[Sequence[int]] | None = None
    base_channels: int | None = None
    light_finest: bool | None = None
    normalisation: Sequence[Mapping[str, Any]] | None = None
    colour: Colour | None = None
    object_sizes: Sequence[Sequence[float]] | None = None
    cascade: bool | None = None
    coarse_spacing_mm: Sequence[float] | None = None
    coarse_margin_mm: float | None = None
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
        if self.memory_budget_gib is not None and not 0 < self.memory_budget_gib < math.inf:
            raise ConfigError(
                "plan.memory_budget_gib", f"is {self.memory_budget_gib}", "use a positive number"
            )
        if self.base_channels is not None and self.base_channels < 1:
            raise ConfigError("plan.base_channels", f"is {self.base_channels}", "use 1 or more")
        for name in ("spacing_mm", "coarse_spacing_mm"):
            spacing = getattr(self, name)
            if spacing is not None and (
                len(spacing) != 3 or not all(0 < value < math.inf for value in spacing)
            ):
                raise ConfigError(
                    f"plan.{name}", f"is {list(spacing)}", "give three positive numbers, also in 2D"
                )
        if self.coarse_margin_mm is not None and not 0 <= self.coarse_margin_mm < math.inf:
            raise ConfigError(
                "plan.coarse_margin_mm", f"is {self.coarse_margin_mm}", "use 0 or more"
            )
        if self.orientation is not None and self.orientation not in ALL_ORIENTATIONS:
            raise ConfigError(
                "plan.orientation", f"is '{self.orientation}'", "use three letters such as RAS"
            )
        for name, each in (
            ("strides", "stage"),
            ("kernel_sizes", "stage"),
            ("object_sizes", "row"),
        ):
            rows = getattr(self, name)
            if rows is not None and any(
                len(row) != self.spatial_dims or min(row) < 1 for row in rows
            ):
                raise ConfigError(
                    f"plan.{name}",
                    f"is {plain(rows)}",
                    f"give {self.spatial_dims} numbers of 1 or more per {each}",
                )

    @property
    def open_entries(self) -> tuple[str, ...]:
        """Entries that a finished plan has and this one has not."""
        return tuple(
            name
            for name in self.__dataclass_fields__
            if name not in OPTIONAL and getattr(self, name) is None
        )

    @property
    def num_channels(self) -> int:
        """Image channels that the network sees."""
        assert self.normalisation is not None
        return len(self.normalisation)

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides along each axis: the patch size must be a multiple of it."""
        assert self.strides is not None
        return tuple(int(n) for n in np.prod(np.array(self.strides), axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; `Plan(**...)` reads it back."""
        return {key: plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, where: str = "plan") -> Plan:
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(where, f"has unknown entries {sorted(unknown)}", "remove them")
        return cls(**content)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=110)


def plain(value: Any) -> Any:
    """A value as YAML takes it: lists for tuples, Python's numbers for NumPy's."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
