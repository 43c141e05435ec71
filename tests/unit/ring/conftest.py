"""The fabric that the tests of vswitch.ring share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ring_fabric import RingFabric, ring_fabric


@pytest.fixture(scope="package")
def shared() -> Iterator[RingFabric]:
    """One fabric for all tests."""
    with ring_fabric() as fabric:
        yield fabric


@pytest.fixture
def fabric(shared: RingFabric) -> Iterator[RingFabric]:
    """The fabric, without ports before and after the test."""
    yield shared
    shared.wait_until(lambda: shared.ports() == {})
    while not shared.events.empty():
        shared.events.get()
