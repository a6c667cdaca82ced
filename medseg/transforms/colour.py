"""Grey and coloured 2D pictures brought to one number of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from medseg.core.errors import InputError
from medseg.core.volume import Volume


def as_colour(volume: Volume, colour: Literal["grey", "rgb"]) -> Volume:
    """The picture with one channel ("grey") or three ("rgb").

    Args:
        volume: shape (1 or 3, I, J, K).
        colour: "grey" takes one of three equal channels, "rgb" repeats a single one.

    Raises:
        InputError: E_CHANNELS, other numbers of channels, or colours where grey is needed.
    """
    wanted = 1 if colour == "grey" else 3
    if volume.num_channels == wanted:
        return volume
    if volume.num_channels not in (1, 3):
        raise InputError(
            "image",
            f"has {volume.num_channels} channels, a picture has 1 or 3",
            "save it as grey or RGB",
            code="E_CHANNELS",
        )
    if colour == "rgb":
        return replace(volume, array=np.repeat(volume.array, 3, axis=0))
    red, green, blue = volume.array
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise InputError(
            "image",
            "is coloured, the model was trained on grey images",
            "save it as grey, or train with coloured images among the others",
            code="E_CHANNELS",
        )
    return replace(volume, array=volume.array[:1])
