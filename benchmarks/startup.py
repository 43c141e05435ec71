"""How long a lab takes to come up, and what it costs to have: beside bare QEMU and Mininet, in one run.

    benchmarks/startup.py [--quick] [--json FILE]

`up/lab.yaml` is `lab up` of the root lab, from the command's start to its return; the peer is the same QEMU command
lines started together without us, from start until the agent in the last guest has said hello. `up/netns-N` is `lab up`
of N hosts on one switch, `up+down/netns-N` that and `lab down`; the peer of both is `mn --test none`, which starts and
stops, so the second is the fairer comparison. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from report import Row, write

ROOT = Path(__file__).parents[1]
LAB = [sys.executable, "-m", "vswitch"]


class Bench:
    """A private place for labs, and how often to measure."""

    def __init__(self, quick: bool) -> None:
        self.runs = 3 if quick else 5
        self.long_runs = 1 if quick else 5
        self.home = Path(tempfile.mkdtemp(prefix="vsb-"))
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.home)}

    def lab(self, *arguments: str) -> str:
        """Run `lab ARGUMENTS`; its standard output."""
        result = subprocess.run([*LAB, *arguments], env=self.environment, cwd=ROOT, capture_output=True, check=False)
        if result.returncode != 0:
            sys.exit(f"lab {' '.join(arguments)} failed:\n{result.stderr.decode()}")
        return result.stdout.decode()

    def close(self) -> None:
        """Take everything down."""
        self.lab("down", "--all")
        shutil.rmtree(self.home)


def timed(work: Callable[[], object]) -> float:
    """Seconds `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def row(case: str, peer: str | None, ours: list[float], theirs: list[float], unit: str = "s") -> Row:
    """One row of medians."""
    value = statistics.median(ours)
    peer_value = statistics.median(theirs) if theirs else None
    return Row(case=case, value=value, unit=unit, peer=peer, peer_value=peer_value, runs=len(ours))


# --- machines --------------------------------------------------------------------------------------------------------


def machine_commands(bench: Bench) -> list[list[str]]:
    """The command lines of the running lab's machines."""
    nodes = json.loads(bench.lab("ps", "-f", "json"))
    pids = [node["pid"] for node in nodes if node["driver"] == "qemu"]
    return [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1] for pid in pids]


@contextmanager
def bare_machine(command: list[str]) -> Iterator[socket.socket]:
    """Run a machine's command line by itself; yield our end of its agent's channel.

    Every inherited descriptor it names gets a fresh socket pair.
    """
    text = "\0".join(command)
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}

    def fresh(match: re.Match[str]) -> str:
        if match[2] not in ours:
            ours[match[2]], theirs[match[2]] = socket.socketpair()
        return f"{match[1]}{theirs[match[2]].fileno()}"

    agent_fd = re.search(r"id=agent[^\0]*?fd=(\d+)", text)
    assert agent_fd, "no agent channel on the machine's command line"
    argv = re.sub(r"((?:\bfd=|addr\.str=))(\d+)", fresh, text).split("\0")
    process = subprocess.Popen(argv, pass_fds=[sock.fileno() for sock in theirs.values()], stdin=subprocess.DEVNULL)
    try:
        yield ours[agent_fd[1]]
    finally:
        process.kill()
        process.wait()
        for sock in (*ours.values(), *theirs.values()):
            sock.close()


def bare_boot(commands: list[list[str]]) -> float:
    """Seconds until all of `commands`, started together, have said hello."""
    begun = time.perf_counter()
    machines = [bare_machine(command) for command in commands]
    agents = [machine.__enter__() for machine in machines]
    try:
        waiting = set(agents)
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], 60)
            if not ready:
                sys.exit("a bare machine did not answer within 60 s")
            waiting -= set(ready)
        return time.perf_counter() - begun
    finally:
        for machine in machines:
            machine.__exit__(None, None, None)


def root_lab(bench: Bench) -> Iterator[Row]:
    """`up/lab.yaml`, `cli/ps`, `cli/help`, and the memory of a running lab."""
    ours, theirs, ps = [], [], []
    for number in range(bench.runs):
        ours.append(timed(lambda: bench.lab("up", "-q", "lab.yaml")))
        ps.append(timed(lambda: bench.lab("ps")))
        commands = machine_commands(bench)
        if number == 0:
            memory = list(memory_rows(bench))
        bench.lab("down")
        theirs.append(bare_boot(commands))
    yield row("up/lab.yaml", "bare-qemu", ours, theirs)
    yield row("cli/ps", "limit", ps, [0.3])
    yield row("cli/help", "limit", [timed(lambda: bench.lab("--help")) for _ in range(5)], [0.3])
    yield from memory


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def memory_rows(bench: Bench) -> Iterator[Row]:
    """Resident memory of the coordinator, the fabric and a host."""
    (lab,) = json.loads(bench.lab("ls", "-f", "json"))
    children = Path(f"/proc/{lab['pid']}/task/{lab['pid']}/children").read_text().split()
    fabric = next(int(pid) for pid in children if b"vswitch.fabric" in Path(f"/proc/{pid}/cmdline").read_bytes())
    host = next(node["pid"] for node in json.loads(bench.lab("ps", "-f", "json")) if node["driver"] == "netns")
    for name, pid in (("coordinator", lab["pid"]), ("fabric", fabric), ("host", host)):
        yield row(f"memory/{name}", None, [resident(pid)], [], unit="MiB")


# --- hosts -----------------------------------------------------------------------------------------------------------


def hosts_lab(count: int) -> str:
    """A lab file of `count` hosts on one switch."""
    nodes = "".join(f"  h{number}: {{kind: netns}}\n" for number in range(count))
    links = "".join(f"  - [h{number}:eth0, lan0]\n" for number in range(count))
    return f"name: hosts\nnetworks: {{lan0: {{subnet: 10.0.0.0/16}}}}\nnodes:\n{nodes}links:\n{links}"


def mininet(count: int) -> float:
    """Seconds Mininet takes for the same, in a network namespace of its own."""
    argv = ["unshare", "--net", "mn", "--topo", f"single,{count}", "--switch", "lxbr", "--controller", "none"]

    def run() -> None:
        subprocess.run([*argv, "--test", "none"], check=True, capture_output=True)

    return timed(run)


def many_hosts(bench: Bench, count: int) -> Iterator[Row]:
    """`up/netns-N`."""
    file = bench.home / f"hosts-{count}.yaml"
    file.write_text(hosts_lab(count))
    up: list[float] = []
    both: list[float] = []
    theirs: list[float] = []
    runs = bench.runs if count <= 50 else bench.long_runs
    for _ in range(runs):
        up.append(timed(lambda: bench.lab("up", "-q", str(file))))
        both.append(up[-1] + timed(lambda: bench.lab("down", "-l", "hosts")))
        if shutil.which("mn"):
            theirs.append(mininet(count))
    for case, ours in ((f"up/netns-{count}", up), (f"up+down/netns-{count}", both)):
        if theirs:
            yield row(case, "mininet", ours, theirs)
        else:
            value = statistics.median(ours)
            yield Row(case=case, value=value, unit="s", peer="mininet", runs=runs, skipped="no mn here")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, all rows, under 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = Bench(arguments.quick)
    try:
        rows = [*root_lab(bench), *many_hosts(bench, 50), *many_hosts(bench, 200)]
    finally:
        bench.close()
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
