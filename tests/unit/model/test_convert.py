"""Types no setting of today has, but a driver may use tomorrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import Struct

from vswitch.model.convert import BAD, Converter, type_info
from vswitch.model.parse import parse
from vswitch.model.problems import Problems


class Socket(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="socket"):
    path: str


class Device(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="device"):
    number: int = 0


def convert(text: str, kind: Any) -> tuple[Any, list[str]]:
    problems = Problems("f")
    root = parse(text, problems, {})
    assert root is not None
    value = Converter(problems, Path()).value(root, type_info(kind), ())
    return value, [f"{problem.where}: {problem.what}" for problem in problems.errors]


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("auto", "auto"), ("true", True), ("1.5", 1.5), ("[a, b]", ("a", "b"))]
)
def test_union_takes_the_member_that_fits(text: str, value: object) -> None:
    kind = int | float | Literal["auto"] | bool | tuple[str, ...] | None
    converted, problems = convert(text, kind)
    assert (converted, type(converted), problems) == (value, type(value), [])


def test_union_that_nothing_fits_says_what_would() -> None:
    value, problems = convert("x", int | Literal["auto"] | bool)
    assert value is BAD
    (problem,) = problems
    assert problem.startswith("lab file: expected ")
    assert problem.endswith("not 'x'")
    assert all(words in problem for words in ("a whole number", "auto", "true or false"))


def test_union_of_mappings_is_chosen_by_its_tag() -> None:
    assert convert("{type: device, number: 3}", Socket | Device) == (Device(3), [])
    assert convert("{type: socket, path: x}", Socket | Device) == (Socket("x"), [])
    assert convert("{type: sockt}", Socket | Device)[1] == [
        "type: unknown type 'sockt'; known: device, socket; did you mean 'socket'?"
    ]
    assert convert("{path: x}", Socket | Device)[1][0].startswith("lab file: needs 'type': ")
    assert convert("{type: device, path: x}", Socket | Device)[1] == ["lab file: unknown key 'path'; known: number"]
