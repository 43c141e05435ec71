"""Every exception a caller of vswitch is meant to catch."""

from __future__ import annotations


class LabError(Exception):
    """Base of all errors with a message meant for the user: what failed, where, and how to mend it."""

    exit_code = 1


class LabFileError(LabError):
    """The lab file is wrong. `problems` holds every mistake found, in file order, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MachineError(LabError):
    """Something the lab needs is missing on this machine: a program, a device, a permission."""


class FabricError(LabError):
    """The fabric refused a request, or is gone."""


class NodeError(LabError):
    """A node could not be started, did not become ready, or cannot do what was asked of it."""


class AgentError(NodeError):
    """A node's agent broke its protocol, is gone, or could not start a command."""


class ProtocolError(LabError):
    """A peer on the coordinator's socket speaks another version, or not our protocol at all."""


class NoAnswerError(LabError):
    """A lab's coordinator did not answer in time."""


class NoSuchLabError(LabError):
    """No lab of that name (or none at all) is running for this user."""
