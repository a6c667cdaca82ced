"""Writes docs/dicom_outcomes.md: what the reader makes of every file and folder of the shared
`dicom` set.

Run as `python tests/dicom_outcomes.py SET > docs/dicom_outcomes.md`, with SET the unpacked set.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, defaultdict
from pathlib import Path

from medseg.core.errors import InputError
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_dicom_volumes, read_found

# Why refusing is right, by code; the message of the file says what was found.
WHY = {
    "E_MOSAIC": "Slices tiled into one image; their positions stand only in private elements.",
    "E_CINE": "Several frames over time without positions: no volume.",
    "E_MISSING_TAG": "Position, extent or identity would have to be guessed.",
    "E_DUPLICATE": (
        "The set holds the same image several times under one SOPInstanceUID, in different "
        "encodings."
    ),
    "E_DUPLICATE_POSITION": (
        "Nothing but InstanceNumber or file names tells the images at one position apart."
    ),
    "E_SLICE_GAP": "Slices are missing (the set holds excerpts); on_gap=resample reads whole gaps.",
    "E_MIXED_ORIENTATION": "Several orientations under one series.",
    "E_MIXED_MATRIX": "Images of different size or colour under one series.",
    "E_PIXEL_DATA": "Bytes are missing, or the codestream contradicts the header or is damaged.",
    "E_HEADER": (
        "The header ends early or the file is damaged; it may belong to any series beside it."
    ),
    "E_TRANSFER_SYNTAX": (
        "A retired or foreign transfer syntax that no decoder here is trusted with."
    ),
    "E_NO_IMAGES": "No image: another kind of object, or no DICOM at all.",
}


def alone(root: Path, path: Path) -> str:
    """What comes of one file given by itself: "read", or a code with its message or reason."""
    try:
        read_dicom_volumes(path)
    except InputError as error:
        what = error.what.split(":")[0] if error.code == "E_HEADER" else error.what
        return f"{error.code} {what}".replace(str(root), "").replace("|", "/").split("\n")[0]
    return "read"


def folder_row(root: Path, folder: Path) -> str:
    """Table row of a folder read as a whole."""
    index = index_folder(folder)
    shapes: Counter[str] = Counter()
    refused = Counter(error.code for error in index.refused)
    for found in index.volumes:
        try:
            volume = read_found(found)
        except InputError as error:
            refused[error.code] += 1
            continue
        channels = f"{volume.num_channels} x " if volume.num_channels > 1 else ""
        size = " x ".join(map(str, volume.spatial_shape))
        tilt = ", straightened" if any("tilt" in note for note in volume.notes) else ""
        shapes[f"{volume.modality} {channels}{size}{tilt}"] += 1
    left_out = Counter(item.reason.split(",")[0].removeprefix("is ") for item in index.left_out)
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    cells = [
        f"`{folder.relative_to(root)}`",
        str(files),
        _joined(shapes),
        _joined(refused),
        _joined(left_out),
    ]
    return "| " + " | ".join(cells) + " |"


def _joined(counts: Counter[str]) -> str:
    parts = [f"{count} of {name}" if count > 1 else name for name, count in sorted(counts.items())]
    return "; ".join(parts).replace("|", "/")


def main(root: Path) -> None:
    logging.disable(logging.WARNING)
    root = root.resolve()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    folders = sorted({path.parent for path in files})
    lines = [
        "# What the DICOM reader makes of the shared set",
        "",
        "Written by `tests/dicom_outcomes.py`. Codes are explained in "
        "[input_errors.md](input_errors.md).",
        "",
        "## Folders, each read as a whole",
        "",
        "| folder | files | volumes read | series refused | left out |",
        "|---|---|---|---|---|",
    ]
    lines += [folder_row(root, folder) for folder in folders]
    outcomes: dict[tuple[str, str], list[Path]] = defaultdict(list)
    read = 0
    for path in files:
        outcome = alone(root, path)
        if outcome == "read":
            read += 1
        else:
            outcomes[(str(path.parent.relative_to(root)), outcome)].append(path)
    lines += [
        "",
        "## Files, each given alone",
        "",
        f"Of {len(files)} files {read} are read and {len(files) - read} are refused or hold no "
        "image:",
        "",
        "| folder | files | code | what was found |",
        "|---|---|---|---|",
    ]
    used = set()
    for (folder, outcome), paths in sorted(outcomes.items()):
        code, _, what = outcome.partition(" ")
        used.add(code)
        names = f"`{paths[0].name}`" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        lines.append(f"| `{folder}` | {names} | {code} | {what} |")
    used |= {code for code in WHY if any(code in line for line in lines)}
    lines += ["", "## Why each refusal is right", "", "| code | reason |", "|---|---|"]
    lines += [f"| {code} | {WHY[code]} |" for code in sorted(used)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
