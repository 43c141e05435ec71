"""Fixtures of the end-to-end tests: small lab files, and a count of everything a lab could leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

PAIR = """\
name: pair
networks: {lan0: {subnet: 10.0.0.0/24}}
nodes:
  a: {kind: netns}
  b: {kind: netns}
links:
  - [a:eth0, lan0]
  - [b:eth0, lan0]
"""


@pytest.fixture
def lab_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a lab file and return its path."""

    def write(text: str = PAIR, name: str = "lab.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


class Leftovers(NamedTuple):
    """What exists on this machine that a lab could have made: process and namespace counts would be noisy beside other
    tests, so only things with the mark of a lab under `runtime` are listed.
    """

    processes: frozenset[int]
    namespaces: frozenset[str]
    shm: frozenset[str]

    @classmethod
    def of(cls, runtime: Path) -> Leftovers:
        """Look: processes of labs in `runtime`, by their run ids, their network namespaces, and shared memory files."""
        mark = f"@{runtime}/vswitch".encode()
        processes, namespaces = set(), set()
        own = Path("/proc/self/ns/net").readlink()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                if any(v.startswith(b"VSWITCH_RUN=") and v.endswith(mark) for v in environment):
                    processes.add(int(entry.name))
                    namespace = (entry / "ns/net").readlink()
                    if namespace != own:
                        namespaces.add(str(namespace))
            except OSError:
                continue
        shm = frozenset(entry.name for entry in Path("/dev/shm").iterdir() if "vsw" in entry.name)
        return cls(frozenset(processes), frozenset(namespaces), shm)
