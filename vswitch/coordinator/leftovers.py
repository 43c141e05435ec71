"""Files outside a lab's directory that its ports make: removed by those who tidy up after a fabric that was killed."""

from __future__ import annotations

import contextlib

import msgspec

from ..model.lab import Lab
from ..nodes.external_settings import outside_ports
from ..rundir import RunDir


def remove_left(lab: Lab) -> None:
    """Remove what the ports of `lab`, which is not up any more, have left; what somebody else serves now stays."""
    for spec in outside_ports(lab).values():
        spec.remove_left()


def remove_left_of(run_dir: RunDir) -> None:
    """The same for the lab of a directory, as far as that can still be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        remove_left(msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab))
