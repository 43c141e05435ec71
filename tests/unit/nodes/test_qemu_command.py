"""From settings to QEMU's command line and the guest's configuration script: no machine is started here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vswitch.model.lab import Interface, Node
from vswitch.nodes.accel import probe_kvm, try_accelerator
from vswitch.nodes.qemu import QemuDriver
from vswitch.nodes.qemu_command import (
    Attachment,
    Boot,
    Channels,
    QemuSpec,
    command_line,
    kernel_words,
)
from vswitch.nodes.qemu_guest import configuration_script

CHANNELS = Channels(console=10, monitor=11, agent=12)
IMAGE = Boot("/k", "/i", None)


def nic(number: int, model: str | None = None) -> Interface:
    return Interface(name=f"eth{number}", mac=f"52:54:00:00:00:{number:02x}", model=model)


def attached(count: int) -> list[Attachment]:
    return [Attachment(nic(number), f"stream,addr.str={20 + number}") for number in range(count)]


def words(spec: QemuSpec, boot: Boot = IMAGE, accel: str = "tcg", nics: int = 0, **options: Any) -> str:
    return " ".join(command_line(spec, boot, accel, attached(nics), options.get("channels", CHANNELS)))


def test_micro_machine_has_all_its_channels_as_descriptors() -> None:
    line = words(QemuSpec(), nics=2)
    for part in (
        "-M q35 -cpu max -accel tcg,thread=multi -smp 1 -m 96M",
        "-kernel /k -append console=ttyS0 panic=-1 quiet",
        "-chardev socket,id=console,fd=10 -serial chardev:console",
        "-chardev socket,id=monitor,fd=11 -mon chardev=monitor,mode=control",
        "-chardev socket,id=agent,fd=12 -device virtio-serial-pci,addr=0x1 "
        "-device virtserialport,chardev=agent,name=org.vswitch.agent",
        "-netdev stream,addr.str=21,id=net1 "
        "-device virtio-net-pci,netdev=net1,id=nic1,mac=52:54:00:00:00:01,romfile=,addr=0x4",
    ):
        assert part in line
    assert "path" not in line


def test_settings_reach_the_command_line() -> None:
    spec = QemuSpec(memory="512", cpus=2, machine="pc", cpu="qemu64", append="debug", args=("-snapshot",))
    line = words(spec, channels=CHANNELS._replace(agent=None), accel="kvm")
    assert "-M pc -cpu qemu64 -accel kvm -smp 2 -m 512M" in line
    assert line.endswith("-snapshot")
    assert "console=ttyS0" in line
    assert " debug -initrd /i" in line
    assert "virtserialport" not in line
    assert "-cpu host" in words(QemuSpec(), accel="kvm")
    arm = words(QemuSpec(qemu="qemu-system-aarch64"))
    assert "-M virt" in arm
    assert "console=ttyAMA0" in arm


def test_disk_boots_first_only_without_a_kernel_and_its_path_may_hold_commas() -> None:
    spec = QemuSpec(disk="/d")
    alone = words(spec, Boot(None, None, "/a,b.qcow2"))
    assert "format=qcow2,cache=unsafe,file=/a,,b.qcow2" in alone
    assert "bootindex=0" in alone
    assert "-kernel" not in alone
    assert "bootindex" not in words(spec, Boot("/k", None, "/a"))


@pytest.mark.parametrize(
    "settings",
    [
        {"memory": "lots"},
        {"memory": "0"},
        {"memory": "96M,slots=2"},
        {"cpus": 0},
        {"accel": "hvf"},
        {"ready": {"consol": "x"}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, QemuSpec)


def test_agent_is_expected_only_in_the_built_in_image_unless_said() -> None:
    assert QemuSpec().has_agent
    assert QemuSpec(append="x").has_agent
    for own in (QemuSpec(kernel="/k"), QemuSpec(disk="/d"), QemuSpec(initrd="/i")):
        assert not own.has_agent
        assert msgspec.structs.replace(own, agent=True).has_agent
    assert "quiet" not in kernel_words(QemuSpec(kernel="/k"), arm=False)


# --- what is missing -------------------------------------------------------------------------------------------------


def node(*interfaces: Interface, **settings: Any) -> Node:
    return Node(name="n", kind="qemu", driver="qemu", interfaces=interfaces, settings=settings)


def fake_qemu(path: Path, version: str) -> str:
    path.write_text(f'#!/bin/sh\n[ "$1" = -version ] && echo "QEMU emulator version {version}"\n')
    path.chmod(0o755)
    return str(path)


def test_missing_and_old_qemu_are_named_with_the_cure(tmp_path: Path) -> None:
    (missing,) = QemuDriver.check(node(qemu="qemu-system-nowhere", kernel="/k"))
    assert "apt-get install qemu-system-x86" in missing
    (old,) = QemuDriver.check(node(qemu=fake_qemu(tmp_path / "qemu-a", "6.2.0"), kernel="/k"))
    assert "6.2.0, but 7.2 or newer" in old
    assert QemuDriver.check(node(qemu=fake_qemu(tmp_path / "qemu-b", "10.0.2 (Debian)"), kernel="/k")) == []
    (mute,) = QemuDriver.check(node(qemu=fake_qemu(tmp_path / "qemu-c", "unknown"), kernel="/k"))
    assert "does not say its version" in mute


@pytest.mark.qemu
def test_unknown_nic_model_is_named_with_the_known_ones() -> None:
    (problem,) = QemuDriver.check(node(nic(0, "e1001")))
    assert "no PCI NIC 'e1001' for eth0" in problem
    assert "did you mean 'e1000'?" in problem
    assert QemuDriver.check(node(nic(0, "e1000"), nic(1, "virtio"))) == []


# --- accelerators ----------------------------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")
def test_probe_guest_runs_to_its_end_under_tcg_and_says_why_not_otherwise() -> None:
    assert try_accelerator("qemu-system-x86_64", "tcg").works
    verdict = try_accelerator("qemu-system-x86_64", "no-such-accelerator")
    assert not verdict.works
    assert "no-such-accelerator" in verdict.reason


def test_qemu_that_starts_but_never_gets_anywhere_is_no_accelerator(tmp_path: Path) -> None:
    stuck = tmp_path / "qemu-system-x86_64"
    stuck.write_text("#!/bin/sh\nexec sleep 1000\n")
    stuck.chmod(0o755)
    verdict = try_accelerator(str(stuck), "kvm")
    assert (verdict.works, "no guest gets anywhere" in verdict.reason) == (False, True)


def test_probe_is_made_once_per_boot_and_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/kvm").exists():
        assert probe_kvm("anything").reason == "no /dev/kvm"
        return
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: True)
    count = tmp_path / "count"
    binary = tmp_path / "qemu-system-x86_64"
    for wanted, code in ((1, 33), (1, 33), (2, 1), (2, 1)):
        script = f"#!/bin/sh\necho x >>{count}\nexit {code}\n"
        if not binary.exists() or binary.read_text() != script:
            binary.write_text(script)
            binary.chmod(0o755)
        assert probe_kvm(str(binary)).works == (code == 33)
        assert count.read_text() == "x\n" * wanted


# --- the guest's script ----------------------------------------------------------------------------------------------


def test_configuration_script_survives_any_text_and_starts_few_processes() -> None:
    hosts = '127.0.0.1 it\'s "here" $HOME `id`\n'
    interfaces = [
        Interface(name="eth0", mac="52:54:00:AA:00:01", addresses=("10.0.0.1/24", "fd00::1/64")),
        Interface(name="wan", mac="52:54:00:00:00:02", addresses=("10.0.1.1/31",), mtu=9000),
    ]
    script = configuration_script("vm1", hosts, interfaces)
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)
    printed = next(line for line in script.split("\nset ")[-1].splitlines() if line.startswith("printf"))
    whole = script[script.index(printed) : script.index(" >/etc/hosts")]
    assert subprocess.run(["sh", "-c", whole], capture_output=True, check=True).stdout.decode() == hosts
    assert "ip addr add 10.0.0.1/24 brd + dev eth0" in script
    assert "ip addr add 10.0.1.1/31 dev wan" in script
    assert "ip link set wan mtu 9000 up" in script
    assert "find_nic 52:54:00:aa:00:01" in script
    assert "accept_dad" in script
    assert "accept_dad" not in configuration_script("vm1", hosts, interfaces[1:])
    assert "find_nic" not in configuration_script("vm1", hosts, [])
    assert "wait_for_cable wan" in configuration_script("vm1", hosts, interfaces, ["wan"])
    assert "wait_for_cable" not in script
