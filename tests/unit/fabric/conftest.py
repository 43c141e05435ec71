"""Fixtures for tests of the data plane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .lan import Lan


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A learning switch on an engine of its own."""
    with Lan() as lan:
        yield lan
