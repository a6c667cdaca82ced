"""A small configuration folder with one command, for tests of composing, checking and running."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "train.yaml": """
defaults:
  - _self_
  - paths: default
  - model: study
  - plan: auto
  - override hydra/hydra_logging: none
  - override hydra/job_logging: none
name: trial
fold: 0
seed: 0
resume: false
dry_run: false
hydra:
  run:
    dir: ${paths.runs}/${name}/fold_${fold}
  sweep:
    dir: ${paths.runs}
    subdir: ${name}/fold_${fold}
""",
    "paths/default.yaml": "runs: runs\ncache: cache\noutput: output\n",
    "plan/auto.yaml": "channels: null\nwidth: 3\n",
    "model/study.yaml": """
_target_: config_targets.Study
channels: 2
norm: instance
folder: null
scanner:
  _target_: config_targets.Scanner
  tesla: 1.5
""",
    "model/scanner.yaml": "_target_: config_targets.Scanner\ntesla: 3.0\n",
    "experiment/liver.yaml": "# @package _global_\nname: liver\nmodel: {norm: batch}\n",
    "experiment/needy.yaml": "# @package _global_\ndefaults:\n  - override /model: absent\n",
}


def make_conf(folder: Path, **changed: str) -> Path:
    """Writes the folder; `model__study="..."` replaces or adds model/study.yaml."""
    files = {**FILES, **{name.replace("__", "/") + ".yaml": text for name, text in changed.items()}}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
