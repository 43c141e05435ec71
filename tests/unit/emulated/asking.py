"""Asking a role, as `lab exec` does."""

from __future__ import annotations

from vswitch.emulated.role import Reply, Role


class Heard(Reply):
    """What a command said."""

    def __init__(self) -> None:
        self.stdout = ""
        self.stderr = ""
        self.code: int | None = None

    def out(self, text: str) -> None:
        self.stdout += text

    def err(self, text: str) -> None:
        self.stderr += text

    def exit(self, code: int = 0) -> None:
        assert self.code is None, "a command ended twice"
        self.code = code


def ask(role: Role, *argv: str, now: int = 0) -> tuple[int | None, str, str]:
    """Run a command; return its exit code (None while it goes on), stdout and stderr."""
    heard = Heard()
    role.command(argv, heard, now)
    return heard.code, heard.stdout, heard.stderr
