"""One case through one bundle: image in, label map and probabilities on the input grid out, without
ever holding all logits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.config.build import build_restricted
from medseg.core.errors import BundleError, ConfigError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.engines import SteadyEngine, TorchEngine, is_out_of_memory
from medseg.inference.memory import MemoryUse, Progress, on_device, patch_bytes, plan_memory
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import best_device, best_precision
from medseg.inference.regions import background_logits, foreground_mask, narrowed
from medseg.inference.runtimes import make_engine
from medseg.inference.sliding_window import Slab, SlidingWindow
from medseg.inference.tiling import Tiling
from medseg.inference.upsample import (
    LabelResult,
    LabelRule,
    MapResult,
    upsample_labels,
    upsample_probabilities,
)
from medseg.models.layout import in_fast_layout
from medseg.tasks.decoding import probabilities
from medseg.transforms.preprocess import Preprocessed, preprocess
from medseg.transforms.restore import turn_back, turned_shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """Logits of one image in network space.

    Args:
        logits: (channels, I, J, K), on the predictor's device.
        source: grid of the image.
    """

    logits: Tensor
    source: Geometry


class NetworkPredictor:
    """Segments cases with the networks of a bundle; several folds are averaged as logits.

    Args:
        bundle: loaded bundle.
        inference: how images are covered with windows, and within which memory.
        postprocess: how the label map is corrected; None does what the bundle says.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        precision: "bf16-mixed", "16-mixed" or "32-true"; None takes the fastest native one.
        on_progress: told before the first window of each image and after every few.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        inference: SlidingWindow | None = None,
        postprocess: Postprocess | None = None,
        device: str | None = None,
        precision: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.bundle = bundle
        self.inference = inference or SlidingWindow()
        self.postprocess = postprocess or postprocess_of(bundle)
        self.device = device or best_device()
        self.precision = precision or best_precision(self.device)
        self.on_progress = on_progress
        self.networks: Sequence[nn.Module] = [
            self.postprocess.refined(
                in_fast_layout(network.to(self.device).eval(), self.device), bundle.labels
            )
            for network in bundle.build_networks()
        ]
        in_torch = TorchEngine(self.networks, device=self.device, precision=self.precision)
        self._require_torch_for_random_fields()
        self.engine = SteadyEngine(
            make_engine(bundle, self.inference.engine, in_torch, precision=self.precision)
        )
        # Exported networks take patches of the plan's extent alone.
        is_free = self.engine.engine.name == "torch"
        self._stride = free_stride(self.networks[0]) if is_free else None
        self.mirror_axes = mirror_axes_in_network(bundle.plan, bundle.mirror_axes)
        self.coarse: NetworkPredictor | None = None
        if bundle.coarse is not None:
            self.coarse = NetworkPredictor(
                bundle.coarse,
                inference=replace(self.inference, tta="none", engine="torch"),
                postprocess=Postprocess(),
                device=self.device,
                precision=self.precision,
            )
        self._patch_bytes: dict[tuple[int, ...], float] = {}

    def predict(self, case: Case) -> LabelMap:
        """Label map on the grid of the case's image."""
        return self.predict_prepared(self.prepare(case.read_image()))[0]

    def predict_volume(self, volume: Volume) -> LabelMap:
        """Label map on the grid of the volume."""
        return self.predict_prepared(self.prepare(volume))[0]

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        """Label map and probabilities on the grid of the case's image, from one run of the network.

        Probabilities are calibrated with the bundle's temperature and not post-processed.
        """
        prepared = self.prepare(case.read_image())
        label_map, shares = self.predict_prepared(prepared, wants_probabilities=True)
        assert shares is not None
        return label_map, shares

    def prepare(self, volume: Volume) -> Preprocessed:
        """The volume as the network sees it: all that can be done before the network is free."""
        prepared = preprocess(volume, self.bundle.plan)
        if self.coarse is None:
            return prepared
        return replace(prepared, coarse=self.coarse.prepare(volume))

    def predict_prepared(
        self, prepared: Preprocessed, *, wants_probabilities: bool = False
    ) -> tuple[LabelMap, ProbabilityMap | None]:
        """Label map and, if wanted, probabilities of a prepared image."""
        source = prepared.source
        image = torch.from_numpy(prepared.array)
        tiling = self._tiling(image, prepared)
        axis = tiling.axis
        # The axis that slabs are counted along comes first.
        old = _axis_first(tiling.shape, axis)
        new = _axis_first(turned_shape(source, self.bundle.plan.orientation), axis)
        labels = LabelResult(old, new, rule=self._rule)
        shares: MapResult | None = None
        if wants_probabilities:
            shares = MapResult(old, new, num_maps=self._num_shares, measure=self._shares)
        result_bytes = 2.0 * labels.array.nbytes + (2.0 * shares.array.nbytes if shares else 0)
        for slab in self._slabs(image, tiling, result_bytes=result_bytes):
            labels.add(slab.first, slab.logits)
            if shares is not None:
                shares.add(slab.first, slab.logits)
        label_map = self._finished(np.moveaxis(labels.array, 0, axis), source)
        if shares is None:
            return label_map, None
        return label_map, self._share_map(np.moveaxis(shares.array, 1, axis + 1), source)

    def network_output(self, volume: Volume) -> NetworkOutput:
        """Logits of a volume in network space, as a whole: for choices that need them all."""
        prepared = self.prepare(volume)
        image = torch.from_numpy(prepared.array)
        logits = self.logits(image, tiling=self._tiling(image, prepared))
        return NetworkOutput(logits, prepared.source)

    def label_map(self, output: NetworkOutput) -> LabelMap:
        """Post-processed label map on the grid of the image."""
        classes = upsample_labels(
            output.logits,
            turned_shape(output.source, self.bundle.plan.orientation),
            paints=self._rule.paints,
            offsets=self._rule.offsets,
            num_classes=self._rule.num_classes,
        )
        return self._finished(classes, output.source)

    def probability_map(self, output: NetworkOutput) -> ProbabilityMap:
        """Calibrated probabilities on the grid of the image; of regions, with a background before
        them that is 1 minus the likeliest.
        """
        shares = upsample_probabilities(
            output.logits,
            turned_shape(output.source, self.bundle.plan.orientation),
            activation=self._shares,
            num_maps=self._num_shares,
        )
        return self._share_map(shares, output.source)

    def logits(self, image: Tensor, *, tiling: Tiling | None = None) -> Tensor:
        """Mean logits of all folds, shape (channels, I, J, K).

        Args:
            image: preprocessed, shape (C, I, J, K).
            tiling: windows to be computed; by default all that cover the image.

        Raises:
            MedsegError: a logit is not finite.
        """
        tiling = tiling or self._tiling(image)
        channels = self.bundle.labels.num_outputs
        result = torch.empty((channels, *tiling.shape))
        planes = result.movedim(tiling.axis + 1, 1)
        for slab in self._slabs(image, tiling, result_bytes=float(result.nbytes)):
            planes[:, slab.first : slab.first + slab.logits.shape[1]] = slab.logits
        return result

    def _tiling(self, image: Tensor, prepared: Preprocessed | None = None) -> Tiling:
        """All windows, or in a cascade those where the coarse network sees something."""
        plan = self.bundle.plan
        tiling = self.inference.tiling(
            tuple(image.shape[1:]), tuple(plan.patch_size or ()), self._stride
        )
        if self.coarse is None or prepared is None or prepared.coarse is None:
            return tiling
        logits = self.coarse.logits(torch.from_numpy(prepared.coarse.array))
        mask = foreground_mask(logits, self.bundle.labels)
        margin = [(plan.coarse_margin_mm or 0) / mm for mm in prepared.geometry.spacing_mm]
        tiling = narrowed(tiling, mask, margin=margin)
        logger.info(
            "the fine network looks at %d of %d windows", tiling.num_windows, len(tiling.starts)
        )
        return tiling

    def _require_torch_for_random_fields(self) -> None:
        if self.postprocess.random_field and self.inference.engine != "torch":
            raise ConfigError(
                "inference.engine",
                f"is {self.inference.engine}, and the random field of postprocess needs torch",
                "set inference.engine=torch, or leave out the random field",
            )

    def _slabs(self, image: Tensor, tiling: Tiling, *, result_bytes: float) -> Iterator[Slab]:
        """Finite logits of an image, slab by slab, within the budget."""
        memory = self._memory(tiling, result_bytes)
        progress = Progress(0, tiling.num_windows, 0.0, memory)
        if self.on_progress:
            self.on_progress(progress)
        start = time.monotonic()

        def count(windows: int) -> None:
            nonlocal progress
            progress = replace(
                progress, done=progress.done + windows, seconds=time.monotonic() - start
            )
            if self.on_progress:
                self.on_progress(progress)

        run = partial(
            self.inference.slabs,
            self.engine,
            on_device(image, self.device),
            tiling,
            out_channels=self.bundle.labels.num_outputs,
            mirror_axes=self.mirror_axes,
            batch=memory.batch,
            dtype=memory.dtype,
            on_windows=count,
            elsewhere=None if tiling.chosen is None else background_logits(self.bundle.labels),
        )
        for slab in self._with_sums_that_fit(run):
            # A sum needs no memory, and shows anything that is not finite.
            if not all(plane.sum(dtype=torch.float32).isfinite() for plane in slab.logits):
                raise MedsegError(
                    "network",
                    "gives values that are not finite with precision "
                    f"{self.engine.engine.precision}",
                    "predict with precision 32-true, and look at the training's loss",
                    code="E_PREDICTION",
                )
            yield slab

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

    def _memory(self, tiling: Tiling, result_bytes: float) -> MemoryUse:
        window = tiling.window[:2] if tiling.is_flat else tiling.window
        channels = self.bundle.labels.num_outputs
        if window not in self._patch_bytes:
            self._patch_bytes[window] = patch_bytes(
                self.networks,
                in_channels=self.bundle.num_channels,
                out_channels=channels,
                window=window,
            )
        return plan_memory(
            tiling,
            channels=channels,
            result_bytes=result_bytes,
            patch_bytes=self._patch_bytes[window],
            batch=self.inference.batch(tiling),
            budget_gib=self.inference.memory_budget_gib,
        )

    @property
    def _rule(self) -> LabelRule:
        labels = self.bundle.labels
        return LabelRule(
            labels.num_outputs,
            paints=[region.paints for region in labels.regions] or None,
            offsets=self.postprocess.logit_offsets(labels),
            num_classes=len(labels),
        )

    def _finished(self, classes: NDArray[Any], source: Geometry) -> LabelMap:
        """A label map in network orientation on the grid of the image, post-processed."""
        array = turn_back(classes, source, orientation=self.bundle.plan.orientation)
        return self.postprocess.apply(LabelMap(array, source, self.bundle.labels))

    @property
    def _num_shares(self) -> int:
        labels = self.bundle.labels
        return labels.num_outputs + (1 if labels.regions else 0)

    def _shares(self, logits: Tensor) -> Tensor:
        """Probabilities (n, shares, *S) of logits (n, C, *S)."""
        labels = self.bundle.labels
        shares = probabilities(logits, labels, axis=1, temperature=self.bundle.temperature)
        if not labels.regions:
            return shares
        return torch.cat([1 - shares.amax(1, keepdim=True), shares], dim=1)

    def _share_map(self, shares: NDArray[np.float32], source: Geometry) -> ProbabilityMap:
        labels = self.bundle.labels
        if labels.regions:
            names = [region.name for region in labels.regions]
            labels = LabelSet.from_names([labels.names[0], *names])
        array = turn_back(shares, source, orientation=self.bundle.plan.orientation)
        return ProbabilityMap(array, source, labels)


