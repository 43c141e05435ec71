"""`lab network`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .listing import format_option, show
from .running_lab import lab_option
from .switch_settings import (
    complete_ports,
    network_argument,
    parse_assignments,
    setting_rows,
    settings_argument,
)

if TYPE_CHECKING:
    from msgspec import Struct

    from ..coordinator.client import Client


def _kind() -> type[Struct]:
    from ..model.spec import SwitchSettingsSpec

    return SwitchSettingsSpec


@click.command("network")
@network_argument(required=False)
@settings_argument(_kind)
@click.option("--flush", is_flag=True, help="Forget the addresses learnt; static ones stay.")
@click.option("--port", metavar="PORT", shell_complete=complete_ports, help="With --flush: only those on this port.")
@click.option("--vlan", metavar="VLAN", type=click.IntRange(0, 4094), help="With --flush: only those of this VLAN.")
@lab_option
@format_option
def command(
    network: str | None,
    settings: tuple[str, ...],
    flush: bool,
    port: str | None,
    vlan: int | None,
    lab: str | None,
    form: str,
) -> None:
    """List the networks, show one of them with its ports, or change its settings while the lab runs.

    \b
    lab network                                 every network: type, ports, addresses
    lab network lan0                            all settings of lan0, and its ports
    lab network lan0 ageing=60s fdb_limit=1000  change settings
    lab network lan0 ageing=                    a setting's default again
    lab network lan0 reserved_multicast.stp=drop
    lab network lan0 --flush --port vm1:eth0    forget what was learnt there

    \b
    Settings: ageing fdb_limit vlan_filtering vlan_protocol reserved_multicast

    Settings, values and mistakes are those of a lab file. A change holds until the lab goes down; the file stays as
    it is. Settings of single ports: lab port.
    """
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find

    wanted = parse_assignments(settings)
    if (port is not None or vlan is not None) and not flush:
        raise click.UsageError("--port and --vlan go with --flush")
    if flush and (network is None or wanted):
        raise click.UsageError("--flush is for one NETWORK, and not together with settings")
    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        if flush:
            assert network is not None
            answer = client.request(protocol.Flush(network, port, vlan), timeout=10)
            assert isinstance(answer, protocol.Count)
            click.echo(f"{answer.number} address{'' if answer.number == 1 else 'es'} forgotten")
        elif wanted:
            assert network is not None  # it comes before settings
            client.request(protocol.Configure(network, None, wanted), timeout=10)
        elif network is not None:
            _show_one(client, network, form)
        else:
            _show_all(client.table(protocol.Networks()), form)


def _show_all(rows: list[dict[str, Any]], form: str) -> None:
    from ..model.settings import setting_words

    if form == "table":
        rows = [{**row, "settings": setting_words(row["settings"], row["changed"])} for row in rows]
    show(rows, ["network", "type", "ports", "macs", "settings"], form, empty="the lab has no networks")


def _show_one(client: Client, network: str, form: str) -> None:
    from ..coordinator import protocol
    from ..model.lab import SwitchSettings

    ports = client.table(protocol.Ports(network))
    (row,) = [row for row in client.table(protocol.Networks()) if row["network"] == network]
    if form == "json":
        show([{**row, "ports": ports}], [], form)
        return
    click.echo(f"{network}: {row['type']}, {row['ports']} ports, {row['macs']} addresses\n")
    show(setting_rows(SwitchSettings, row["settings"]), ["setting", "value", "default"], form)
    click.echo()
    show_ports(ports, form)


def show_ports(rows: list[dict[str, Any]], form: str) -> None:
    """List the ports of a network with the settings that are not the default."""
    from ..model.settings import setting_words

    if form == "table":
        rows = [{**row, "settings": setting_words(row["settings"], row["changed"])} for row in rows]
    show(rows, ["port", "settings"], form, empty="the network has no ports")
