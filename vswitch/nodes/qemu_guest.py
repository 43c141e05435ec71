"""The shell script that gives a freshly booted guest its names and addresses, run once through its agent.

Written for busybox and for few processes, which are what is slow in an emulated guest: whatever the shell can do itself
it does.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_interface

from ..model.lab import Interface

# Sets $found to the interface with MAC address $1. The second look comes after loading drivers for all there is.
_FIND = r"""
look() {
	found=
	for path in /sys/class/net/*; do
		[ -e "$path/address" ] || continue
		read -r mac <"$path/address"
		if [ "$mac" = "$1" ]; then found=${path##*/}; fi
	done
	[ -n "$found" ]
}
find_nic() {
	look "$1" && return
	for path in /sys/bus/pci/devices/*/modalias; do
		read -r alias <"$path"
		modprobe -q "$alias" 2>/dev/null || :
	done
	look "$1" && return
	echo "the guest has no interface with MAC address $1; has its kernel a driver for ${2}?" >&2
	exit 1
}
"""


CONFIGURED = b"configured"

# Waits until interface $1 has noticed its cable, for 2 s at most.
_WAIT = r"""
wait_for_cable() {
	tries=0
	until read -r state <"/sys/class/net/$1/operstate" && [ "$state" = up ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 100 ] || break
		sleep 0.02
	done
}
"""


def configuration_script(
    hostname: str, hosts: str, interfaces: Sequence[Interface], cabled: Collection[str] = ()
) -> str:
    """A script that sets the host name, /etc/hosts and every interface: name, MTU, addresses, up.

    It prints `CONFIGURED` when that is done, and ends when the interfaces named in `cabled` have a carrier. Their
    cables are best plugged in at that very moment: Linux notices a carrier that comes while an interface is up at once,
    one that came before up to a second later, and until then IPv6 does not work (linkwatch, net/core/link_watch.c).
    """
    return "\n".join(_lines(hostname, hosts, interfaces, cabled)) + "\n"


def _lines(hostname: str, hosts: str, interfaces: Sequence[Interface], cabled: Collection[str]) -> Iterator[str]:
    yield "set -e"
    yield f"echo {shlex.quote(hostname)} >/proc/sys/kernel/hostname"
    yield f"echo {shlex.quote(hostname)} >/etc/hostname"
    yield f"printf %s {shlex.quote(hosts)} >/etc/hosts"
    if not interfaces:
        yield f"echo {CONFIGURED.decode()}"
        return
    yield _FIND
    # Two rounds, because the name one interface should get may be what another is called now.
    for number, interface in enumerate(interfaces):
        name, model = shlex.quote(interface.name), shlex.quote(interface.model or "virtio-net")
        yield f"find_nic {shlex.quote(interface.mac.lower())} {model}"
        yield f"now{number}=$found"
        yield f'[ "$found" = {name} ] || {{ ip link set "$found" down; ip link set "$found" name vsw{number}; }}'
    for number, interface in enumerate(interfaces):
        name = shlex.quote(interface.name)
        yield f'[ "$now{number}" = {name} ] || ip link set vsw{number} name {name}'
        addresses = [ip_interface(address) for address in interface.addresses]
        if any(address.version == 6 for address in addresses):
            # Without duplicate address detection, addresses work at once and not a second later.
            yield f"echo 0 >/proc/sys/net/ipv6/conf/{name}/accept_dad"
        for address in addresses:
            broadcast = " brd +" if address.version == 4 and address.network.prefixlen < 31 else ""
            yield f"ip addr add {address}{broadcast} dev {name}"
        mtu = f" mtu {interface.mtu}" if interface.mtu != 1500 else ""
        yield f"ip link set {name}{mtu} up"
    yield f"echo {CONFIGURED.decode()}"
    if cabled:
        yield _WAIT
        yield from (f"wait_for_cable {shlex.quote(name)}" for name in cabled)