def _axis_first(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (shape[axis], *(n for a, n in enumerate(shape) if a != axis))


def free_stride(network: nn.Module) -> tuple[int, ...] | None:
    """What extents of the network's input must be multiples of; None if they cannot be chosen."""
    if getattr(network, "full_size", None) is not None:
        return None  # positions are learnt for one extent
    stride: tuple[int, ...] | None = getattr(network, "stride", None)
    return stride


def postprocess_of(bundle: ModelBundle) -> Postprocess:
    """What a bundle says is to be done to its label maps.

    Raises:
        BundleError: it cannot be understood.
    """
    node = {"_target_": f"{Postprocess.__module__}.Postprocess", **bundle.postprocess}
    try:
        rules: Postprocess = build_restricted(node, packages=(Postprocess.__module__,), extra={})
        rules.logit_offsets(bundle.labels)
    except MedsegError as error:
        raise BundleError(
            bundle.folder / "card.yaml", f"postprocess: {error}", "set postprocess=none"
        ) from error
    return rules


def mirror_axes_in_network(plan: Plan, mirror_axes: str) -> tuple[int, ...]:
    """Axes of network space that run along the patient axes named by letters of "RAS"."""
    if plan.orientation is None:
        # Images without a patient orientation: R and A stand for their two axes.
        axes = ["RAS".index(letter) for letter in mirror_axes]
    else:
        patient = ["RAS".find(c) if c in "RAS" else "LPI".find(c) for c in plan.orientation]
        axes = [patient.index("RAS".index(letter)) for letter in mirror_axes]
    return tuple(int(axis) for axis in np.unique(axes) if axis < plan.spatial_dims)
