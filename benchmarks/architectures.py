"""Measures every network of conf/model: what it costs, and what it learns in a given time.

    python benchmarks/architectures.py cost
    python benchmarks/architectures.py train --hippocampus DIR --nerves DIR [--minutes 10]
    python benchmarks/architectures.py table > docs/models.md

`cost` and `train` write one file per network below --folder and leave alone what is there already,
so they go on where they were stopped; --networks names some of them. Training is the public
command in a process of its own, with the plan it makes itself; Dice is the mean over labels and
validation cases of fold 0. `table` puts everything together.

Time is counted as processor time of one thread, however busy the machine is, so that several may
run side by side. A training gets twice --minutes of it: what two idle cores give in --minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from medseg.cli.model_report import measured
from medseg.config.check import load_config
from medseg.config.compose import conf_dir
from medseg.core.errors import MedsegError
from medseg.models.build import build_model

# Networks that find objects instead of giving logits are measured by benchmarks of their own.
NETWORKS = sorted(
    path.stem
    for path in (conf_dir() / "model").glob("*.yaml")
    if "object_sizes" not in yaml.safe_load(path.read_text())
)
DATA_SETS = {"hippocampus": 3, "nerves": 2}
CORES = 2
_ON_PROCESSOR_TIME = (
    "import sys, time; time.monotonic = time.process_time; "
    "from medseg.cli.commands import main; sys.exit(main())"
)


def cost(name: str) -> dict[str, Any]:
    """Parameters at the paper's width, and cost at the device's own plan, in 2D and 3D."""
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    config = load_config("doctor", [])
    facts: dict[str, Any] = {}
    for dims in (2, 3):
        network = build_model(name, spatial_dims=dims, in_channels=1, out_channels=3)
        plan, found = measured(config, name, spatial_dims=dims)
        facts[f"{dims}D"] = {
            "paper_parameters": sum(p.numel() for p in network.parameters()),
            "parameters": found.parameters,
            "patch_size": list(plan.patch_size or ()),
            "batch_size": plan.batch_size,
            "forward_flops": found.forward_flops,
            "step_flops": found.step_flops,
            "step_bytes": found.step_bytes,
            "step_seconds": found.step_seconds,
        }
    return facts


def train(
    name: str, data_set: str, source: Path, *, minutes: float, folder: Path
) -> dict[str, Any]:
    """Trains as a person would, and reads what the run left."""
    experiment = ["+experiment=hippocampus"] if data_set == "hippocampus" else []
    seconds = round(60 * minutes * CORES)
    command = [
        sys.executable, "-c", _ON_PROCESSOR_TIME, "train", *experiment,
        f"data.source.folder={source}",
        f"model={name}", f"model.spatial_dims={DATA_SETS[data_set]}", f"name={name}",
        f"paths.runs={folder / 'runs' / data_set}", f"paths.cache={folder / 'cache'}",
        f"trainer.max_time=00:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
    ]  # fmt: skip
    run = folder / "runs" / data_set / name / "fold_0"
    if (run / "last.ckpt").exists():
        command.append("resume=true")
    log = folder / data_set / f"{name}.log"
    started = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    facts: dict[str, Any] = {
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "minutes": minutes,
        "peak_mib": usage.ru_maxrss // 1024,
    }
    if process.returncode == 0:
        card = yaml.safe_load((run / "bundle" / "card.yaml").read_text())["training"]
        scores = json.loads((run / "scores.json").read_text())
        plan = yaml.safe_load((run / "bundle" / "plan.yaml").read_text())
        facts |= {
            "steps": card["steps"],
            "processor_seconds": card["seconds"],
            "dice": scores["overall"]["dice"]["mean"],
            "patch_size": plan["patch_size"],
            "batch_size": plan["batch_size"],
        }
    else:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        facts["error"] = lines[-1][:300] if lines else "said nothing"
    return facts


def table(folder: Path) -> str:
    """The page, with a gap wherever something has not been measured."""
    rows = [_row(name, folder) for name in NETWORKS]
    notes = sorted({note for _, note in rows if note})
    return "\n".join([*_HEAD, *(row for row, _ in rows), "", *notes]).rstrip() + "\n"


_HEAD = """\
# Networks

