"""Linux namespaces: moving this process into a lab's own, and stepping into a host's for a moment.

`os.unshare` and `os.setns` exist only since Python 3.12, hence ctypes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import MachineError

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send us signal `by` when our parent thread ends; exit at once if `parent` is already gone."""
    _call("prctl", _PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def enter_lab_namespace() -> None:
    """Move this single-threaded process into a new network namespace with only `lo`, up.

    Without the privilege to do so directly, into a new user namespace too, in which this user is root. Raises
    MachineError when the machine forbids both.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            _call("unshare", CLONE_NEWNET)
        except PermissionError:
            _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        _loopback_up()
    except OSError as error:
        raise MachineError(
            f"this machine does not let you make a network namespace ({error}); see: lab doctor"
        ) from None


def probe() -> str | None:
    """Try `enter_lab_namespace` in a child; return None when it works, else why not."""
    attempt = f"from {__name__} import enter_lab_namespace; enter_lab_namespace()"
    result = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


@contextlib.contextmanager
def visiting(namespace_fd: int) -> Iterator[None]:
    """Run the body with this thread in the network namespace behind `namespace_fd`, then step back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace_fd, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


def _loopback_up() -> None:
    """Set IFF_UP on lo, netdevice(7)."""
    request = struct.pack("16sh22x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS
