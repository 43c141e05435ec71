"""Where running labs live on disk: one private directory per lab, holding its two sockets, logs and identity.

A directory is claimed by one atomic rename, so two `lab up` at once need no lock: exactly one wins a name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from .errors import LabError, NoSuchLabError

MAX_NAME = 63
_SOCKET_LIMIT = 107  # bytes of sun_path, unix(7)
_LONGEST_FILE = len("/control")
_MAX_COPIES = 1000

RUN_ENV = "VSWITCH_RUN"
"""Every process of a lab carries this variable with the lab's run id; `lab gc` finds orphans by it. A run id names the
directory of labs it belongs to, so that sweeping one directory never touches the labs of another."""

FABRIC_ENV = "VSWITCH_FABRIC"
"""The fabric carries the run id in this one, too, and so does whatever its ports have started."""


class Process(Struct, frozen=True):
    """A process named so that a later process with the same pid is not mistaken for it."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Identify the running process `pid`. Raises ProcessLookupError when there is none."""
        return cls(pid, _start_ticks(pid), _boot_id())

    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        try:
            return self.boot_id == _boot_id() and _start_ticks(self.pid) == self.start_ticks
        except ProcessLookupError:
            return False


class Run(Struct, frozen=True, kw_only=True):
    """Identity of one running lab, kept as `run.json`. `source` is the lab file's absolute path or "-"."""

    name: str
    run_id: str
    source: str
    owner: Process
    created: float
    version: str


class RunDir:
    """One lab's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The running lab's name, unique for this user."""
        return self.path.name

    @property
    def control_socket(self) -> Path:
        """Where the coordinator takes requests."""
        return self.path / "control"

    @property
    def events_socket(self) -> Path:
        """Where the coordinator publishes events."""
        return self.path / "events"

    @property
    def ring_socket(self) -> Path:
        """Where clients open ring ports of the lab's networks; libvswitch looks for it under this name."""
        return self.path / "ring"

    @property
    def lab_file(self) -> Path:
        """The resolved lab, as JSON."""
        return self.path / "lab.json"

    @property
    def log(self) -> Path:
        """The coordinator's own log."""
        return self.path / "coordinator.log"

    def node_dir(self, node: str) -> Path:
        """Directory of one node's files."""
        return self.path / "nodes" / node

    def console_log(self, node: str) -> Path:
        """What the node printed on its console."""
        return self.node_dir(node) / "console.log"

    def run(self) -> Run:
        """Read the lab's identity. Raises NoSuchLabError when the directory is gone or unreadable."""
        try:
            return msgspec.json.decode((self.path / "run.json").read_bytes(), type=Run)
        except (OSError, msgspec.MsgspecError) as error:
            raise NoSuchLabError(f"no lab {self.name!r} ({error})") from None

    def write_run(self, run: Run) -> None:
        """Replace the lab's identity atomically."""
        temporary = self.path / ".run.json"
        temporary.write_bytes(msgspec.json.encode(run))
        temporary.replace(self.path / "run.json")

    def write_lab(self, lab: bytes) -> None:
        """Replace the resolved lab atomically."""
        temporary = self.path / ".lab.json"
        temporary.write_bytes(lab)
        temporary.replace(self.lab_file)

    def remove(self) -> None:
        """Delete the directory and everything in it; nothing happens when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            # Rename first: the name is free at once and no reader sees half a directory.
            doomed = self.path.with_name(f".gone-{secrets.token_hex(6)}")
            self.path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()  # the last lab to go takes the directory of labs along


def base(*, create: bool = False) -> Path:
    """Directory of all of this user's labs: $XDG_RUNTIME_DIR/vswitch, else /tmp/vswitch-UID.

    It need not exist, unless `create` asks for it.

    A runtime directory that is too long for a socket path in it, or not ours, is passed over. Raises LabError when the
    fallback belongs to somebody else.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_absolute():
        candidate = Path(runtime) / "vswitch"
        fits = len(os.fsencode(candidate)) + 1 + MAX_NAME + len("-999") + _LONGEST_FILE <= _SOCKET_LIMIT
        if fits and _is_private(candidate, create):
            return candidate
    fallback = Path(f"/tmp/vswitch-{os.getuid()}")
    if not _is_private(fallback, create):
        raise LabError(
            f"{fallback} is not a directory that only you may use; remove it, or set XDG_RUNTIME_DIR to a private one"
        )
    return fallback


