"""Fixtures for tests of ports."""

from __future__ import annotations

from ..fabric.conftest import lan

__all__ = ["lan"]
