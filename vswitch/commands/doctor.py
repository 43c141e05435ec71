"""`lab doctor`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from .listing import format_option, show

Finding = tuple[str, bool, str, str]
"""(what, works, detail, what to do about it)."""


@click.command("doctor")
@format_option
def command(form: str) -> None:
    """Say what this machine can do for labs, and what to install or change for the rest.

    Exits 1 when not even a lab of plain switches and netns hosts, or of VMs, could run.
    """
    findings = list(_examine())
    rows = [
        {"what": what, "works": "yes" if works else "NO", "detail": detail, "remedy": "" if works else remedy}
        for what, works, detail, remedy in findings
    ]
    show(rows, ["what", "works", "detail", "remedy"], form)
    works = {what: ok for what, ok, _, _ in findings}
    sys.exit(not (works["run directory"] and (works["network namespaces"] or works["qemu"])))


def _examine() -> Iterator[Finding]:
    yield _run_directory()
    namespaces = _namespaces()
    yield namespaces
    yield _tun(namespaced=namespaces[1])
    yield from _qemu()
    yield _image()
    yield _program("linux.uml", "nodes of driver uml, on x86-64", "user-mode-linux")
    yield _program("dot", "lab graph -f svg", "graphviz")


def _run_directory() -> Finding:
    from ..errors import LabError
    from ..rundir import base

    try:
        return "run directory", True, str(base()), ""
    except LabError as error:
        return "run directory", False, str(error), "remove it, or set XDG_RUNTIME_DIR to a directory only you may use"


def _namespaces() -> Finding:
    from ..namespace import probe

    how = "as root" if os.geteuid() == 0 else "unprivileged, through a user namespace"
    why = probe()
    if why is None:
        return "network namespaces", True, how, ""
    remedies = []
    for knob, wanted in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("user/max_user_namespaces", "more than 0"),
    ):
        path = Path("/proc/sys") / knob
        if path.exists() and (value := path.read_text().strip()) in ("0", "1") and value != wanted:
            remedies.append(f"sysctl {knob.replace('/', '.')} is {value}, should be {wanted}")
    return (
        "network namespaces",
        False,
        why,
        "; ".join(remedies) or "netns hosts and mcast networks need them; run as root",
    )


def _tun(*, namespaced: bool) -> Finding:
    device = Path("/dev/net/tun")
    if not device.exists():
        detail = "no /dev/net/tun"
    elif not os.access(device, os.R_OK | os.W_OK):
        detail = "/dev/net/tun is not ours to open"
    else:
        return "tap devices", True, str(device), ""
    # Not having it is no failure: hosts get a veth pair and a packet socket instead.
    return "tap devices", namespaced, f"{detail}; netns hosts use veth pairs and packet sockets", "modprobe tun"


def _qemu() -> Iterator[Finding]:
    from ..nodes.qemu import default_binary, version

    binary = default_binary()
    package = "qemu-system-arm" if "aarch64" in binary else "qemu-system-x86"
    found = shutil.which(binary)
    if found is None:
        yield "qemu", False, f"no {binary} on the PATH", f"apt-get install {package}"
        return
    yield "qemu", True, f"{found} {version(binary)}", ""
    from ..nodes.accel import probe_kvm

    verdict = probe_kvm(binary)
    yield "kvm", verdict.works, verdict.reason, "machines run under TCG, slower; nothing needs KVM"


def _image() -> Finding:
    from ..nodes.image import built_image

    image = built_image()
    if image is None:
        return "guest image", False, "not built yet", "lab image build"
    return "guest image", True, str(image.directory), ""


def _program(name: str, purpose: str, package: str) -> Finding:
    path = shutil.which(name)
    return name, path is not None, f"{path or 'not found'} ({purpose})", f"apt-get install {package}"
