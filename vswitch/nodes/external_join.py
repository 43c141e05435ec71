"""The words with which programs join a port that waits for them: options of QEMU, VDE, User-Mode Linux, another lab."""

from __future__ import annotations

import contextlib
import shlex
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import msgspec

from ..model.lab import Interface
from ..ports.address import split_host_port, unix_path
from ..ports.dgram import DgramSpec
from ..ports.l2tpv3 import L2tpv3Spec
from ..ports.mcast import McastSpec
from ..ports.port import PortSpec
from ..ports.stream import StreamSpec
from ..ports.vde import VdeSpec


def join_words(spec: PortSpec, interface: Interface, number: int) -> dict[str, str]:
    """How to be the peer of the port `spec` and so the `interface`, by program; written for a shell.

    `qemu` and `uml` are options, `vde` is a command, `lab` a port in another lab file. `number` is the interface's
    among its machine's.
    """
    words = _WORDS[type(spec)](spec, interface, number)
    device = f"virtio-net-pci,netdev={interface.name},mac={interface.mac}"
    if "qemu" in words:
        netdev, _, options = words["qemu"].partition(",")
        words["qemu"] = shlex.join(["-netdev", f"{netdev},id={interface.name},{options}", "-device", device])
    for program in ("uml", "vde"):
        if program in words:
            words[program] = shlex.join(words[program].split("\0"))
    return words


def _stream(spec: StreamSpec, interface: Interface, number: int) -> dict[str, str]:
    assert spec.listen is not None
    return {
        "qemu": f"stream,server=off,{_qemu_address('addr', _reachable(spec.listen))}",
        "lab": _port("stream", connect=_reachable(spec.listen)),
    }


def _dgram(spec: DgramSpec, interface: Interface, number: int) -> dict[str, str]:
    assert spec.local is not None
    assert spec.remote is not None
    ours = _reachable(spec.local)
    # The peer's addresses are ours, reversed.
    return {
        "qemu": f"dgram,{_qemu_address('local', spec.remote)},{_qemu_address('remote', ours)}",
        "lab": _port("dgram", local=spec.remote, remote=ours),
    }


def _mcast(spec: McastSpec, interface: Interface, number: int) -> dict[str, str]:
    # User-Mode Linux is not named: it joins where the machine's routes take multicast, which is seldom here.
    return {
        "qemu": f"socket,mcast={spec.group},localaddr={spec.localaddr}",
        "lab": _port("mcast", group=spec.group, localaddr=spec.localaddr),
    }


def _vde(spec: VdeSpec, interface: Interface, number: int) -> dict[str, str]:
    assert spec.listen is not None
    return {
        "qemu": f"vde,sock={_escaped(spec.listen)}",
        "uml": f"eth{number}=vde,{spec.listen},{interface.mac}",
        "vde": f"vde_plug\0{spec.listen}",
        "lab": _port("vde", connect=spec.listen),
    }


def _l2tpv3(spec: L2tpv3Spec, interface: Interface, number: int) -> dict[str, str]:
    assert spec.local is not None
    assert spec.remote is not None
    ours, our_port = split_host_port(_reachable(spec.local))
    theirs, their_port = split_host_port(spec.remote)
    session = spec.tx_session
    between = f"src={theirs},dst={ours},srcport={their_port},dstport={our_port}"
    # The peer's cookies are ours, the other way round.
    header = {
        "rx_cookie": spec.tx_cookie,
        "tx_cookie": spec.rx_cookie,
        "cookie64": spec.cookie64 or None,
        "counter": spec.counter or None,
        "pincounter": spec.pincounter or None,
        "offset": spec.offset or None,
    }
    header = {key: value for key, value in header.items() if value is not None}
    for_qemu = "".join(f",{key.replace('_', '')}={'on' if value is True else value}" for key, value in header.items())
    six = ":" in spec.local.rpartition(":")[0]
    words = {
        "qemu": f"l2tpv3,{between},udp=on,{'ipv6=on,' if six else ''}txsession={session},rxsession={session}{for_qemu}",
        "uml": f"vec{number}:transport=l2tpv3,{between},udp=1,{'v6=1,' if six else ''}"
        f"tx_session={session},rx_session={session},mac={interface.mac}",
        "lab": _port("l2tpv3", local=spec.remote, remote=_reachable(spec.local), tx_session=session, **header),
    }
    if header:  # User-Mode Linux has other words for these, or none
        del words["uml"]
    return words


_WORDS: dict[type[PortSpec], Callable[[Any, Interface, int], dict[str, str]]] = {
    StreamSpec: _stream,
    DgramSpec: _dgram,
    McastSpec: _mcast,
    VdeSpec: _vde,
    L2tpv3Spec: _l2tpv3,
}


def _port(port_type: str, **fields: object) -> str:
    """A port as it stands in a lab file; JSON is YAML."""
    return msgspec.json.encode({"type": port_type, **fields}).decode().replace('":', '": ').replace(',"', ', "')


def _reachable(address: str) -> str:
    """An address that others can use for ours: where we are at all of this machine's, it has the machine's name."""
    if unix_path(address) is not None:
        return address
    host, port = split_host_port(address)
    with contextlib.suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            return f"{socket.gethostname()}:{port}"
    return address


def _qemu_address(name: str, address: str) -> str:
    path = unix_path(address)
    if path is None:
        host, port = split_host_port(address)
        return f"{name}.type=inet,{name}.host={host},{name}.port={port}"
    abstract = path.startswith("\0")
    return f"{name}.type=unix,{name}.path={_escaped(path.removeprefix(chr(0)))}" + (
        f",{name}.abstract=on,{name}.tight=on" if abstract else ""
    )


def _escaped(value: str) -> str:
    """A value within QEMU's comma-separated options."""
    return value.replace(",", ",,")
