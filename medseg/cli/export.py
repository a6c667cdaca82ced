"""`medseg export`: a bundle with its networks for other runtimes."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from medseg.bundle import ModelBundle
from medseg.cli.console import console
from medseg.config.build import accepts, build
from medseg.core.protocols import Source
from medseg.export.int8 import INT8
from medseg.export.write import export_bundle

MAX_IMAGES = 3


def run(cfg: DictConfig) -> int:
    """Returns 0; a network that cannot be exported, or deviates, is an error."""
    bundle = ModelBundle.load(cfg.bundle)
    formats = [cfg.format] if isinstance(cfg.format, str) else list(cfg.format)
    volumes, labelled = [], []
    if cfg.source.folder is not None:
        extra = {"num_channels": bundle.num_channels} if accepts(cfg.source, "num_channels") else {}
        source: Source = build(cfg.source, **extra)
        cases = source.cases()
        volumes = [case.read_image() for case in cases[:MAX_IMAGES]]
        labelled = [case for case in cases if not case.is_held_out]
    folder = Path(cfg.paths.output)
    parity = export_bundle(bundle, formats, folder, volumes=volumes, labelled=labelled)
    for name, found in parity.items():
        console.print(f"{name}: {found}", soft_wrap=True, markup=False)
    if not volumes:
        console.print(
            "compared on noise: set source.folder=<images> to compare on patches of images",
            soft_wrap=True,
            markup=False,
        )
    console.print(
        f"the bundle is in {folder}; predict with it by inference.engine="
        f"{INT8 if formats == [INT8] else 'auto'}",
        soft_wrap=True,
        markup=False,
    )
    return 0
