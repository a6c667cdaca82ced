"""`python -m medseg phantom`: synthetic studies with references, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_FORMATS = ("nifti", "dicom")


def run(cfg: DictConfig) -> int:
    """Writes `num_cases` phantoms below `paths.output` and says what to type next."""
    formats = [cfg.format] if isinstance(cfg.format, str) else list(cfg.format)
    unknown = sorted(set(formats) - set(_FORMATS))
    if unknown or not formats:
        raise ConfigError(
            "format",
            f"is {formats}, must be some of {', '.join(_FORMATS)}",
            "set format=nifti, format=dicom or 'format=[nifti,dicom]'",
        )
    from medseg.sources.phantom_files import write_dataset

    output = Path(str(cfg.paths.output))
    images = write_dataset(output, num_cases=cfg.num_cases, seed=cfg.seed, formats=formats)
    print(f"Wrote {cfg.num_cases} synthetic abdominal CT with references below {output}:")
    for image in images:
        print(f"  {image.relative_to(output)}")
    source = output / ("imagesTr" if "nifti" in formats else "dicom")
    print(
        "Next:\n"
        f"  python -m medseg predict bundle=<bundle> source.folder={source} "
        "paths.output=predictions\n"
        "  python -m medseg evaluate predictions=predictions "
        f"references={output / 'labelsTr'} bundle=<bundle> paths.output=scores"
    )
    if "nifti" in formats:
        print(f"  python -m medseg train +experiment=liver data.source.folder={output}")
    return 0
