"""`lab port`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .listing import format_option, show
from .network import show_ports
from .running_lab import lab_option
from .switch_settings import network_argument, parse_assignments, port_argument, setting_rows, settings_argument

if TYPE_CHECKING:
    from msgspec import Struct


def _kind() -> type[Struct]:
    from ..model.spec import PortSettingsSpec

    return PortSettingsSpec


@click.command("port")
@network_argument(required=True)
@port_argument
@settings_argument(_kind)
@lab_option
@format_option
def command(network: str, port: str | None, settings: tuple[str, ...], lab: str | None, form: str) -> None:
    """List the ports of a NETWORK, show the settings of a PORT, or change them while the lab runs.

    \b
    lab port lan0                                    every port, and what is not the default
    lab port lan0 vm1:eth0                           all settings of one
    lab port lan0 vm1:eth0 vlan=10 mac_limit=1       change settings
    lab port lan0 vm1:eth0 vlan= trunk=10,20-29 native=99
    lab port lan0 uplink storm_limit=1000

    \b
    Settings: vlan trunk native isolated learning unknown_flood broadcast_flood multicast_flood storm_limit
    mac_limit static_macs sticky mtu hairpin control overflow

    A PORT is called like the interface linked to it, or like the port that faces outside. SETTING= gives a setting its
    default again; several are changed together or not at all. Settings, values and mistakes are those of a lab file.
    """
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..errors import LabError
    from ..model.lab import PortSettings
    from ..model.problems import quote, suggestion
    from ..rundir import find

    if port is not None and "=" in port:
        raise click.UsageError(f"name a PORT before settings: lab port {network} PORT {port}")
    wanted = parse_assignments(settings)
    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        if wanted:
            client.request(protocol.Configure(network, port, wanted), timeout=10)
            return
        rows = client.table(protocol.Ports(network))
    if port is None:
        show_ports(rows, form)
        return
    found = [row for row in rows if row["port"] == port]
    if not found:
        names = [row["port"] for row in rows]
        raise LabError(f"network {network}: unknown port {quote(port)}{suggestion(port, names)}")
    if form == "json":
        show(found, [], form)
    else:
        show(setting_rows(PortSettings, found[0]["settings"]), ["setting", "value", "default"], form)
