"""Descriptors that a lab's ports were given by whoever started the lab."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import LabError
from ..model.lab import Lab, OutsidePort


def named_descriptors(lab: Lab) -> list[int]:
    """Return the numbers of all descriptors that `lab` names, in the order in which they are handed over."""
    return [number for network in lab.networks.values() for port in network.ports.values() for number in _of(port)]


def _of(port: OutsidePort) -> list[int]:
    from ..ports.descriptors import descriptors_of

    return descriptors_of(port.spec)


class Descriptors:
    """Holds `fds`, the duplicates of those that `lab` names, until their ports are made. Each is for one use."""

    def __init__(self, lab: Lab, fds: Sequence[int]) -> None:
        self._fds = dict(zip(named_descriptors(lab), fds, strict=True))

    def take(self, port: OutsidePort) -> list[int]:
        """Return the descriptors of a port, which are the caller's from now on. Raises LabError the second time."""
        numbers = _of(port)
        if not self._fds.keys() >= set(numbers):
            raise LabError("its descriptors were those of the lab up that was run, and have been used")
        return [self._fds.pop(number) for number in numbers]

    def close(self) -> None:
        """Close those nobody took. Idempotent."""
        while self._fds:
            os.close(self._fds.popitem()[1])
