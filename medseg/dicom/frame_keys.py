"""What tells the frames at one position apart: times, phases, echoes and the like, from classic
headers and from functional groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medseg.dicom.values import text_any, text_of

# Elements of a classic header that tell the volumes of one series apart, most telling first.
EXACT_KEYS = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "DiffusionBValue",
    "DiffusionGradientOrientation",
    "EchoNumbers", "EchoTime", "EffectiveEchoTime", "InversionTime", "InversionTimes", "FlipAngle",
    "RepetitionTime", "ImageType", "ComplexImageComponent", "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase", "KVP", "ConvolutionKernel", "AcquisitionNumber",
)  # fmt: skip
# Phases of a heartbeat or breath; unlike clock times, not every slice has one of its own.
PHASE_KEYS = (
    "TriggerTime", "NominalCardiacTriggerDelayTime", "NominalRespiratoryTriggerDelayTime",
    "ImageTriggerDelay", "TemporalPositionTimeOffset",
)  # fmt: skip
# Elements that order the frames at one position in time; their values need not repeat between
# positions.
ORDER_KEYS = (
    *PHASE_KEYS, "FrameReferenceTime", "AcquisitionDateTime", "FrameReferenceDateTime",
    "AcquisitionTime", "ContentTime", "SeriesTime",
)  # fmt: skip
# Functional group that holds each element under its own name.
_MACROS = {
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameReferenceDateTime": "FrameContentSequence",
    "TemporalPositionTimeOffset": "TemporalPositionSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "InversionTimes": "MRModifierSequence",
    "FlipAngle": "MRTimingAndRelatedParametersSequence",
    "RepetitionTime": "MRTimingAndRelatedParametersSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "NominalPercentageOfRespiratoryPhase": "RespiratorySynchronizationSequence",
    "NominalRespiratoryTriggerDelayTime": "RespiratorySynchronizationSequence",
    "KVP": "CTXRayDetailsSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
}
_CONVERTED = "UnassignedPerFrameConvertedAttributesSequence"


def classic_keys(dataset: Any, where: str) -> dict[str, Any]:
    """Comparable text, or numbers where frames are ordered by it, by keyword; "" or None if absent.

    Args:
        dataset: header of a classic file.
        where: names it in errors.
    """
    keys: dict[str, Any] = {}
    for keyword in ("StackID", *EXACT_KEYS):
        keys[keyword] = text_of(dataset, keyword, where=where)
    for keyword in ORDER_KEYS:
        keys[keyword] = _order_value(text_of(dataset, keyword, where=where))
    # Not for geometry: it only tells that positions said to be equal are not.
    keys["SliceLocation"] = _order_value(text_of(dataset, "SliceLocation", where=where))
    return keys


def enhanced_keys(macro: Callable[[str], Any]) -> dict[str, Any]:
    """The same from a frame's functional groups.

    Args:
        macro: the item of a functional group by its keyword; None if the frame has none.
    """

    def text(sequence: str, keyword: str) -> str:
        item = macro(sequence)
        return "" if item is None else text_any(item, keyword)

    diffusion = macro("MRDiffusionSequence")
    gradient = ""
    if diffusion is not None:
        directions = diffusion.get("DiffusionGradientDirectionSequence")
        if directions:
            gradient = text_any(directions[0], "DiffusionGradientOrientation")
    frame_type = ""
    for sequence in (
        "MRImageFrameTypeSequence",
        "CTImageFrameTypeSequence",
        "PETFrameTypeSequence",
    ):
        frame_type = frame_type or text(sequence, "FrameType")
    keys: dict[str, Any] = {
        "StackID": text("FrameContentSequence", "StackID"),
        "DiffusionGradientOrientation": gradient,
        "ImageType": frame_type,
        "AcquisitionNumber": text("FrameContentSequence", "FrameAcquisitionNumber"),
        "DimensionIndexValues": text("FrameContentSequence", "DimensionIndexValues"),
        "AcquisitionDateTime": text("FrameContentSequence", "FrameAcquisitionDateTime"),
    }
    for keyword, sequence in _MACROS.items():
        keys[keyword] = text(sequence, keyword)
    # Converted objects keep what has no macro, such as TriggerTime, as it stood in the files.
    for keyword in (*EXACT_KEYS, *ORDER_KEYS):
        keys[keyword] = keys.get(keyword) or text(_CONVERTED, keyword)
    for keyword in ORDER_KEYS:
        keys[keyword] = _order_value(keys[keyword])
    return keys


def _order_value(text: str) -> float | None:
    """A time or number as something that sorts; None if absent or not a number."""
    try:
        return float(text) if text else None
    except ValueError:
        return None