One row per option of `model=` that only gives a class for every voxel; every one takes 2D and 3D
images of any number of channels and classes. Networks that find objects (`mask2former` gives
classes alone too) are in
[instances.md](instances.md), what they cost in [benchmarks.md](benchmarks.md#parts-of-detectors).
Written by `python benchmarks/architectures.py table` from what its `cost` and `train` commands
measured; a dash is a number that has not been measured yet.
`python -m medseg doctor model=<name>` measures one on your machine, for your plan.

- params: millions, one image channel and three classes, at the width of the paper
  (`base_channels: 32`, what `medseg.build_model` gives), in 2D / 3D. Training takes the plan's
  width instead: 32 on a GPU, 16 on a CPU (`docs/decisions/0011`).
- GFLOP of one patch forwards, MiB of tensors in a training step, and processor seconds of a step on
  one thread without the optimizer, in 2D / 3D: at the plan for a large isotropic image on a CPU (16
  base channels).
- Dice: mean over labels and validation cases of fold 0 of Task04_Hippocampus (3D) and of the
  ultrasound nerves (2D), with the steps that the network made in so many minutes of two cores.
  Measured on an AMD EPYC (Zen 3) in fp32, commits d3b736a to 06f179f. Few had the ten
  minutes that +experiment=hippocampus takes, so that times differ; `unet` has 0.884 in them.
- `deeplab_v1` and `deeplab_v2` were published with a conditional random field behind them:
  `postprocess=random_field` adds one to any network, in training, `predict` or `ensemble`.

| model | paper | idea | params [M] | GFLOP | MiB | CPU s/step | Dice 3D | Dice 2D |
|---|---|---|---|---|---|---|---|---|""".splitlines()


def _row(name: str, folder: Path) -> tuple[str, str]:
    option = (conf_dir() / "model" / f"{name}.yaml").read_text()
    idea = option.splitlines()[0].lstrip("# ").rstrip(".")
    costs = _read(folder / "cost" / f"{name}.json")
    cells = [name, _paper(option), idea]
    for fact, unit in (
        ("paper_parameters", 1e6),
        ("forward_flops", 1e9),
        ("step_bytes", 2**20),
        ("step_seconds", 1.0),
    ):
        both = [_number(costs, dims, fact, unit) for dims in ("2D", "3D")]
        cells.append("-" if set(both) == {"-"} else " / ".join(both))
    errors = []
    for data_set, dims in DATA_SETS.items():
        facts = _read(folder / data_set / f"{name}.json")
        if "dice" in facts:
            cells.append(f"{facts['dice']:.3f} ({facts['steps']}; {facts['minutes']:g} min)")
        else:
            cells.append("-")
        if "error" in facts:
            errors.append(f"- {name}, {dims}D, did not train: {facts['error']}")
    return f"| {' | '.join(cells)} |", "\n".join(errors)


def _paper(option: str) -> str:
    """First source that the class names in its docstring."""
    module, _, name = str(yaml.safe_load(option)["_target_"]).rpartition(".")
    text = getattr(import_module(module), name).__doc__ or ""
    found = re.search(r"Source: (.*?)(?:;|\.$|\.\n|\Z)", text, re.DOTALL)
    return " ".join(found[1].split()) if found else "-"


def _number(costs: dict[str, Any], dims: str, fact: str, unit: float) -> str:
    if dims not in costs:
        return "-"
    value = costs[dims][fact] / unit
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _write(path: Path, facts: dict[str, Any]) -> None:
    """Whole or not at all, so that what is there can be relied upon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(facts, indent=1))
    half.replace(path)


def main() -> None:
    arguments = _arguments()
    folder: Path = arguments.folder.absolute()
    if arguments.command == "table":
        print(table(folder), end="")
        return
    for name in arguments.networks or NETWORKS:
        if arguments.command == "cost":
            path = folder / "cost" / f"{name}.json"
            if not path.exists():
                try:
                    _write(path, cost(name))
                except MedsegError as error:
                    print(f"{name}: {error}", flush=True)
                    continue
                print(f"{name}: measured", flush=True)
            continue
        for data_set in DATA_SETS:
            source = getattr(arguments, data_set)
            path = folder / data_set / f"{name}.json"
            if source is None or path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            facts = train(name, data_set, source, minutes=arguments.minutes, folder=folder)
            if not 0 <= facts["exit_code"] <= 128:
                raise SystemExit(f"{name} on {data_set}: was stopped")
            _write(path, facts)
            print(f"{name} on {data_set}: {facts}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["cost", "train", "table"])
    parser.add_argument("--folder", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--networks", nargs="*", choices=NETWORKS)
    parser.add_argument("--minutes", type=float, default=10.0)
    for name in DATA_SETS:
        parser.add_argument(f"--{name}", type=Path, help="folder of the data set")
    return parser.parse_args()


if __name__ == "__main__":
    main()
