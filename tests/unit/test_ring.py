"""Rings as a Python program uses them, rightly and wrongly, with a real fabric process at the other side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.ring_fabric import RingFabric, ring_fabric
from tests.unit import ring_misuse


@pytest.fixture(scope="module")
def shared() -> Iterator[RingFabric]:
    """One fabric for all tests."""
    with ring_fabric() as fabric:
        yield fabric


@pytest.fixture
def fabric(shared: RingFabric) -> Iterator[RingFabric]:
    """The fabric; a test must leave no ports behind."""
    yield shared
    shared.wait_until(lambda: shared.ports() == {})
    while not shared.events.empty():
        shared.events.get()


@pytest.mark.parametrize("case", ring_misuse.CASES)
def test_program_that_misuses_a_ring_is_told_so_and_does_not_crash(fabric: RingFabric, case: str) -> None:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.unit.ring_misuse",
        case,
        fabric.name("p1"),
        str(fabric.path),
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "MALLOC_PERTURB_": "165"},  # what is freed is overwritten
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
