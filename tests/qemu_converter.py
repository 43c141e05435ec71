"""A QEMU without a machine, whose hub joins netdevs: a peer that speaks any of QEMU's transports, without a guest.

`QemuConverter("l2tpv3,...", "dgram,...")` joins netdevs. `qemu_peer("l2tpv3,...")` joins one with the test:
what the test sends leaves by that netdev, and what that netdev gets arrives at the test.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from .unit.fabric.peers import Peer

TIMEOUT = 30.0
QEMU = "qemu-system-x86_64"

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason="needs QEMU (package qemu-system-x86)")


class QemuConverter:
    """Joins `netdevs`, each as after `-netdev` but without an id: "dgram,local.type=unix,local.path=/x,...".

    `hubs` are more of them, those of each joined with each other. `fds` are the descriptors that any of these name;
    they stay the caller's. `prefix` is put before QEMU's command: how to run it in a namespace. When the constructor
    returns, every netdev is open and served. Runs in the network namespace of the thread that makes it, without a
    prefix. Raises RuntimeError, with what QEMU said.
    """

    def __init__(
        self,
        *netdevs: str,
        hubs: Sequence[Sequence[str]] = (),
        fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        ours, theirs = socket.socketpair()
        command = [*prefix, QEMU, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
        for hub, joined in enumerate([netdevs, *hubs]):
            for number, netdev in enumerate(joined):
                kind, comma, options = netdev.partition(",")
                name = f"{hub}.{number}"
                command += ["-netdev", f"{kind},id=n{name}{comma}{options}"]
                command += ["-netdev", f"hubport,id=h{name},hubid={hub},netdev=n{name}"]
        self.error = ""
        with ours, theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[*fds, theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            theirs.close()
            ours.settimeout(TIMEOUT)
            with ours.makefile("rw") as qmp:
                qmp.write('{"execute": "qmp_capabilities"}\n')  # answered by the main loop, when all is set up
                with contextlib.suppress(OSError):
                    qmp.flush()
                    while line := qmp.readline():
                        if "return" in json.loads(line):
                            return
        raise RuntimeError(self._last_words())

    def _last_words(self) -> str:
        self.kill()
        return f"QEMU ended: {self.error}"

    def kill(self) -> None:
        """End it by SIGKILL. Idempotent."""
        if self.process.returncode is None:
            self.process.kill()
            _, said = self.process.communicate(timeout=TIMEOUT)
            self.error = said.decode()

    def __enter__(self) -> QemuConverter:
        return self

    def __exit__(self, *error: Any) -> None:
        self.kill()


@contextlib.contextmanager
def qemu_peer(netdev: str, *, fds: Sequence[int] = ()) -> Iterator[Peer]:
    """The far side of QEMU's `netdev`: it sends and receives there what the test does here. Ends with the block."""
    ours, theirs = socket.socketpair()
    with ours, theirs, QemuConverter(f"socket,fd={theirs.fileno()}", netdev, fds=[*fds, theirs.fileno()]):
        theirs.close()
        yield Peer(ours)
