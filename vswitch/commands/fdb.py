"""`lab fdb`."""

from __future__ import annotations

import click

from .listing import format_option, show
from .running_lab import lab_option
from .switch_settings import network_argument


@click.command("fdb")
@network_argument(required=True)
@click.option("--add", nargs=2, metavar="MAC[@VLAN] PORT", help="Have an address on a port for good: a static entry.")
@click.option("--remove", metavar="MAC[@VLAN]", help="Forget one address, static or not.")
@lab_option
@format_option
def command(network: str, add: tuple[str, str] | None, remove: str | None, lab: str | None, form: str) -> None:
    """Show the addresses the switch NETWORK knows: VLAN, port, how, and when each was last heard.

    \b
    lab fdb lan0
    lab fdb lan0 --add 52:54:00:00:00:01@10 vm1:eth0
    lab fdb lan0 --remove 52:54:00:00:00:01@10

    Kinds: dynamic (learnt, forgotten after `ageing`), sticky (learnt for good), static (told; one of the port's
    static_macs). To forget all that was learnt: lab network NETWORK --flush.
    """
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find

    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        if remove is not None:
            mac, vlan = _entry(remove)
            client.request(protocol.Forget(network, mac, vlan), timeout=10)
        if add is not None:
            client.request(protocol.AddStatic(network, *add), timeout=10)
        if add is None and remove is None:
            rows = client.table(protocol.Fdb(network))
            show(rows, ["mac", "vlan", "port", "kind", "age"], form, empty="no addresses known yet")


def _entry(text: str) -> tuple[str, int | None]:
    """Split MAC or MAC@VLAN. Raises click.UsageError."""
    import re

    if re.fullmatch("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}(@[0-9]{1,4})?", text) is None:
        raise click.UsageError(f"{text!r} is neither MAC nor MAC@VLAN")
    mac, _, vlan = text.lower().partition("@")
    return mac, int(vlan) if vlan else None
