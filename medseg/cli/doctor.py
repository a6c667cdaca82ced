"""`medseg doctor`: versions, devices, folders, and on request a configuration, data, a bundle or
networks.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

import medseg
from medseg.cli.console import console
from medseg.cli.data_report import source_findings
from medseg.cli.findings import Finding, Severity, finding_of
from medseg.config.build import build
from medseg.config.check import load_config
from medseg.config.compose import conf_dir, project_conf_dir, quoted
from medseg.core.errors import MedsegError
from medseg.core.free_memory import free_memory, total_memory
from medseg.core.labels import LabelSet
from medseg.data.spec import DatasetSpec

_PACKAGES = (
    "torch", "monai", "lightning", "tensorboard", "hydra-core", "omegaconf", "pydantic", "numpy",
    "scipy", "nibabel", "SimpleITK", "pydicom", "highdicom", "safetensors",
)  # fmt: skip
_GIB = 1024**3
_MOST_REPEATED = 10
# A run of the liver experiment with its cache and TensorBoard files takes about this much.
_LEAST_DISK_GIB = 2.0
_LEAST_MEMORY_GIB = 4.0


def run(cfg: DictConfig) -> int:
    """Prints what was found; returns 1 if anything is wrong, else 0."""
    sections = [
        ("Installation", installation()),
        ("Devices", devices()),
        ("Memory and folders", resources(cfg)),
        ("Configuration", configuration(cfg)),
    ]
    if cfg.source.get("folder") is not None:
        sections.append(("Data", data(cfg)))
    if cfg.bundle is not None:
        sections.append(("Bundle", bundle(str(cfg.bundle))))
    if cfg.get("model") is not None:
        from medseg.cli.model_report import network_findings

        sections.append(("Network", network_findings(cfg)))
    for title, findings in sections:
        _print_section(title, findings)
    if cfg.models:
        from medseg.cli.model_report import networks_table

        console.print(networks_table(cfg))
    problems = [f for _, findings in sections for f in findings if f.severity is Severity.PROBLEM]
    if not problems:
        console.print("\nEverything that was looked at is in order.")
        return 0
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    if len(problems) > _MOST_REPEATED:
        console.print(f"\n{count}, marked above.")
        return 1
    console.print(f"\n{count}:")
    for finding in problems:
        console.print(f"  {finding.subject}: {finding.text}", markup=False, soft_wrap=True)
    return 1


def installation() -> list[Finding]:
    """Versions of medseg, Python and the packages that matter, against what medseg requires."""
    findings = [
        Finding("medseg", f"{medseg.__version__} in {Path(medseg.__file__).parent}"),
        Finding("Python", f"{platform.python_version()}, {platform.platform()}"),
    ]
    required = _requirements()
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(name, f"is not installed; pip install {name}", Severity.PROBLEM)
            )
            continue
        wanted = required.get(name.lower())
        if wanted is not None and not wanted.contains(version, prereleases=True):
            findings.append(Finding(name, f"is {version}, medseg needs {wanted}", Severity.PROBLEM))
        else:
            findings.append(Finding(name, version))
    return findings


def devices() -> list[Finding]:
    """CPU and GPUs, and the number format that medseg would compute in on each."""
    import torch

    from medseg.inference.precision import best_precision

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [
        Finding(
            "CPU",
            f"{usable} cores, {torch.get_num_threads()} threads, "
            f"{torch.backends.cpu.get_cpu_capability()}; precision {best_precision('cpu')}",
        )
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is None:
            text = "none: this torch is built for the CPU only"
        else:
            text = (
                f"none found; torch is built for CUDA {built}, so look for the driver (nvidia-smi)"
            )
        return [*findings, Finding("GPU", text, Severity.NOTE)]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        findings.append(
            Finding(
                f"GPU {index}",
                f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB, CUDA {torch.version.cuda}; "
                f"precision {best_precision(f'cuda:{index}')}",
            )
        )
    return findings


def resources(cfg: DictConfig) -> list[Finding]:
    """Memory, and for each folder of `paths` whether it can be written and the space left."""
    available, total = free_memory() / _GIB, total_memory() / _GIB
    scarce = available < _LEAST_MEMORY_GIB
    findings = [
        Finding(
            "memory",
            f"{available:.1f} of {total:.1f} GiB free"
            + (f"; {_LEAST_MEMORY_GIB:g} GiB are advised" if scarce else ""),
            Severity.NOTE if scarce else Severity.OK,
        )
    ]
    for key in ("runs", "cache", "output"):
        folder = Path(str(cfg.paths[key])).absolute()
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            text = f"{folder} cannot be written to; set paths.{key}=<folder>"
            findings.append(Finding(f"paths.{key}", text, Severity.PROBLEM))
            continue
        free = shutil.disk_usage(existing).free / _GIB
        low = free < _LEAST_DISK_GIB
        text = f"{folder}, {free:.1f} GiB free"
        findings.append(
            Finding(
                f"paths.{key}",
                text + (f"; {_LEAST_DISK_GIB:g} GiB are advised" if low else ""),
                Severity.NOTE if low else Severity.OK,
            )
        )
    return findings


def configuration(cfg: DictConfig) -> list[Finding]:
    """Where options come from, which hide each other, and the configuration asked for."""
    findings = [Finding("medseg's options", str(conf_dir()))]
    project = project_conf_dir()
    if project is None:
        findings.append(Finding("your options", "none; put them into ./conf or $MEDSEG_CONF"))
    else:
        findings.append(Finding("your options", str(project)))
        findings += [
            Finding(
                str(path),
                "is never read, because medseg has an option of that name; rename it",
                Severity.PROBLEM,
            )
            for path in _hidden_options(project)
        ]
    if cfg.config is not None:
        findings += [_experiment(name) for name in _experiments(cfg)]
    return findings


def data(cfg: DictConfig) -> list[Finding]:
    """What the folder holds, read with the labels of the experiment if one was named."""
    folder = Path(str(cfg.source.folder))
    log = logging.getLogger("medseg")
    level = log.level
    log.setLevel(logging.ERROR)  # what the readers log is in the report
    try:
        return source_findings(build(cfg.source), folder, labels=_experiment_labels(cfg))
    except MedsegError as error:
        return [finding_of(error)]
    finally:
        log.setLevel(level)


def bundle(folder: str) -> list[Finding]:
    """Whether every file of a bundle is there and unchanged, and what it predicts."""
    from medseg.bundle import ModelBundle

    try:
        loaded = ModelBundle.load(folder)
        networks = loaded.build_networks()
    except MedsegError as error:
        return [finding_of(error)]
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    class_name = str(loaded.card["network"]["class"]).rpartition(".")[2]
    findings = [
        Finding("bundle", f"{loaded.name} in {folder}; every file is as training wrote it"),
        Finding("labels", ", ".join(loaded.labels.names)),
        Finding("networks", f"{len(networks)} {class_name}, {parameters:,} parameters"),
        Finding("sha256", loaded.sha256),
    ]
    if loaded.notice:
        findings.append(Finding("notice", loaded.notice, Severity.NOTE))
    return findings


def _experiments(cfg: DictConfig) -> list[str]:
    if cfg.config is None:
        return []
    return [cfg.config] if isinstance(cfg.config, str) else [str(name) for name in cfg.config]


def _experiment_labels(cfg: DictConfig) -> LabelSet | None:
    """Labels of the one experiment named, None without one or if it does not compose."""
    names = _experiments(cfg)
    if len(names) != 1:
        return None
    folder = quoted(cfg.source.folder)
    try:
        chosen = load_config("train", [f"+experiment={names[0]}", f"data.source.folder={folder}"])
    except MedsegError:  # reported with the configuration
        return None
    spec: DatasetSpec = build(chosen.data)
    return spec.label_set()


def _experiment(name: str) -> Finding:
    """Whether an experiment fits the code; a folder that is yet to be given is no fault."""
    try:
        load_config("train", [f"+experiment={name}"])
    except MedsegError as error:
        if error.where == "data.source.folder" and "has no value" in error.what:
            return Finding(name, "fits the code; needs data.source.folder=<folder>")
        return Finding(name, finding_of(error).text, Severity.PROBLEM)
    return Finding(name, "complete, and fits the code")


def _hidden_options(project: Path) -> list[Path]:
    shipped = conf_dir()
    return [
        path
        for path in sorted(project.rglob("*.yaml"))
        if (shipped / path.relative_to(project)).is_file()
        and (shipped / path.relative_to(project)).read_bytes() != path.read_bytes()
    ]


def _requirements() -> dict[str, Any]:
    """Version ranges from medseg's metadata by lower-case name; empty in a bare checkout."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("medseg") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in lines]
    return {item.name.lower(): item.specifier for item in parsed if item.marker is None}


def _print_section(title: str, findings: Sequence[Finding]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, style = finding.severity.value
        table.add_row(f"[{style}]{sign}[/]", escape(finding.subject), escape(finding.text))
    console.print(table)
    console.print()
