"""Logits of a whole image from overlapping patches, blended with a Gaussian, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.inference.precision import Precision
from medseg.inference.tiling import Tiling, tile
from medseg.inference.uncertainty import Measure, PassMean

Network = Callable[[Tensor], Tensor]
Weights = Sequence[float] | Sequence[Sequence[float]]
EngineName = Literal["torch", "onnx", "openvino", "openvino_int8", "auto"]
Tta = Literal["none", "mirror"]


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished logits of some planes.

    Args:
        first: number of the first plane along the tiling's axis. A slab begins with the last plane
            of the one before it.
        logits: (C, n, P, Q), the tiling's axis first; valid until the next slab is asked for.
    """

    first: int
    logits: Tensor


@dataclass(frozen=True)
class SlidingWindow:
    """How an image larger than the patch is covered, and with what means.

    Args:
        overlap: share of the patch that neighbouring windows have in common, 0 to below 1.
        window_batch: windows computed at once; None takes 4 on CPU-sized patches and fewer for
            large ones.
        tta: "mirror" averages over all mirrored images along the axes that training mirrored.
        sigma: standard deviation of the blending Gaussian as a share of the patch
            (1/8, Isensee et al. 2021).
        engine: what computes the network.
        precision: that the network computes in; None takes the device's fastest without loss.
        memory_budget_gib: memory that the process may take; None takes what is free.
        skip_air: leave out windows of CT that show nothing but air and take them for background.
            Where such a window would have overlapped one that is computed, the latter alone counts.
        weights: of the probabilities of each bundle where there are several: a number for each, or
            a list for each with a number for each class (background first) or region; None for
            equal ones.
    """

    overlap: float = 0.5
    window_batch: int | None = None
    tta: Tta = "none"
    sigma: float = 0.125
    engine: EngineName = "torch"
    precision: Precision | None = None
    memory_budget_gib: float | None = None
    skip_air: bool = False
    weights: Weights | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError("inference.overlap", f"is {self.overlap}", "use 0 to 0.9")
        if self.window_batch is not None and self.window_batch < 1:
            raise ConfigError("inference.window_batch", f"is {self.window_batch}", "use 1 or more")
        if self.memory_budget_gib is not None and self.memory_budget_gib <= 0:
            raise ConfigError(
                "inference.memory_budget_gib",
                f"is {self.memory_budget_gib}",
                "use the GiB of memory that prediction may take, such as 8",
            )

    def tiling(
        self, shape: tuple[int, ...], patch_size: tuple[int, ...], stride: tuple[int, ...] | None
    ) -> Tiling:
        """Windows over an image; see `medseg.inference.tiling.tile`."""
        return tile(shape, patch_size, overlap=self.overlap, stride=stride)

    def batch(self, tiling: Tiling) -> int:
        """Patches, mirrored ones counted, that are computed at once."""
        # Small patches leave a device idle, large ones fill it by themselves.
        return self.window_batch or max(1, min(32, 4 * 64**3 // int(np.prod(tiling.window))))

    def mirrors(self, mirror_axes: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The axes that each pass over a window flips."""
        return mirror_combinations(mirror_axes if self.tta == "mirror" else ())

    def logits(
        self,
        network: Network,
        image: Tensor,
        *,
        patch_size: tuple[int, ...],
        out_channels: int,
        mirror_axes: tuple[int, ...] = (),
        stride: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Logits of every voxel, float32, shape (out_channels, I, J, K), on the image's device.

        Args:
            network: (N, C, *patch) to (N, out_channels, *patch); 2D networks see slices along K.
            image: (C, I, J, K), normalised.
            patch_size: 3 numbers, or 2 for a 2D network.
            out_channels: channels of the logits.
            mirror_axes: axes that test-time mirroring may flip.
            stride: extents the network takes are multiples of these, and windows may be larger than
                the patch; None keeps them at the patch size.
        """
        shape = tuple(image.shape[1:])
        tiling = self.tiling(shape, patch_size, stride)
        result = torch.empty((out_channels, *shape), device=image.device)
        planes = result.movedim(tiling.axis + 1, 1)
        slabs = self.slabs(
            network, image, tiling, out_channels=out_channels, mirror_axes=mirror_axes
        )
        for slab in slabs:
            planes[:, slab.first : slab.first + slab.logits.shape[1]] = slab.logits
        return result

    def slabs(
        self,
        network: Network,
        image: Tensor,
        tiling: Tiling,
        *,
        out_channels: int,
        mirror_axes: tuple[int, ...] = (),
        batch: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        measure: Measure | None = None,
        on_windows: Callable[[int], None] | None = None,
        elsewhere: Tensor | None = None,
    ) -> Iterator[Slab]:
        """Logits in slabs along the tiling's axis, each given away once no window will touch it.

        Args:
            network, image, out_channels, mirror_axes: as for `logits`.
            tiling: of the image.
            batch: patches computed at once; by default as `batch` says.
            dtype: that logits are added up in.
            device: that they are added up on; by default the image's.
            measure: given, the network is one that gives (N, folds, out_channels, *patch), and the
                logits have a last channel more: how much folds and mirrored images disagree
                (`PassMean`) in each window, blended as logits are.
            on_windows: told how many windows were computed, after each batch.
            elsewhere: logits (C,) of voxels that no window covers; needed where the tiling leaves
                windows out.
        """
        mirrors = self.mirrors(mirror_axes)
        batch = batch or self.batch(tiling)
        padded = _pad(image, tiling)
        importance = gaussian_importance(tiling.window, self.sigma).to(image.device)
        channels = out_channels + (measure is not None)
        sums = _Sums(tiling, channels, importance, dtype=dtype, device=device or image.device)
        layers = tiling.layers
        corners = [corner for _, layer in layers for corner in layer]
        passes = partial(_passes, network, mirrors=mirrors, batch=batch, measure=measure)
        at_once = max(1, batch // len(mirrors))
        outputs = _outputs(passes, padded, corners, tiling, importance, at_once, on_windows)
        for n, (start, layer) in enumerate(layers):
            for corner in layer:
                sums.add(_box(corner, tiling), next(outputs))
            stop = layers[n + 1][0] if n + 1 < len(layers) else tiling.padded[tiling.axis]
            slab = sums.finish(start, stop, elsewhere)
            if slab is not None:
                yield slab
            sums.drop(stop - start)


class _Sums:
    """Weighted logits of the planes that windows still touch; plane 0 is the last finished one."""

    def __init__(
        self,
        tiling: Tiling,
        channels: int,
        importance: Tensor,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._tiling = tiling
        self._importance = importance.movedim(tiling.axis, 0).to(device)
        self._total = torch.zeros((channels, *tiling.slab_shape), dtype=dtype, device=device)
        self._weight = torch.zeros(tiling.slab_shape, device=device)

    def add(self, box: tuple[slice, ...], output: Tensor) -> None:
        """Adds the weighted logits (C, *window) of a window."""
        axis = self._tiling.axis
        place = (slice(1, None), *(part for a, part in enumerate(box) if a != axis))
        self._total[(slice(None), *place)] += output.movedim(axis + 1, 1).to(self._total.device)
        self._weight[place] += self._importance

    def finish(self, start: int, stop: int, elsewhere: Tensor | None = None) -> Slab | None:
        """Logits of the planes of the padded image from `start` to `stop`, and the one before."""
        tiling = self._tiling
        for n in range(1, stop - start + 1):
            # Plane by plane, so that nothing of the size of a slab is made.
            plane = self._total[:, n].float() / self._weight[n]
            if elsewhere is not None:
                filling = elsewhere.to(plane.device)[:, None, None]
                plane = torch.where(self._weight[n] > 0, plane, filling)
            self._total[:, n] = plane
        axis = tiling.axis
        margin, extent = tiling.margin[axis], tiling.shape[axis]
        low = max(start - 1, margin) if start else margin
        high = min(stop, margin + extent)
        if high <= low:
            return None
        inner = tuple(
            slice(tiling.margin[a], tiling.margin[a] + tiling.shape[a])
            for a in range(3)
            if a != axis
        )
        part = self._total[(slice(None), slice(low - start + 1, high - start + 1), *inner)]
        return Slab(low - margin, part)

    def drop(self, count: int) -> None:
        """Forgets so many finished planes but the last."""
        depth = self._total.shape[1]
        for n in range(depth - count):
            self._total[:, n] = self._total[:, n + count]
            self._weight[n] = self._weight[n + count]
        self._total[:, depth - count :] = 0
        self._weight[depth - count :] = 0


@lru_cache(maxsize=16)
def gaussian_importance(window: tuple[int, ...], sigma: float) -> Tensor:
    """Weight of each voxel of a window, largest in the middle and nowhere zero."""
    importance = torch.ones(window)
    for axis, size in enumerate(window):
        offsets = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        profile = torch.exp(-0.5 * (offsets / max(sigma * size, 1e-3)) ** 2)
        view = [1] * len(window)
        view[axis] = size
        importance = importance * profile.view(view)
    return importance.clamp_min(float(importance.max()) * 1e-4)


def mirror_combinations(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets of the axes, the empty one first."""
    subsets: list[tuple[int, ...]] = [()]
    for axis in axes:
        subsets += [(*subset, axis) for subset in subsets]
    return subsets


def _outputs(
    passes: Network,
    padded: Tensor,
    corners: Sequence[tuple[int, ...]],
    tiling: Tiling,
    importance: Tensor,
    at_once: int,
    on_windows: Callable[[int], None] | None,
) -> Iterator[Tensor]:
    """Weighted logits (C, *window) of each window in turn, valid until the next is asked for;
    windows of different layers are computed together, so that slices of a 2D network are.
    """
    for first in range(0, len(corners), at_once):
        boxes = [_box(corner, tiling) for corner in corners[first : first + at_once]]
        patches = torch.stack([padded[(slice(None), *box)] for box in boxes])
        outputs = passes(patches[..., 0])[..., None] if tiling.is_flat else passes(patches)
        del patches
        outputs *= importance
        if on_windows:
            on_windows(len(boxes))
        for n in range(len(boxes)):
            yield outputs[n]
        del outputs  # before the next ones are made


def _passes(
    network: Network,
    patches: Tensor,
    *,
    mirrors: list[tuple[int, ...]],
    batch: int,
    measure: Measure | None,
) -> Tensor:
    """Mean logits over mirrored patches, as many at once as a batch holds; (N, C, *P) to
    (N, out, *P) float32, which belongs to the caller.
    """
    mean = PassMean(measure)
    at_once = max(1, batch // len(patches))
    for first in range(0, len(mirrors), at_once):
        group = mirrors[first : first + at_once]
        turned = torch.cat([torch.flip(patches, [axis + 2 for axis in axes]) for axes in group])
        outputs = network(turned).float().chunk(len(group))
        for axes, output in zip(group, outputs, strict=True):
            for fold in (output,) if measure is None else output.unbind(1):
                mean.add(torch.flip(fold, [axis + 2 for axis in axes]) if axes else fold)
    return mean.result()


def _box(corner: tuple[int, ...], tiling: Tiling) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(corner, tiling.window, strict=True))


def _pad(image: Tensor, tiling: Tiling) -> Tensor:
    """The image, with zeros around it where the window is larger."""
    sides: list[int] = []
    for before, whole, extent in reversed(
        list(zip(tiling.margin, tiling.padded, tiling.shape, strict=True))
    ):
        sides += [before, whole - extent - before]
    return F.pad(image, sides) if any(sides) else image
