"""A bundle's networks on a device: prepared images in, logits slab by slab out, within a budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.air import air_levels, without_air
from medseg.inference.engines import SteadyEngine, TorchEngine, is_out_of_memory
from medseg.inference.memory import MemoryUse, on_device, patch_bytes, plan_memory
from medseg.inference.postprocess import Postprocess
from medseg.inference.regions import background_logits, foreground_mask, narrowed
from medseg.inference.runtimes import make_engine
from medseg.inference.sliding_window import Slab, SlidingWindow, Tta
from medseg.inference.tiling import Tiling
from medseg.inference.uncertainty import Measure
from medseg.models.layout import in_fast_layout
from medseg.transforms.preprocess import Preprocessed, preprocess

logger = logging.getLogger(__name__)

TRIAL_FROM = 16
"""Patches, mirrored ones counted, from which one is computed beforehand to see how long it takes.
"""


class BundleNetworks:
    """All networks of a bundle; those of several folds are averaged as logits.

    Args:
        bundle: loaded bundle.
        inference: how images are covered with windows, and within which memory.
        postprocess: of it, the random field.
        device: "cpu" or "cuda".
        precision: "bf16-mixed", "16-mixed" or "32-true".
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        inference: SlidingWindow,
        postprocess: Postprocess,
        device: str,
        precision: str,
    ) -> None:
        self.bundle = bundle
        self.inference = inference
        self.device = device
        if postprocess.random_field and inference.engine != "torch":
            raise ConfigError(
                "inference.engine",
                f"is {inference.engine}, and the random field of postprocess needs torch",
                "set inference.engine=torch, or leave out the random field",
            )
        self.networks: Sequence[nn.Module] = [
            postprocess.refined(in_fast_layout(network.to(device).eval(), device), bundle.labels)
            for network in bundle.build_networks()
        ]
        in_torch = TorchEngine(self.networks, device=device, precision=precision)
        self.engine = SteadyEngine(
            make_engine(bundle, inference.engine, in_torch, precision=precision)
        )
        # Exported networks take patches of the plan's extent alone.
        is_free = self.engine.engine.name == "torch"
        self._stride = free_stride(self.networks[0]) if is_free else None
        self.mirror_axes = mirror_axes_of(bundle, tta=inference.tta)
        self.coarse: BundleNetworks | None = None
        if bundle.coarse is not None:
            self.coarse = BundleNetworks(
                bundle.coarse,
                inference=replace(inference, tta="none", engine="torch", skip_air=False),
                postprocess=Postprocess(),
                device=device,
                precision=precision,
            )
        self._patch_bytes: dict[tuple[int, ...], float] = {}
        self._patch_seconds: dict[tuple[int, ...], float] = {}

    @property
    def num_passes(self) -> int:
        """Times that a window is computed: by each fold, for each mirrored image."""
        return len(self.networks) * len(self.inference.mirrors(self.mirror_axes))

    def prepare(self, volume: Volume) -> Preprocessed:
        """The volume as the networks see it: all that can be done before the device is free."""
        prepared = preprocess(volume, self.bundle.plan)
        if self.coarse is None:
            return prepared
        return replace(prepared, coarse=self.coarse.prepare(volume))

    def tiling(self, prepared: Preprocessed, *, along: int | None = None) -> Tiling:
        """All windows; in a cascade those where the coarse network sees something, and with
        `skip_air` those that show more than air.

        Args:
            prepared: image.
            along: axis of the slabs; None takes the one with the smallest.
        """
        plan = self.bundle.plan
        image = torch.from_numpy(prepared.array)
        tiling = self.inference.tiling(
            tuple(image.shape[1:]), tuple(plan.patch_size or ()), self._stride
        )
        tiling = replace(tiling, along=along)
        if self.inference.skip_air:
            tiling = without_air(tiling, image, air_levels(plan))
        if self.coarse is None or prepared.coarse is None:
            return tiling
        coarse = prepared.coarse
        logits = self.coarse.logits(torch.from_numpy(coarse.array), self.coarse.tiling(coarse))
        mask = foreground_mask(logits, self.bundle.labels)
        margin = [(plan.coarse_margin_mm or 0) / mm for mm in prepared.geometry.spacing_mm]
        tiling = narrowed(tiling, mask, margin=margin)
        logger.info(
            "the fine network looks at %d of %d windows", tiling.num_windows, len(tiling.starts)
        )
        return tiling

    def logits(self, image: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Mean logits of all folds, shape (channels, I, J, K).

        Args:
            image: preprocessed, shape (C, I, J, K).
            tiling: windows to be computed; by default all that cover the image.

        Raises:
            MedsegError: a logit is not finite.
        """
        tiling = tiling or self.inference.tiling(
            tuple(image.shape[1:]), tuple(self.bundle.plan.patch_size or ()), self._stride
        )
        result = torch.empty((self.bundle.labels.num_outputs, *tiling.shape))
        planes = result.movedim(tiling.axis + 1, 1)
        memory = self.memory(tiling, result_bytes=float(result.nbytes))
        for slab in self.slabs(image, tiling, memory):
            planes[:, slab.first : slab.first + slab.logits.shape[1]] = slab.logits
        return result

    def slabs(
        self,
        image: Tensor,
        tiling: Tiling,
        memory: MemoryUse,
        *,
        measure: Measure | None = None,
        on_windows: Callable[[int], None] | None = None,
    ) -> Iterator[Slab]:
        """Finite logits of an image, slab by slab.

        Args:
            image, tiling: as for `logits`.
            memory: how it is to be computed.
            measure: given, the disagreement of all passes comes as a last channel.
            on_windows: told how many windows were computed, after each batch.
        """
        start = time.monotonic()
        done = 0

        def count(windows: int) -> None:
            nonlocal done
            done += windows
            mirrors = len(self.inference.mirrors(self.mirror_axes))
            self._patch_seconds[tiling.window] = (time.monotonic() - start) / (done * mirrors)
            if on_windows:
                on_windows(windows)

        elsewhere = None if tiling.chosen is None else background_logits(self.bundle.labels)
        if elsewhere is not None and measure is not None:
            elsewhere = torch.cat([elsewhere, torch.zeros(1)])  # nothing disagrees
        run = partial(
            self.inference.slabs,
            self.engine if measure is None else self.engine.each,
            on_device(image, self.device),
            tiling,
            out_channels=self.bundle.labels.num_outputs,
            mirror_axes=self.mirror_axes,
            batch=memory.batch,
            dtype=memory.dtype,
            measure=measure,
            on_windows=count,
            elsewhere=elsewhere,
        )
        for slab in self._with_sums_that_fit(run):
            # A sum needs no memory, and shows anything that is not finite.
            if not all(plane.sum(dtype=torch.float32).isfinite() for plane in slab.logits):
                raise MedsegError(
                    "network",
                    "gives values that are not finite with precision "
                    f"{self.engine.engine.precision}",
                    "set inference.precision=32-true unless it is, and look at the training's loss",
                    code="E_PREDICTION",
                )
            yield slab

    def memory(
        self,
        tiling: Tiling,
        *,
        result_bytes: float,
        has_spread: bool = False,
        others_bytes: float = 0.0,
    ) -> MemoryUse:
        """How an image is computed within the budget.

        Args:
            tiling: of the image.
            result_bytes: what results will take.
            has_spread: the disagreement of passes is wanted.
            others_bytes: what other bundles will hold at the same time.

        Raises:
            MedsegError: the budget does not suffice.
        """
        window = tiling.window[:2] if tiling.is_flat else tiling.window
        channels = self.bundle.labels.num_outputs
        if window not in self._patch_bytes:
            self._patch_bytes[window] = patch_bytes(
                self.networks,
                in_channels=self.bundle.num_channels,
                out_channels=channels,
                window=window,
            )
        each = self._patch_bytes[window]
        if has_spread:
            # Logits of every fold, and probabilities with what their entropy is computed from.
            each += 4.0 * channels * float(np.prod(window)) * (len(self.networks) + 4)
        return plan_memory(
            tiling,
            channels=channels + has_spread,
            result_bytes=result_bytes,
            patch_bytes=each,
            batch=self.inference.batch(tiling),
            budget_gib=self.inference.memory_budget_gib,
            others_bytes=others_bytes,
        )

    def expected_seconds(self, image: Tensor, tiling: Tiling) -> float:
        """How long the networks will take: as long for each window as in the image before, or as
        long as a trial of the patch in the middle takes; nan for a few windows that nothing is
        known of.
        """
        count = tiling.num_windows * len(self.inference.mirrors(self.mirror_axes))
        if tiling.window not in self._patch_seconds:
            if count < TRIAL_FROM:
                return float("nan")
            self._patch_seconds[tiling.window] = self._tried(image, tiling)
        return count * self._patch_seconds[tiling.window]

    def _tried(self, image: Tensor, tiling: Tiling) -> float:
        """Seconds for one patch, the shorter of two: the first call warms up."""
        places = [slice((n - w) // 2, (n - w) // 2 + w) if n > w else slice(0, n)
                  for n, w in zip(tiling.shape, tiling.window, strict=True)]  # fmt: skip
        patch = image.new_zeros(1, image.shape[0], *tiling.window)
        inside = image[(slice(None), *places)]
        patch[0][(slice(None), *(slice(n) for n in inside.shape[1:]))] = inside
        times = []
        for _ in range(2):
            start = time.monotonic()
            self.engine(patch[..., 0] if tiling.is_flat else patch)
            times.append(time.monotonic() - start)
        return min(times)

    def _with_sums_that_fit(self, run: Callable[..., Iterator[Slab]]) -> Iterator[Slab]:
        """Slabs added up on the device, or on the CPU if its memory does not suffice."""
        if torch.device(self.device).type != "cpu":
            try:
                slabs = run(device=self.device)
                first = next(slabs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("logits are added up on the CPU: they do not fit on the GPU")
                torch.cuda.empty_cache()
            else:
                yield first
                yield from slabs
                return
        yield from run(device="cpu")


def free_stride(network: nn.Module) -> tuple[int, ...] | None:
    """What extents of the network's input must be multiples of; None if they cannot be chosen."""
    if getattr(network, "full_size", None) is not None:
        return None  # positions are learnt for one extent
    stride: tuple[int, ...] | None = getattr(network, "stride", None)
    return stride


def mirror_axes_of(bundle: ModelBundle, *, tta: Tta) -> tuple[int, ...]:
    """Axes of network space that training mirrored; warns where mirrored images are asked of a
    bundle that has not seen any.
    """
    axes = mirror_axes_in_network(bundle.plan, bundle.mirror_axes)
    if tta == "mirror" and not axes:
        logger.warning(
            "inference.tta=mirror changes nothing: %s was trained without mirrored images",
            bundle.name,
        )
    return axes


def mirror_axes_in_network(plan: Plan, mirror_axes: str) -> tuple[int, ...]:
    """Axes of network space that run along the patient axes named by letters of "RAS"."""
    if plan.orientation is None:
        # Images without a patient orientation: R and A stand for their two axes.
        axes = ["RAS".index(letter) for letter in mirror_axes]
    else:
        patient = ["RAS".find(c) if c in "RAS" else "LPI".find(c) for c in plan.orientation]
        axes = [patient.index("RAS".index(letter)) for letter in mirror_axes]
    return tuple(int(axis) for axis in np.unique(axes) if axis < plan.spatial_dims)
