"""`${VAR}` in a lab file, with the meaning it has in a compose file.

Source: Compose specification, "Interpolation". Only the braced form is substituted: a lone `$NAME` is left for the
shell in the node that will see it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:(\$)|\{)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NESTING = 8


class VariableError(ValueError):
    """A `${...}` that cannot be read, or a `${VAR:?message}` whose variable is missing."""


class Variables:
    """Substitutes from `environment`; what it adds is bounded by `budget` characters over the whole file."""

    def __init__(self, environment: Mapping[str, str], budget: int = 1 << 20) -> None:
        self._environment = environment
        self._budget = budget

    def substitute(self, text: str) -> tuple[str, list[str]]:
        """Return `text` with its variables replaced, and the names of those that are not set and have no default.

        `${V}` is V's value, `${V:-x}` x where V is unset or empty, `${V:+x}` x where it is neither, `${V:?why}` an
        error where it is; without the colon an empty V counts as set. `$$` is one `$`. Raises VariableError.
        """
        if "$" not in text:
            return text, []
        unset: list[str] = []
        result, end = self._expand(text, 0, unset, nesting=0)
        assert end == len(text)
        self._budget -= max(0, len(result) - len(text))
        if self._budget < 0:
            raise VariableError("variables make the file too large")
        return result, unset

    def _expand(self, text: str, start: int, unset: list[str], nesting: int) -> tuple[str, int]:
        """Expand from `start` to the end of `text`, or inside a reference to the brace that closes it."""
        pieces: list[str] = []
        at = start
        while at < len(text):
            if nesting and text[at] == "}":
                break
            found = _REFERENCE.match(text, at)
            if found is None:
                pieces.append(text[at])
                at += 1
            elif found[1]:
                pieces.append("$")
                at = found.end()
            else:
                value, at = self._reference(text, found.end(), unset, nesting + 1)
                pieces.append(value)
        return "".join(pieces), at

    def _reference(self, text: str, start: int, unset: list[str], nesting: int) -> tuple[str, int]:
        """Read one reference whose `${` ends at `start`; return its value and where the text goes on."""
        if nesting > _MAX_NESTING:
            raise VariableError("${...} within ${...} too deep")
        found = _NAME.match(text, start)
        if found is None:
            raise VariableError("'${' is not followed by a variable's name; a literal '${' is written '$${'")
        name, at = found[0], found.end()
        value = self._environment.get(name)
        colon = text[at : at + 1] == ":"
        operator = text[at + colon : at + colon + 1]
        if operator and operator in "-+?":
            missing: list[str] = []
            other, at = self._expand(text, at + colon + 1, missing, nesting)
            present = bool(value) if colon else value is not None
            if operator == "?" and not present and at < len(text):
                raise VariableError(f"variable {name} is not set" + (f": {other}" if other else ""))
            if present is (operator == "+"):
                value = other
                unset += missing
            elif operator == "+":
                value = ""
        elif text[at : at + 1] == "}" and value is None:
            unset.append(name)
        if text[at : at + 1] != "}":
            raise VariableError(f"'${{{name}' is not closed by '}}', or its name is followed by something unknown")
        return value or "", at + 1
