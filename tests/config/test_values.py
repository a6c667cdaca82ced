from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
from pydantic import Field

from medseg.config.values import coerce, describe


class Unchecked(Protocol):
    def act(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        ([1, 2, 3], tuple[int, int, int], (1, 2, 3)),
        ([1, 2.5], tuple[float, ...], (1.0, 2.5)),
        (1, float, 1.0),
        (2024, str, "2024"),
        (2024, str | None, "2024"),
        ("/data", Path, Path("/data")),
        (None, int | None, None),
        ("group", Literal["group", 3], "group"),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ("anything", Any, "anything"),
        ("anything", Unchecked, "anything"),
        (32, Literal[32, "bf16-mixed"] | None, 32),
    ],
)
def test_a_fitting_value_takes_the_declared_type(value, annotation, result):
    assert coerce(value, annotation) == (result, "")
    assert type(coerce(value, annotation)[0]) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation", "expectation"),
    [
        ("a", int, "must be a whole number"),
        (2.5, int, "must be a whole number"),
        ("a", float | None, "must be a number or null"),
        ("group", Literal["instance", "batch"], "must be 'instance' or 'batch'"),
        ("perhaps", bool, "must be true or false"),
        ([1, 2], tuple[int, int, int], "must be a list of 3 whole numbers"),
        ([1, 2, "c"], tuple[int, int, int], "must be a list of 3 whole numbers"),
        ("ab", Sequence[int] | int, "must be a list of whole numbers or a whole number"),
        (None, str, "must be text"),
        ([1], dict[str, float], "must be a mapping of names to numbers"),
        (-1, Annotated[int, Field(ge=0)], "must be at least 0"),
        (
            -1,
            Annotated[int, Field(ge=0)] | Literal["all"],
            "must be 'all' or a whole number, at least 0",
        ),
        ("a b", Annotated[str, Field(pattern=r"^\w+$")], r"must match ^\w+$"),
        (3, Path | None, "must be a path or null"),
    ],
)
def test_a_value_that_does_not_fit_is_answered_with_what_would(value, annotation, expectation):
    result, text = coerce(value, annotation)

    assert text == expectation
    assert result == value


def test_an_iterable_is_passed_on_as_it_was_given():
    value = [1, 2]

    assert coerce(value, Iterable[int])[0] is value


def test_a_class_is_described_as_a_node_that_builds_it():
    assert describe(Unchecked | None) == "a node that builds a Unchecked or null"
