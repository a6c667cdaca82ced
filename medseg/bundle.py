"""A trained model as a folder: weights, plan, labels, configuration and card. Loading it runs no
code from it.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from medseg.config.build import build_restricted, environment_packages
from medseg.core.atomic import write_bytes, write_text
from medseg.core.errors import BundleError, ConfigError, MedsegError
from medseg.core.labels import LabelSet
from medseg.data.plan import Plan
from medseg.models.detection.class_logits import with_class_logits

FORMAT_VERSION = 1
CASCADE_VERSION = 2
"""Of bundles with a coarse network, which a medseg that knows none must not read as if they had
none.
"""
COARSE = "coarse"
MAX_YAML_BYTES = 4 * 2**20
PLAIN_FILES = frozenset({"plan.yaml", "labels.yaml", "config.yaml"})
NETWORK_PACKAGES = ("medseg.models",)
"""Where the class of a bundle's network must be defined, unless $MEDSEG_ALLOWED_TARGETS adds the
user's own.
"""


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """Everything prediction needs.

    Args:
        folder: where it is stored.
        plan: spacing, patch, normalisation.
        labels: classes of the logits, in order.
        config: the training configuration, for people; never built from.
        card: name, notice, network, data, software versions and the sha256 of every file.
        sha256: of the card, and so of the whole bundle.
        coarse: the bundle inside whose network says where this one's looks; None without a cascade.
    """

    folder: Path
    plan: Plan
    labels: LabelSet
    config: Mapping[str, Any]
    card: Mapping[str, Any]
    sha256: str
    coarse: ModelBundle | None = None

    @property
    def name(self) -> str:
        return str(self.card.get("name", "model"))

    @property
    def notice(self) -> str:
        """A warning to be shown wherever the model is used; "" if there is none."""
        return str(self.card.get("notice", ""))

    @property
    def mirror_axes(self) -> str:
        return str(self.card.get("mirror_axes", ""))

    @property
    def postprocess(self) -> Mapping[str, Any]:
        """Options of `medseg.inference.postprocess.Postprocess` that prediction uses by default."""
        rules = self.card.get("postprocess")
        return rules if isinstance(rules, dict) else {}

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""
        return float(self.card.get("temperature", 1.0))

    @property
    def best_score(self) -> float:
        """The network's score from which on objects are best kept, as validation cases have it;
        predictions give them scores by which it is a half.
        """
        return float(self.card.get("best_score", 0.5))

    @property
    def task_kind(self) -> str:
        """What the network answers: "label_map", "instances" or "panoptic"."""
        return str(self.card.get("task", "label_map"))

    @property
    def version(self) -> str:
        """Version of the medseg that wrote it."""
        software = self.card.get("software")
        return str(software.get("medseg", "")) if isinstance(software, dict) else ""

    @property
    def num_channels(self) -> int:
        """Channels of the images that the network takes."""
        return int(self.card["network"]["options"]["in_channels"])

    @classmethod
    def load(cls, folder: str | Path) -> ModelBundle:
        """Reads a bundle and checks every file against its sha256.

        Raises:
            BundleError: the folder is no bundle, a file is missing or altered, or the format is
                newer.
        """
        folder = Path(folder)
        if not (folder / "card.yaml").is_file():
            inside = sorted(path.parent for path in folder.glob("**/card.yaml"))[:1]
            raise BundleError(
                folder,
                "is no model bundle: "
                + ("it holds no card.yaml" if folder.is_dir() else "there is no such folder"),
                f"did you mean bundle={inside[0]}?"
                if inside
                else "give the folder that training printed",
            )
        card_bytes = _read(folder / "card.yaml", limit=MAX_YAML_BYTES)
        card = _mapping(card_bytes, folder / "card.yaml")
        if card.get("format_version") not in (FORMAT_VERSION, CASCADE_VERSION):
            raise BundleError(
                folder / "card.yaml",
                f"has format version {card.get('format_version')!r}, "
                f"this medseg reads {FORMAT_VERSION} and {CASCADE_VERSION}",
                "use the medseg version that wrote it, or train again",
            )
        network = card.get("network")
        options = network.get("options") if isinstance(network, dict) else None
        if not isinstance(options, dict) or not isinstance(options.get("in_channels"), int):
            raise BundleError(
                folder / "card.yaml", "does not describe its network", "copy the bundle again"
            )
        temperature = card.get("temperature", 1.0)
        if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise BundleError(
                folder / "card.yaml",
                f"has the temperature {temperature!r}",
                "copy the bundle again",
            )
        best_score = card.get("best_score", 0.5)
        if not isinstance(best_score, int | float) or not 0 < best_score < 1:
            raise BundleError(
                folder / "card.yaml",
                f"has the best score {best_score!r}",
                "copy the bundle again",
            )
        files = card.get("sha256")
        names = {str(name) for name in files} if isinstance(files, dict) else set()
        if not names.issuperset(PLAIN_FILES) or not any(n.startswith("weights/") for n in names):
            raise BundleError(
                folder / "card.yaml", "does not list the bundle's files", "copy the bundle again"
            )
        for name, digest in dict(files or {}).items():
            path = _inside(folder, str(name))
            if hashlib.sha256(_read(path)).hexdigest() != digest:
                raise BundleError(
                    path, "differs from what training wrote (sha256)", "copy the bundle again"
                )
        try:
            plan = Plan.from_dict(
                _mapping(_read(folder / "plan.yaml", limit=MAX_YAML_BYTES), folder / "plan.yaml")
            )
            labels = LabelSet.from_mapping(
                _mapping(
                    _read(folder / "labels.yaml", limit=MAX_YAML_BYTES), folder / "labels.yaml"
                )
            )
        except (MedsegError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(folder, f"cannot be understood: {error}", "train again") from error
        if plan.open_entries:
            raise BundleError(
                folder / "plan.yaml",
                f"has no value for {', '.join(plan.open_entries)}",
                "train again",
            )
        if any(p % n for p, n in zip(plan.patch_size or (), plan.stride, strict=True)):
            raise BundleError(
                folder / "plan.yaml",
                f"has the patch size {list(plan.patch_size or ())}, no multiple of the network's "
                f"stride {list(plan.stride)}",
                "train again",
            )
        if len(plan.normalisation or ()) != options["in_channels"]:
            raise BundleError(
                folder, "plan and network differ in their number of channels", "train again"
            )
        config = _mapping(
            _read(folder / "config.yaml", limit=MAX_YAML_BYTES), folder / "config.yaml"
        )
        coarse = None
        if card["format_version"] == CASCADE_VERSION:
            coarse = cls._load_coarse(folder, names)
            _require_pair(folder, plan, labels, int(options["in_channels"]), coarse)
        sha256 = hashlib.sha256(card_bytes).hexdigest()
        return cls(folder, plan, labels, config, card, sha256, coarse)

    @classmethod
    def _load_coarse(cls, folder: Path, names: set[str]) -> ModelBundle:
        inside = folder / COARSE
        if f"{COARSE}/card.yaml" not in names:
            raise BundleError(
                folder / "card.yaml", "does not list its coarse network", "copy the bundle again"
            )
        # Looked at before it is loaded, so that a bundle cannot hold bundles without end.
        card = _mapping(_read(inside / "card.yaml", limit=MAX_YAML_BYTES), inside / "card.yaml")
        if card.get("format_version") != FORMAT_VERSION:
            raise BundleError(inside / "card.yaml", "is no single network", "copy the bundle again")
        return cls.load(inside)

    @classmethod
    def write(
        cls,
        folder: str | Path,
        *,
        weights: Mapping[str, Mapping[str, Tensor]],
        plan: Plan,
        labels: LabelSet,
        config: Mapping[str, Any],
        card: Mapping[str, Any],
        coarse: ModelBundle | None = None,
    ) -> ModelBundle:
        """Writes a bundle and reads it back; the card is written last, so a half-written one is
        none.

        Args:
            folder: made if it does not exist.
            weights: state dict of the network per file name, such as {"fold_0": ...}.
            plan, labels, config: see the class.
            card: needs "name" and "network" ({"class", "options"}); versions and hashes are added.
            coarse: of the coarse network, already written into the folder "coarse" of this one.
        """
        folder = Path(folder)
        contents: dict[str, bytes] = {
            "plan.yaml": plan.to_yaml().encode(),
            "labels.yaml": yaml.safe_dump(labels.to_mapping(), sort_keys=False).encode(),
            "config.yaml": yaml.safe_dump(dict(config), sort_keys=False).encode(),
        }
        for name, state in weights.items():
            plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
            contents[f"weights/{name}.safetensors"] = save_tensors(plain)
        for name, content in contents.items():
            write_bytes(folder / name, content)
        hashes = {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()}
        if coarse is not None:
            assert coarse.folder == folder / COARSE
            hashes[f"{COARSE}/card.yaml"] = coarse.sha256
        full_card = {
            "format_version": FORMAT_VERSION if coarse is None else CASCADE_VERSION,
            **card,
            "software": {
                "medseg": version("medseg"),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            "sha256": hashes,
        }
        write_text(folder / "card.yaml", yaml.safe_dump(full_card, sort_keys=False, width=110))
        return cls.load(folder)

    def build_networks(self) -> list[nn.Module]:
        """One network per weights file, with its weights, on CPU; class logits for label maps.

        Raises:
            BundleError: the network is unknown to this medseg, or the weights do not fit it.
        """
        networks = []
        facts = self.card["network"]
        for name in self.weight_files:
            path = _inside(self.folder, name)
            try:
                network = build_restricted(
                    {"_target_": facts["class"], **facts["options"]},
                    packages=(*NETWORK_PACKAGES, *environment_packages()),
                    extra={"out_channels": self.labels.num_outputs},
                )
                if not isinstance(network, nn.Module):
                    raise BundleError(
                        self.folder / "card.yaml",
                        f"{facts['class']} is no network",
                        "use the bundle as training wrote it",
                    )
                network.load_state_dict(load_tensors(_read(path)))
            except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
                reasons = [line.strip() for line in str(error).splitlines()]
                shown = " ".join(reasons[:2]) + (" ..." if len(reasons) > 2 else "")
                raise BundleError(
                    path,
                    f"does not fit the network: {shown}",
                    "copy the bundle again, or, if another version of medseg wrote it, train again",
                ) from error
            except ConfigError as error:
                raise BundleError(self.folder / "card.yaml", str(error), "train again") from error
            is_semantic = self.task_kind == "label_map"
            networks.append(with_class_logits(network) if is_semantic else network)
        return networks

    def exports(self, name: str) -> list[str]:
        """Files of the networks for another runtime, such as "onnx"; empty if it carries none."""
        return sorted(str(n) for n in self.card["sha256"] if str(n).startswith(f"{name}/"))

    def read(self, name: str) -> bytes:
        """Content of one of its files."""
        return _read(_inside(self.folder, name))

    def copy_with(
        self, folder: Path, files: Mapping[str, bytes], *, exports: Mapping[str, Any]
    ) -> ModelBundle:
        """Writes the bundle with more files, which may go to its own folder; exports of before that
        are not written again stay.

        Args:
            folder: made if it does not exist.
            files: content by name.
            exports: what the card says about each format of them.
        """
        digests = {str(name): str(digest) for name, digest in self.card["sha256"].items()}
        contents = dict(files)
        if folder.resolve() != self.folder.resolve():
            contents |= {name: self.read(name) for name in digests if name not in files}
            if self.coarse is not None:
                copied = self.coarse.copy_with(folder / COARSE, {}, exports={})
                contents[f"{COARSE}/card.yaml"] = copied.read("card.yaml")
        for name, content in contents.items():
            write_bytes(folder / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        known = self.card.get("exports")
        card = {
            **self.card,
            "exports": {**(known if isinstance(known, dict) else {}), **exports},
            "sha256": digests,
        }
        write_text(folder / "card.yaml", yaml.safe_dump(card, sort_keys=False, width=110))
        return type(self).load(folder)

    @property
    def weight_files(self) -> Sequence[str]:
        return sorted(str(name) for name in self.card["sha256"] if str(name).startswith("weights/"))


def _require_pair(
    folder: Path, plan: Plan, labels: LabelSet, num_channels: int, coarse: ModelBundle
) -> None:
    """Raises an error unless a coarse network sees the same images and labels."""
    if (
        plan.spatial_dims != 3
        or plan.coarse_margin_mm is None
        or coarse.plan.spatial_dims != 3
        or coarse.plan.orientation != plan.orientation
        or coarse.num_channels != num_channels
        or coarse.labels != labels
    ):
        raise BundleError(
            folder, "and its coarse network are made for different images", "train again"
        )


def _inside(folder: Path, name: str) -> Path:
    """Path of a bundle's file; refuses names and links that lead out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            folder / "card.yaml",
            f"names the file '{name}' outside the bundle",
            "use the bundle as training wrote it",
        )
    return path


def _read(path: Path, *, limit: int | None = None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise BundleError(path, f"is larger than {limit} bytes", "copy the bundle again")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            path, f"cannot be read: {error.strerror}", "copy the bundle again"
        ) from error


def _mapping(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(path, "is no plain YAML", "copy the bundle again") from error
    if not isinstance(value, dict):
        raise BundleError(path, "is no mapping", "copy the bundle again")
    return value
