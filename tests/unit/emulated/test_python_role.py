"""A class of the user's own in a role's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vswitch.emulated.python_role import Node, Python, load_class
from vswitch.errors import NodeError
from vswitch.model.lab import Interface

from .asking import ask

INTERFACES = [Interface(name=name, mac=f"02:00:00:00:00:0{number}") for number, name in enumerate(("eth0", "eth1"))]
SECOND = 10**9


def make(user: Any) -> Python:
    role = Python(user, Node("mine", INTERFACES, {"colour": "red"}))
    role.setup()
    role.begin(0)
    return role


class Everything:
    tick_every = 0.5

    def setup(self, node: Node) -> None:
        self.node = node
        self.ticks = 0

    def received(self, frame: bytes, interface: str) -> bytes | list[bytes] | None:
        return {b"none": None, b"one": b"1", b"two": [b"2", interface.encode()]}[frame]

    def tick(self) -> None:
        self.ticks += 1
        self.node.send(b"tick", "eth1")
        self.node.send([b"tock", b"tock"])

    def command(self, argv: list[str]) -> object:
        if argv == ["fail"]:
            raise ZeroDivisionError("by zero")
        if argv == ["wrong"]:
            raise ValueError("not like that")
        return {"said": argv} if argv == ["json"] else self.node.options["colour"]

    def stats(self) -> dict[str, int]:
        return {"ticks": self.ticks}


def test_answers_go_back_where_the_frames_came_from() -> None:
    role = make(Everything())
    assert role.handle(1, [b"none", b"one", b"two"], 0) == [b"1", b"2", b"eth1"]
    assert json.loads(ask(role, "stats")[1]) == {"role": "python", "received": 3, "sent": 3, "ticks": 0}


def test_ticks_come_on_the_beat_and_what_they_send_is_sent_by_port() -> None:
    role = make(Everything())
    assert role.due() == 0
    assert role.emit(10, 256) == (1, [b"tick"])
    role.sent(1, 10)
    assert role.emit(10, 1) == (0, [b"tock"])
    role.sent(1, 10)
    role.sent(1, 10)
    assert role.due() == SECOND // 2
    role.emit(7 * SECOND // 4, 256)  # two beats missed
    for _ in range(3):
        role.sent(1, 0)
    assert role.due() == 2 * SECOND


def test_commands_of_the_class_stand_beside_ours() -> None:
    role = make(Everything())
    assert ask(role, "colour") == (0, "red\n", "")
    assert json.loads(ask(role, "json")[1]) == {"said": ["json"]}
    assert ask(role, "wrong") == (2, "", "not like that\n")
    assert ask(role, "fail") == (1, "", "ZeroDivisionError: by zero\n")
    assert "counters" in ask(role, "help")[1]


def test_class_without_commands_says_what_there_is() -> None:
    class Deaf:
        def received(self, frame: bytes, interface: str) -> None: ...

    code, _, err = ask(make(Deaf()), "dance")
    assert (code, "stats, reset, help" in err) == (127, True)


def test_class_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(NodeError, match="none of the methods received, tick and run"):
        make(object())


def test_queue_of_frames_to_send_is_bounded() -> None:
    node = Node("mine", INTERFACES, {})
    with pytest.raises(BufferError):
        node.send(b"x" for _ in range(70_000))
    with pytest.raises(KeyError):
        node.send(b"x", "eth9")


@pytest.fixture
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.mark.usefixtures("clean_path")
def test_class_is_found_beside_the_lab_file_or_named_as_missing(tmp_path: Path) -> None:
    (tmp_path / "emulated_knock.py").write_text("class Knocker: pass\nnothing = 1\n")
    (tmp_path / "emulated_torn.py").write_text("import emulated_no_such_thing\n")
    assert load_class("emulated_knock:Knocker", tmp_path).__name__ == "Knocker"
    for written, what in (
        ("emulated_knock:Nocker", "has no 'Nocker'"),
        ("emulated_knock:nothing", "is not a class"),
        ("emulated_nowhere:X", f"no module 'emulated_nowhere' in {tmp_path}"),
    ):
        with pytest.raises(NodeError, match=what):
            load_class(written, tmp_path)
    with pytest.raises(ModuleNotFoundError, match="emulated_no_such_thing"):
        load_class("emulated_torn:X", tmp_path)
