"""Configuration values against the annotations of the arguments they are meant for."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

# A folder called 2024 arrives as a number, because YAML and Hydra read it as one.
_CONFIG = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)

_SINGULAR: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
    None: "null",
}
_PLURAL: dict[Any, str] = {
    int: "whole numbers",
    float: "numbers",
    bool: "true or false values",
    str: "texts",
    Path: "paths",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def coerce(value: Any, annotation: Any) -> tuple[Any, str]:
    """The value as the annotation wants it (a list as a tuple), and "must be ..." if it cannot.

    Annotations that cannot be checked let every value pass.
    """
    if annotation is Any:
        return value, ""
    try:
        adapter = _adapter(annotation)
    except Exception:  # an annotation that pydantic has no rule for
        return value, ""
    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        return value, _explain(error, annotation)
    except TypeError:  # a Protocol that cannot be checked at run time
        return value, ""
    is_lazy = type(result).__module__.startswith(
        "pydantic"
    )  # an Iterable is checked when it is read
    return (value if is_lazy else result), ""


def describe(annotation: Any) -> str:
    """The values that an annotation stands for, in words: 'a list of 3 whole numbers'."""
    phrases: list[str] = []
    choices: list[str] = []
    for member in _members(annotation):
        if get_origin(member) is Literal:
            choices += [_quoted(choice) for choice in get_args(member)]
        elif isinstance(member, type) and issubclass(member, Enum):
            choices += [_quoted(item.value) for item in member]
        else:
            phrases.append(_phrase(member))
    return _joined(list(dict.fromkeys(choices + phrases)))


def _explain(error: ValidationError, annotation: Any) -> str:
    sentences: list[str] = []
    has_wrong_kind = False
    for detail in error.errors(include_url=False, include_input=False):
        context = detail.get("ctx", {})
        bound = next((f"{w} {context[key]}" for key, w in _BOUNDS.items() if key in context), None)
        if detail["type"] in ("value_error", "assertion_error"):
            sentences.append(str(detail["msg"]).partition(", ")[2])
        elif detail["type"] == "string_pattern_mismatch":
            sentences.append(f"must match {context['pattern']}")
        elif bound is not None:
            place = "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
            sentences.append(f"must be {bound}{f' at {place}' if place else ''}")
        else:
            has_wrong_kind = True
    unique = list(dict.fromkeys(sentences))
    if not has_wrong_kind:
        return "; ".join(unique)
    bounds = "".join(f", {text.removeprefix('must be ')}" for text in unique)
    return f"must be {describe(annotation)}{bounds}"


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _phrase(member: Any) -> str:
    if member in _SINGULAR:
        return _SINGULAR[member]
    origin, arguments = get_origin(member) or member, get_args(member)
    if not isinstance(origin, type):
        return str(member)
    if issubclass(origin, Mapping):
        if len(arguments) == 2:
            return f"a mapping of names to {_plural(arguments[1])}"
        return "a mapping"
    if issubclass(origin, tuple) and arguments and arguments[-1] is not Ellipsis:
        kinds = list(dict.fromkeys(arguments))
        if len(kinds) == 1:
            return f"a list of {len(arguments)} {_plural(kinds[0])}"
        return f"a list of {', '.join(describe(kind) for kind in arguments)}"
    if issubclass(origin, Sequence | set | frozenset):
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    return f"a node that builds a {origin.__name__}"


def _plural(annotation: Any) -> str:
    members = list(_members(annotation))
    if all(member in _PLURAL for member in members):
        return _joined([_PLURAL[member] for member in members])
    return f"values, each {describe(annotation)}"


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return TypeAdapter(annotation, config=_CONFIG)
        except PydanticUserError:  # dataclasses and models bring their own configuration
            return TypeAdapter(annotation)


def _quoted(choice: Any) -> str:
    return "null" if choice is None else repr(choice)


def _joined(phrases: list[str]) -> str:
    return " or ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
