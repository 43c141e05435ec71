"""What `lab network` and `lab port` share: settings as they are typed, completed and shown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import LabError

if TYPE_CHECKING:
    from msgspec import Struct

    from ..model.lab import Lab

_F = TypeVar("_F", bound=Callable[..., Any])


def network_argument(*, required: bool) -> Callable[[_F], _F]:
    """Add the argument NETWORK, completed from the running lab."""
    return click.argument("network", required=required, shell_complete=_complete_networks)


def port_argument(function: _F) -> _F:
    """Add the argument PORT, completed from the running lab."""
    return click.argument("port", required=False, shell_complete=complete_ports)(function)


def settings_argument(kind: Callable[[], type[Struct]]) -> Callable[[_F], _F]:
    """Add `SETTING=VALUE ...`; `kind()` is the struct with the settings there are, for completion."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _complete_setting(kind(), incomplete)

    return click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...", shell_complete=complete)


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """Split `setting=value` words. Raises click.UsageError."""
    settings: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{word!r} is not SETTING=VALUE (SETTING= gives a setting its default again)")
        if name in settings:
            raise click.UsageError(f"{name} is given twice")
        settings[name] = value
    return settings


def setting_rows(kind: type[Struct], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per setting, with what it is and what it is by default; `kind` is the struct of its resolved form."""
    from ..model.settings import default_settings, setting_text

    defaults = default_settings(kind)
    return [
        {
            "setting": name,
            "value": setting_text(name, value) or "-",
            "default": setting_text(name, defaults[name]) or ("forward" if isinstance(value, dict) else "-"),
        }
        for name, value in settings.items()
    ]


# --- completion -------------------------------------------------------------------------------------------------------


def _running_lab(ctx: click.Context) -> Lab:
    import msgspec

    from ..model.lab import Lab
    from ..rundir import find

    run_dir, _ = find(ctx.params.get("lab"))
    return msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab)


def _complete_networks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    import msgspec

    with contextlib.suppress(LabError, OSError, msgspec.MsgspecError):
        networks = _running_lab(ctx).networks
        return [CompletionItem(name, help=networks[name].type) for name in networks if name.startswith(incomplete)]
    return []


def complete_ports(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a port of the NETWORK given before."""
    import msgspec

    with contextlib.suppress(LabError, OSError, msgspec.MsgspecError):
        lab = _running_lab(ctx)
        network = ctx.params.get("network") or next(iter(ctx.args), None)  # while an option lacks its value
        if network in lab.networks:
            return [CompletionItem(name) for name in lab.ports(network) if name.startswith(incomplete)]
    return []


def _complete_setting(kind: type[Struct], incomplete: str) -> list[CompletionItem]:
    """Complete `setting=`, and after that the words the setting takes, where these are few."""
    from ..model.convert import type_info
    from ..model.settings import setting_choices

    name, equals, value = incomplete.partition("=")
    if not equals:
        return [CompletionItem(f"{field}=") for field in kind.__struct_fields__ if field.startswith(name)]
    choices = setting_choices(type_info(kind), name)
    return [CompletionItem(f"{name}={choice}") for choice in choices if choice.startswith(value)]
