"""What results are labelled with, and the writers that are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from medseg import __version__
from medseg.config.build import accepts, build
from medseg.core.protocols import Writer


class Algorithm(Protocol):
    """What segments, by name; a bundle is one."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class ClassicalAlgorithm:
    """A classical method as results name it; it has no file of its own.

    Args:
        baseline: its name.
        sha256: of no file.
    """

    baseline: str
    sha256: str = ""

    @property
    def name(self) -> str:
        return f"medseg {self.baseline}"

    @property
    def version(self) -> str:
        return __version__


def build_writers(output: Mapping[str, Any], algorithm: Algorithm) -> list[Writer]:
    """One writer for each output; those that name the algorithm are told it.

    Args:
        output: nodes of the writers by name.
        algorithm: what segments.
    """
    facts = {"algorithm_name": algorithm.name, "algorithm_version": algorithm.version}
    if algorithm.sha256:
        facts["bundle_sha256"] = algorithm.sha256
    return [
        build(node, **{key: value for key, value in facts.items() if accepts(node, key)})
        for node in output.values()
    ]
