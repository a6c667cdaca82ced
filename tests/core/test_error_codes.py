"""Every error code that the code can raise is explained to the user, and none that it cannot."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import medseg

DOCUMENT = Path(__file__).parents[2] / "docs" / "input_errors.md"


def codes_in_code() -> set[str]:
    found = set()
    for path in Path(medseg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if re.fullmatch(r"E_[A-Z0-9_]+", node.value) else set()
    return found


def codes_in_document() -> set[str]:
    return set(re.findall(r"\bE_[A-Z0-9_]*[A-Z0-9]", DOCUMENT.read_text()))


def test_every_code_is_documented():
    assert sorted(codes_in_code() - codes_in_document()) == []


def test_every_documented_code_exists():
    assert sorted(codes_in_document() - codes_in_code()) == []