def claim(name: str, source: str, *, version: str, exact: bool) -> tuple[RunDir, Run]:
    """Claim a run directory for the lab `name` from the file `source`, owned by this process for now.

    With `exact` the name is taken as it is; otherwise `name-2`, `name-3`, ... are tried when another file's lab holds
    it. Raises AlreadyUpError when this file's lab is up (or, with `exact`, whoever has the name), CrashedLabError when
    its remains are in the way.
    """
    staged = _stage()
    root = staged.parent
    run_id = f"{secrets.token_hex(8)}@{root}"
    try:
        for number in range(1, _MAX_COPIES):
            candidate = name if number == 1 else f"{name}-{number}"
            run = Run(
                name=candidate,
                run_id=run_id,
                source=source,
                owner=Process.of(os.getpid()),
                created=time.time(),
                version=version,
            )
            RunDir(staged).write_run(run)
            taken = RunDir(root / candidate)
            try:
                staged.rename(taken.path)
                return taken, run
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            try:
                holder = taken.run()
            except NoSuchLabError:
                continue  # just being removed
            if exact or (holder.source == source and source != "-"):
                raise AlreadyUpError(taken, holder) if holder.owner.alive() else CrashedLabError(taken, holder)
        raise LabError(f"{_MAX_COPIES} labs named {name!r} are up")
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _stage() -> Path:
    """Make a directory to be renamed into place."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # a last lab going down has just taken the directory of labs along
            return Path(tempfile.mkdtemp(prefix=".new-", dir=base(create=True)))


class AlreadyUpError(LabError):
    """The lab is up already. `run_dir` and `run` say which."""

    def __init__(self, run_dir: RunDir, run: Run) -> None:
        super().__init__(f"lab {run.name!r} is already up, from {run.source}")
        self.run_dir = run_dir
        self.run = run


class CrashedLabError(AlreadyUpError):
    """A crashed lab's remains hold the name."""


def list_runs() -> list[tuple[RunDir, Run]]:
    """Every lab of this user, running or crashed, by name."""
    return sorted(_scan(base()), key=lambda item: item[1].name)


def _scan(root: Path) -> Iterator[tuple[RunDir, Run]]:
    try:
        entries = list(os.scandir(root))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        run_dir = RunDir(Path(entry.path))
        with contextlib.suppress(NoSuchLabError):
            yield run_dir, run_dir.run()


def find(name: str | None) -> tuple[RunDir, Run]:
    """The lab called `name`; without a name, the one started from a file in this directory, else the only one up.

    Raises NoSuchLabError naming the labs there are.
    """
    runs = list_runs()
    if name is not None:
        for run_dir, run in runs:
            if run.name == name:
                return run_dir, run
        raise NoSuchLabError(f"no lab {name!r} is up; {_known(runs)}")
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # somebody has deleted it
        here = ""
    local = [item for item in runs if item[1].source != "-" and str(Path(item[1].source).parent) == here]
    candidates = local or runs
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise NoSuchLabError("no lab is up; start one with: lab up FILE")
    raise NoSuchLabError(f"which lab? Say -l NAME; {_known(candidates)}")


def _known(runs: list[tuple[RunDir, Run]]) -> str:
    names = ", ".join(run.name for _, run in runs)
    return f"labs: {names}" if names else "no lab is up"


def _is_private(path: Path, create: bool) -> bool:
    """Return whether `path` is, or could be made (with `create`: is made), a directory only this user may enter."""
    try:
        if create:
            path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except FileNotFoundError:
        return not create and os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077


def _start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot, field 22 of proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        raise ProcessLookupError(pid) from None
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(pid)
    return int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
