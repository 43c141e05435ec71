"""Whether KVM really runs guests here: /dev/kvm can open, and even make a machine, where no guest ever runs.

So one is tried: a 64 KiB ROM whose instructions end QEMU in a way nothing else does. The verdict is kept in the
cache directory for as long as the machine stays up and the QEMU binary is the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import msgspec

from .image import cache_home

_LIMIT = 2.0  # s
_ROM_SIZE = 64 * 1024
_one_at_a_time = threading.Lock()


class Verdict(NamedTuple):
    """Whether an accelerator works, and why (not), in words."""

    works: bool
    reason: str


class _Cached(msgspec.Struct, frozen=True):
    boot: str
    qemu: str
    works: bool
    reason: str


def probe_kvm(binary: str) -> Verdict:
    """Say whether `binary` (a QEMU, by name or path) runs guests under KVM. The first call may take two seconds."""
    device = Path("/dev/kvm")
    if not device.exists():
        return Verdict(False, "no /dev/kvm")
    if not os.access(device, os.R_OK | os.W_OK):
        return Verdict(False, "/dev/kvm is not ours to open; membership in group kvm may mend that")
    found = shutil.which(binary)
    if found is None:
        return Verdict(False, f"no {binary} on the PATH")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    identity = f"{found} {Path(found).stat().st_mtime_ns} {os.geteuid()}"
    file = cache_home() / f"kvm-{Path(found).name}.json"
    with _one_at_a_time:
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            cached = msgspec.json.decode(file.read_bytes(), type=_Cached)
            if (cached.boot, cached.qemu) == (boot, identity):
                return Verdict(cached.works, cached.reason)
        verdict = try_accelerator(found, "kvm")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
                temporary.write(msgspec.json.encode(_Cached(boot, identity, verdict.works, verdict.reason)))
            Path(temporary.name).replace(file)
        return verdict


def try_accelerator(binary: str, accel: str) -> Verdict:
    """Run a guest of one small loop under `accel` and say whether it reached its end within two seconds."""
    if "aarch64" in Path(binary).name:
        options, rom, ended = _arm64()
    else:
        options, rom, ended = _x86()
    with tempfile.NamedTemporaryFile(suffix=".rom") as file:
        file.write(rom)
        file.flush()
        argv = [binary, "-accel", accel, *options, "-bios", file.name]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "32M"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"{accel} makes a machine, but no guest gets anywhere in it")
        except OSError as error:
            return Verdict(False, f"{binary}: {error.strerror}")
    if done.returncode == ended:
        return Verdict(True, f"a guest ran under {accel}")
    said = done.stderr.strip().splitlines()
    return Verdict(False, said[-1] if said else f"{accel}: QEMU ended with {done.returncode}")


def _x86() -> tuple[list[str], bytes, int]:
    """A ROM that enters 64-bit mode, counts to 20 million in memory and writes 0x10 to the debug-exit device.

    QEMU then exits with 2 * 0x10 + 1. The counting takes TCG a quarter of a second; a KVM that emulates each
    instruction, as found where machines are nested, does not get there in time. (Real mode alone proves nothing.)
    """
    real_mode = "fa 2e0f0116a0ff 0f20c0 0c01 0f22c0 66ea17ff0f000800"  # cli; lgdt; set cr0.PE; ljmp to 32-bit code
    protected = (
        "66b81000 8ed8"  # load ds
        "c7050020000003300000 c7050030000003400000 c7050040000083000000"  # page tables: the first 2 MiB, one to one
        "b800200000 0f22d8 b820000000 0f22e0"  # cr3; set cr4.PAE
        "b9800000c0 0f32 80cc01 0f30"  # set EFER.LME
        "0f20c0 0d00000080 0f22c0 ea69ff0f001800"  # set cr0.PG; ljmp to 64-bit code
    )
    long_mode = "b9002d3101 48ff042500100000 e2f6 b010 e6f4 f4"  # 20000000 times incq 0x1000; out %al, $0xf4; hlt
    padding = "8d7400"
    descriptors = "0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009baf00 1f0080ff0f00"
    code = bytes.fromhex(real_mode + protected + long_mode + padding + descriptors)
    reset = bytes.fromhex("e90dff")  # at 16 bytes below the end: jump to the code, 256 below it
    rom = bytes(_ROM_SIZE - 256) + code.ljust(240, b"\0") + reset.ljust(16, b"\0")
    return ["-M", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"], rom, 33


def _arm64() -> tuple[list[str], bytes, int]:
    """A ROM at address 0: ask PSCI (Arm DEN0022) to switch the system off; QEMU exits 0."""
    words = (
        *(0x52A02620, 0x71000400, 0x54FFFFE1),  # mov w0, 0x1310000; subs w0, w0, 1; b.ne, 20 million times
        *(0x52800100, 0x72B08000, 0xD4000002, 0x14000000),  # mov w0, SYSTEM_OFF; hvc #0; b .
    )
    code = b"".join(word.to_bytes(4, "little") for word in words)
    return ["-M", "virt", "-cpu", "host"], code.ljust(_ROM_SIZE, b"\0"), 0
