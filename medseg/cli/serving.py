"""What batch and serve have in common: the models of a configuration, the ledger, and stopping."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from medseg.cli.console import console
from medseg.config.build import build
from medseg.core.errors import ConfigError
from medseg.inference.ensemble import load_bundles
from medseg.services.ledger import Ledger
from medseg.services.models import ModelRecipe, baseline_recipe, recipe_of
from medseg.services.rules import SeriesRule


def recipes_of(cfg: DictConfig) -> dict[str, ModelRecipe]:
    """The models of a configuration by name: `models`, or the one `bundle` or baseline for every
    series.

    Raises:
        ConfigError: there is none, there are several kinds, or a rule cannot be understood.
        BundleError: a bundle is missing or damaged.
    """
    plain = _plain(cfg.models)
    baseline = _plain(cfg.get("baseline"))
    if baseline:
        return {"model": _baseline_recipe(cfg, baseline)}
    if not plain and cfg.bundle is None:
        raise ConfigError(
            "bundle", "no model is given", "set bundle=<folder>, baseline=<name> or models"
        )
    entries = plain or {"model": {"bundle": cfg.bundle}}
    recipes = {}
    for name, entry in entries.items():
        where = f"models.{name}"
        if not str(name).isidentifier():
            raise ConfigError(where, "cannot be part of a file name", "use letters and digits")
        if not isinstance(entry, Mapping) or entry.get("bundle") in (None, "", []):
            raise ConfigError(
                where if plain else "bundle",
                "has no bundle" if plain else "is an empty list",
                f"set {where}.bundle=<folder>" if plain else "set bundle=<folder>, or [A,B]",
            )
        rule = {key: value for key, value in entry.items() if key != "bundle"}
        recipes[str(name)] = recipe_of(
            str(name),
            _folders(entry["bundle"], f"{where}.bundle" if plain else "bundle"),
            rule=_rule(rule, where),
            inference=_plain(cfg.inference),
            postprocess=_plain(cfg.postprocess),
            objects=_plain(cfg.objects),
            output=_plain(cfg.output),
            deidentify=_plain(cfg.deidentify),
            device=cfg.device,
        )
    for recipe in recipes.values():
        notice = load_bundles(recipe.bundle).notice
        if notice:
            console.print(notice, style="bold yellow", markup=False)
    return recipes


def _baseline_recipe(cfg: DictConfig, baseline: Mapping[str, Any]) -> ModelRecipe:
    if cfg.bundle is not None or cfg.models:
        raise ConfigError(
            "baseline",
            "is given beside bundle or models",
            "leave one of them out: either segments by itself",
        )
    return baseline_recipe(
        baseline,
        postprocess=_plain(cfg.postprocess),
        output=_plain(cfg.output),
        deidentify=_plain(cfg.deidentify),
    )


def work_folder(cfg: DictConfig) -> Path:
    """Where unpacked archives and incoming studies lie: `paths.work`, else beside the ledger."""
    ledger = Path(cfg.paths.ledger)
    return Path(cfg.paths.work) if cfg.paths.work else ledger.with_name(f"{ledger.name}.work")


@contextmanager
def stopping(stop: threading.Event) -> Iterator[list[int]]:
    """Sets an event on SIGTERM and SIGINT; a second one ends the process at once.

    Yields:
        A list that holds the signal once it came.
    """
    came: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(code: int) -> None:
    """Ends the process without waiting for threads that are still at work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def open_ledger(cfg: DictConfig) -> Ledger:
    return Ledger(Path(cfg.paths.ledger))


def _plain(node: DictConfig | None) -> Mapping[str, Any]:
    if not node:
        return {}
    plain: Mapping[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return plain


def _folders(given: Any, where: str) -> str | list[str]:
    """Absolute paths of one folder or several."""
    is_list = isinstance(given, ListConfig | list)
    folders = list(given) if is_list else [given]
    if not all(isinstance(folder, str | int) for folder in folders):
        raise ConfigError(
            where,
            f"is {given}",
            "give the folder of a model, or a list of folders",
        )
    absolute = [str(Path(str(folder)).absolute()) for folder in folders]
    return absolute if is_list else absolute[0]


def _rule(values: Mapping[str, Any], where: str) -> SeriesRule:
    try:
        rule: SeriesRule = build({"_target_": f"{SeriesRule.__module__}.SeriesRule", **values})
    except ConfigError as error:
        names = ", ".join(SeriesRule.__dataclass_fields__)
        raise ConfigError(where, str(error), f"a model has bundle and any of {names}") from error
    return rule
