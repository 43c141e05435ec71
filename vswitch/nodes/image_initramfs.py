"""The tiny guest's root file system: an uncompressed cpio archive the kernel unpacks into memory.

Format: "newc", the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. All times are zero and all
owners root, so the same contents give the same bytes.
"""

from __future__ import annotations

import lzma
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ..errors import MachineError

# Loaded by the agent at boot, in this order, each after what it depends on.
_BOOT_MODULES = ("virtio_pci", "virtio_console", "virtio_net")
# There for modprobe, where the kernel has them: NICs QEMU emulates, what network labs are made of, disks.
_MORE_MODULES = (
    *("e1000", "e1000e", "igb", "8139cp", "pcnet32", "vmxnet3", "ne2k-pci", "tulip"),
    *("8021q", "bridge", "veth", "dummy", "tun", "macvlan", "bonding", "vxlan", "wireguard", "sch_netem"),
    *("virtio_blk", "virtio-rng", "af_packet"),
)
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "run", "root", "mnt", "var/log", "var/run", "lib/modules")
_FILES = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/profile": "export PS1='\\h:\\w# '\n",
    "etc/shells": "/bin/sh\n",
    "etc/udhcpc/default.script": (
        "#!/bin/sh\n"
        'case "$1" in\n'
        "deconfig) ip addr flush dev $interface; ip link set $interface up ;;\n"
        "bound | renew)\n"
        "\tip addr replace $ip/${mask:-24} dev $interface\n"
        "\tfor gateway in $router; do ip route replace default via $gateway dev $interface; done\n"
        "\tfor server in $dns; do echo nameserver $server; done >/etc/resolv.conf ;;\n"
        "esac\n"
    ),
}


class Archive:
    """Writes a newc archive. Directories above an entry are added as needed; paths are relative, with "/"."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._known: set[str] = set()

    def add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Add one entry: type and permissions in `mode`, as in stat(2); a link's target goes in `data`."""
        parent = path.rpartition("/")[0]
        if parent and parent not in self._known:
            self.add(parent, stat.S_IFDIR | 0o755)
        if path in self._known:
            return
        self._known.add(path)
        self._entry(path, mode, data, device)

    def close(self) -> None:
        """Write the end mark."""
        self._entry("TRAILER!!!", 0, b"", (0, 0))

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int]) -> None:
        name = path.encode() + b"\0"
        inode = len(self._known) if mode else 0
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        for part in (head, data):
            self._file.write(part + bytes(-len(part) % 4))


def write_initramfs(file: IO[bytes], tree: Path, agent: Path, *, modules: bool = True) -> None:
    """Write the guest's root from the unpacked packages in `tree`. Raises MachineError when they lack something.

    Without `modules` there are none: User-Mode Linux gets its own from the host.
    """
    archive = Archive(file)
    for directory in _DIRECTORIES:
        archive.add(directory, stat.S_IFDIR | (0o1777 if directory == "tmp" else 0o755))
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("init", stat.S_IFREG | 0o755, agent.read_bytes())
    for path, text in _FILES.items():
        archive.add(path, stat.S_IFREG | (0o755 if path.endswith(".script") else 0o644), text.encode())
    _add_busybox(archive, tree)
    if modules:
        _add_modules(archive, tree)
    archive.close()


def _add_busybox(archive: Archive, tree: Path) -> None:
    busybox = _first(tree, "bin/busybox", "usr/bin/busybox")
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        archive.add(applet, stat.S_IFLNK | 0o777, b"/bin/busybox")


def _add_modules(archive: Archive, tree: Path) -> None:
    home = _first(tree, "lib/modules/*", "usr/lib/modules/*")
    modules = Modules(home)
    boot = list(modules.in_load_order(_BOOT_MODULES))
    more = modules.in_load_order(name for name in _MORE_MODULES if modules.has(name))
    wanted = list(dict.fromkeys([*boot, *more]))
    base = f"lib/modules/{home.name}"
    # modprobe's index; of busybox's depmod, whose files are its own modprobe's.
    small = tree / "small" / base
    for name in wanted:
        path = small / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(modules.read(name))
        archive.add(f"{base}/kernel/{name}.ko", stat.S_IFREG | 0o644, modules.read(name))
    busybox = _first(tree, "bin/busybox", "usr/bin/busybox")
    subprocess.run([busybox, "depmod", "-b", tree / "small", home.name], check=True, capture_output=True)
    for index in sorted(small.glob("modules.*")):
        archive.add(f"{base}/{index.name}", stat.S_IFREG | 0o644, index.read_bytes())
    listing = "".join(f"/{base}/kernel/{name}.ko\n" for name in boot)
    archive.add("modules.list", stat.S_IFREG | 0o644, listing.encode())


class Modules:
    """A kernel's modules, found by name; "-" and "_" are the same in it, as for modprobe."""

    def __init__(self, home: Path) -> None:
        self._files = {_plain(path.name): path for path in home.glob("kernel/**/*.ko*")}
        builtin = home / "modules.builtin"
        names = builtin.read_text().split() if builtin.exists() else []
        self._builtin = {_plain(Path(name).name) for name in names}
        self._read: dict[str, bytes] = {}

    def has(self, name: str) -> bool:
        """Whether there is such a module, or the kernel has it built in."""
        return _plain(name) in self._files or _plain(name) in self._builtin

    def read(self, name: str) -> bytes:
        """The module, uncompressed."""
        if name not in self._read:
            self._read[name] = _uncompressed(self._files[_plain(name)])
        return self._read[name]

    def depends(self, name: str) -> list[str]:
        """Modules this one says it needs, module(5): "depends=a,b" in its section .modinfo."""
        found = re.search(rb"\0depends=([^\0]*)\0", self.read(name))
        return [word for word in found[1].decode().split(",") if word] if found else []

    def in_load_order(self, names: Iterable[str]) -> Iterator[str]:
        """`names` and all they need, each after what it needs; without those built into the kernel."""
        done: set[str] = set()

        def visit(name: str) -> Iterator[str]:
            name = _plain(name)
            if name in done or name in self._builtin:
                return
            done.add(name)
            if name not in self._files:
                raise MachineError(f"the kernel package has no module {name}")
            for needed in self.depends(name):
                yield from visit(needed)
            yield name

        for name in names:
            yield from visit(name)


def _plain(name: str) -> str:
    return name.partition(".ko")[0].replace("-", "_")


def _uncompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        try:
            return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
        except FileNotFoundError:
            raise MachineError("this kernel's modules are compressed; run: apt-get install zstd (as root)") from None
    return data


def _first(tree: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for path in sorted(tree.glob(pattern)):
            return path
    raise MachineError(f"the packages have no {' or '.join(patterns)}")
