"""What a detector learns from, what it says of an image, and what every detector offers.

Boxes are (n, 2 * dims): the lower corner, then the upper one, both along the array axes (i, j[, k])
and on voxel edges, so that the object of the single voxel 0 has the box 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Output = Tensor | list[Tensor]
"""Raw output of a network: one tensor, or one for each resolution."""


@dataclass(frozen=True)
class Objects:
    """The reference objects of one image.

    Args:
        boxes: (n, 2 * dims) float, the least boxes around the masks.
        classes: (n,) long, 1..C-1; 0 is background and never an object's class.
        masks: (n, *S) bool on the image's grid; objects may overlap, none is empty.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Objects:
        """The same objects on a device."""
        return Objects(self.boxes.to(device), self.classes.to(device), self.masks.to(device))

    @classmethod
    def from_masks(cls, masks: Tensor, classes: Tensor) -> Objects:
        """Objects with the least boxes around their masks (n, *S); empty masks are left out."""
        kept = masks.flatten(1).any(1)
        masks, classes = masks[kept], classes[kept].long()
        return cls(boxes_of(masks), classes, masks)

    @classmethod
    def none(cls, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Objects:
        """No objects in an image of extents (*S)."""
        masks = torch.zeros(0, *shape, dtype=torch.bool, device=device)
        return cls.from_masks(masks, torch.zeros(0, dtype=torch.long, device=device))


@dataclass(frozen=True)
class Detections:
    """The objects that a detector finds in one image, best first.

    Masks are kept as pieces, so that thousands of objects need no more memory than their boxes.

    Args:
        boxes: (n, 2 * dims) float, within the image.
        scores: (n,) float in [0, 1], falling.
        classes: (n,) long, 1..C-1.
        corners: (n, dims) long, the first voxel of each piece.
        masks: n tensors (*extents of the piece), bool, none of them empty; pieces lie within the
            image. All tensors are on the same device as the boxes.
        probabilities: of the masks, n tensors of each piece and one voxel around it
            (*extents + 2), 0 where the object cannot be, such as beyond the image; from a half on a
            voxel is in the mask. None where a detector knows masks alone.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    corners: Tensor
    masks: tuple[Tensor, ...]
    probabilities: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def mask(self, index: int, shape: Sequence[int]) -> Tensor:
        """Mask of one object on the image's grid: bool, (*shape)."""
        whole = torch.zeros(tuple(shape), dtype=torch.bool, device=self.boxes.device)
        whole[self.region(index)] = self.masks[index]
        return whole

    def region(self, index: int) -> tuple[slice, ...]:
        """Where the piece of one object lies in the image."""
        corner = self.corners[index].tolist()
        extents = self.masks[index].shape
        return tuple(slice(n, n + extent) for n, extent in zip(corner, extents, strict=True))

    def select(self, indices: Tensor) -> Detections:
        """Some of the detections, in the order of `indices` (long)."""
        chosen, values = indices.tolist(), self.probabilities
        return Detections(
            self.boxes[indices],
            self.scores[indices],
            self.classes[indices],
            self.corners[indices],
            tuple(self.masks[n] for n in chosen),
            None if values is None else tuple(values[n] for n in chosen),
        )

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on a device."""
        values = self.probabilities
        return Detections(
            self.boxes.to(device),
            self.scores.to(device),
            self.classes.to(device),
            self.corners.to(device),
            tuple(mask.to(device) for mask in self.masks),
            None if values is None else tuple(piece.to(device) for piece in values),
        )

    @classmethod
    def none(cls, dims: int, *, device: torch.device | str = "cpu") -> Detections:
        """No detections in an image of `dims` axes."""
        return cls(
            torch.zeros(0, 2 * dims, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
            torch.zeros(0, dims, dtype=torch.long, device=device),
            (),
        )


@runtime_checkable
class Detector(Protocol):
    """A network that finds objects; each is an `nn.Module` as well.

    The constructor takes (in_channels, out_channels, *, spatial_dims, base_channels, strides,
    object_sizes, ...): `out_channels` counts background, and `object_sizes` are the plan's, extents
    of typical objects in voxels of the network's image.

    Attributes:
        stride: what it divides the image's extents by, per axis; other extents are padded.
        min_size: least extents of an image, per axis.
        tasks: what it can be trained for, "instance", "panoptic" and "semantic", of which the last
            two need semantic logits; a class attribute.
        reads_stuff: whether it learns from the classes of voxels for "instance" too; may be left
            out.
    """

    stride: tuple[int, ...]
    min_size: tuple[int, ...]

    def forward(self, image: Tensor) -> dict[str, Output]:
        """Raw outputs of (N, C, *S), plain tensors."""
        ...

    def losses(
        self,
        outputs: dict[str, Output],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Terms of the loss by name, weighted already: their sum is what training lowers.

        A second stage runs here, on the features in `outputs`, so the gradients are those of one
        network. Terms stay connected to the outputs for images without objects.

        Args:
            outputs: of `forward` in training mode.
            objects: for each image of the batch; objects of classes that are stuff are left out.
            semantic: (N, *S) long, a class for every voxel, things and stuff; needed by networks
                with a semantic branch. Negative voxels count for nothing. Voxels of a thing class
                that belong to no object in `objects` must be negative.
        """
        ...

    def detect(
        self,
        outputs: dict[str, Output],
        *,
        shape: Sequence[int],
        max_objects: int = 1000,
        min_score: float = 0.05,
    ) -> list[Detections]:
        """Objects of each image, from the outputs of `forward` in evaluation mode.

        Networks with one head for things and stuff also find stuff, as objects of its classes;
        whoever asks for things alone leaves them out.

        Args:
            outputs: of `forward`.
            shape: extents (*S) of the image that `forward` was given.
            max_objects: the best ones are kept.
            min_score: worse ones are left out.
        """
        ...

    def semantic_logits(self, outputs: dict[str, Output], *, shape: Sequence[int]) -> Tensor | None:
        """(N, out_channels, *shape) whose softmax are the class probabilities of every voxel; None
        from networks without a semantic branch.

        Args:
            outputs: of `forward`.
            shape: extents (*S) of the image that `forward` was given.
        """
        ...


def boxes_of(masks: Tensor) -> Tensor:
    """Least boxes (n, 2 * dims) around masks (n, *S), none of which is empty."""
    dims = masks.ndim - 1
    lower, upper = [], []
    for axis in range(dims):
        others = tuple(n + 1 for n in range(dims) if n != axis)
        touched = masks.any(others) if others else masks  # (n, extent)
        extent = touched.shape[1]
        places = torch.arange(extent, device=masks.device)
        lower.append(torch.where(touched, places, extent).amin(1))
        upper.append(torch.where(touched, places + 1, 0).amax(1))
    return torch.stack(lower + upper, 1).float()
