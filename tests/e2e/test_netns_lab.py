"""A lab of netns hosts, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import LabCommand, processes_of

from .conftest import PAIR, Leftovers

pytestmark = pytest.mark.namespaces

LabFile = Callable[..., Path]


@pytest.fixture
def pair(lab_command: LabCommand, lab_file: LabFile) -> LabCommand:
    """A running lab of two hosts on a switch."""
    lab_file()
    lab_command.ok("up", "-q")
    return lab_command


def run_id(lab: LabCommand, name: str = "pair") -> str:
    return str(json.loads((lab.labs / name / "run.json").read_text())["run_id"])


def ps(lab: LabCommand, *arguments: str) -> dict[str, dict[str, object]]:
    return {row["node"]: row for row in json.loads(lab.ok("ps", "-f", "json", *arguments))}


def test_hosts_ping_each_other_by_name_and_see_their_own_names(pair: LabCommand) -> None:
    assert "1 packets received" in pair.ok("exec", "a", "--", "busybox", "ping", "-c1", "-W2", "b")
    assert pair.ok("exec", "b", "--", "hostname").strip() == "b"
    assert pair("exec", "a", "--", "busybox", "ping", "-c1", "-W1", "10.0.0.99").returncode == 1


def test_up_prints_progress_and_the_table_of_nodes(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file()
    result = lab_command("up")
    assert result.returncode == 0
    assert b"a is ready" in result.stderr
    table = result.stdout.decode()
    assert "10.0.0.1/24" in table
    assert "10.0.0.2/24" in table
    assert "every node ready" in table


def test_exec_passes_stdin_stdout_stderr_and_the_exit_code(pair: LabCommand) -> None:
    result = pair("exec", "a", "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in\0\xff")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"in\0\xff", b"err\n")


def test_exec_carries_megabytes_both_ways_unharmed(pair: LabCommand) -> None:
    data = os.urandom(3 << 20)
    result = pair("exec", "a", "--", "cat", stdin=data)
    assert result.stdout == data


def test_exec_of_a_missing_program_says_so_and_exits_127(pair: LabCommand) -> None:
    result = pair("exec", "a", "--", "no-such-program")
    assert result.returncode == 127
    assert b"no-such-program" in result.stderr


def test_exec_in_an_unknown_node_names_the_known_ones(pair: LabCommand) -> None:
    result = pair("exec", "c", "--", "true")
    assert result.returncode == 1
    assert b"no node 'c'" in result.stderr
    assert b"a, b" in result.stderr


def test_exec_with_a_terminal_gives_the_command_one(pair: LabCommand) -> None:
    script = "test -t 0 && test -t 1 && stty size"
    result = subprocess.run(
        ["script", "-qec", " ".join(pair.argv("exec", "-t", "a", "--", "sh", "-c", f"'{script}'")), "/dev/null"],
        env=pair.environment,
        cwd=pair.cwd,
        capture_output=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stdout
    assert len(result.stdout.split()) == 2


def test_interrupted_exec_interrupts_the_command_in_the_node(pair: LabCommand) -> None:
    command = pair.start(
        "exec", "a", "--", "sh", "-c", "trap 'echo caught; exit 3' INT; echo go; while :; do sleep 0.1; done"
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"go\n"
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=20)
    assert (command.returncode, out) == (3, b"caught\n")


def test_killed_exec_client_takes_its_command_along(pair: LabCommand) -> None:
    command = pair.start("exec", "a", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert command.stdout is not None
    inner = command.stdout.readline().strip().decode()
    command.kill()
    command.communicate()
    gone = f"i=0; while kill -0 {inner} 2>/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done"
    pair.ok("exec", "a", "--", "sh", "-c", gone)


def test_second_up_says_it_is_already_up(pair: LabCommand) -> None:
    before = run_id(pair)
    assert "already up" in pair.ok("up")
    assert run_id(pair) == before


def test_ls_and_ps_list_as_table_and_as_json(pair: LabCommand) -> None:
    (row,) = json.loads(pair.ok("ls", "-f", "json"))
    assert (row["name"], row["state"], row["nodes"]) == ("pair", "running", "2/2")
    assert "running" in pair.ok("ls")
    assert {name: node["state"] for name, node in ps(pair).items()} == {"a": "ready", "b": "ready"}
    assert "10.0.0.2/24" in pair.ok("ps")


def test_down_leaves_nothing(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file()
    before = Leftovers.of(lab_command.runtime)
    lab_command.ok("up", "-q")
    lab_command.ok("exec", "a", "--", "sh", "-c", "sleep 1000 & setsid sleep 1000 &")
    assert len(Leftovers.of(lab_command.runtime).processes) >= 4
    lab_command.ok("down")
    assert Leftovers.of(lab_command.runtime) == before
    assert lab_command.left() == []
    assert "no lab is up" in lab_command("ls").stderr.decode()


@pytest.mark.parametrize("kind", ["switch", "hub", "mcast"])
def test_three_hosts_reach_each_other_over_every_network_type(
    lab_command: LabCommand, lab_file: LabFile, kind: str
) -> None:
    lab_file(
        f"name: three\nnetworks: {{n: {{type: {kind}, subnet: 10.0.0.0/24}}}}\n"
        "nodes: {a: {kind: netns}, b: {kind: netns}, c: {kind: netns}}\n"
        "links: [[a:eth0, n], [b:eth0, n], [c:eth0, n]]\n"
    )
    lab_command.ok("up", "-q")
    for source, target in ("ab", "bc", "ca"):
        lab_command.ok("exec", source, "--", "busybox", "ping", "-c1", "-W2", target)


def test_point_to_point_link_joins_two_hosts(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(
        "name: p2p\nnodes: {a: {kind: netns}, b: {kind: netns}}\n"
        "links: [{endpoints: [a:eth0, b:eth0], subnet: 10.9.0.0/30}]\n"
    )
    lab_command.ok("up", "-q")
    lab_command.ok("exec", "a", "--", "busybox", "ping", "-c1", "-W2", "b")


SERVE = """
import hashlib, socket
with socket.create_server(("", 7)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    with connection:
        print(hashlib.file_digest(connection.makefile("rb"), "sha256").hexdigest())
"""
SEND = """
import hashlib, os, socket
data = os.urandom(20_000_000)
with socket.create_connection(("b", 7)) as connection:
    connection.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


def test_tcp_carries_data_through_the_switch_unharmed(pair: LabCommand) -> None:
    server = pair.start("exec", "b", "--", sys.executable, "-c", SERVE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listening\n"
    sent = pair.ok("exec", "a", "--", sys.executable, "-c", SEND)
    received, _ = server.communicate(timeout=30)
    assert received.decode() == sent


def test_stats_and_fdb_show_what_passed(pair: LabCommand) -> None:
    pair.ok("exec", "a", "--", "busybox", "ping", "-c3", "-W2", "b")
    ports = {row["port"]: row for row in json.loads(pair.ok("stats", "-f", "json"))}
    assert ports["a:eth0"]["rx_frames"] >= 4
    assert ports["b:eth0"]["tx_frames"] >= 4
    learnt = {row["port"] for row in json.loads(pair.ok("fdb", "lan0", "-f", "json"))}
    assert learnt == {"a:eth0", "b:eth0"}
    assert "a:eth0" in pair.ok("stats")


def test_sixteen_copies_at_once_do_not_see_each_other(lab_command: LabCommand, tmp_path: Path) -> None:
    """Eight in directories of their own, eight in one directory with --name: same file, same addresses."""
    before = Leftovers.of(lab_command.runtime)
    places: list[tuple[str, Path]] = []
    for number in range(8):
        directory = tmp_path / f"copy{number}"
        directory.mkdir()
        (directory / "lab.yaml").write_text(PAIR)
        places.append(("", directory))
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "lab.yaml").write_text(PAIR)
    places += [(f"copy-{number}", shared) for number in range(8)]

    def up(place: tuple[str, Path]) -> None:
        name, directory = place
        lab_command.ok("up", "-q", *(["--name", name] if name else []), cwd=directory, timeout=120)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(up, places))
        running = json.loads(lab_command.ok("ls", "-f", "json"))
        assert [row["state"] for row in running] == ["running"] * 16
        assert len({row["name"] for row in running}) == 16

        def ping(place: tuple[str, Path]) -> None:
            name, directory = place
            chosen = ["-l", name] if name else []
            lab_command.ok("exec", *chosen, "a", "--", "busybox", "ping", "-c2", "-W2", "b", cwd=directory, timeout=120)

        list(pool.map(ping, places))
        # Each switch knows its own two hosts and nobody else's frames.
        macs = set()
        for row in running:
            table = json.loads(lab_command.ok("fdb", "-l", row["name"], "lan0", "-f", "json"))
            assert {entry["port"] for entry in table} == {"a:eth0", "b:eth0"}
            stats = json.loads(lab_command.ok("stats", "-l", row["name"], "-f", "json"))
            assert all(port["tx_frames"] < 60 for port in stats), stats
            macs.add(frozenset(entry["mac"] for entry in table))
        assert len(macs) == 1, "the same file gives the same MACs, so cross-talk would have shown as moves"
        lab_command.ok("down", "--all", timeout=120)
    assert Leftovers.of(lab_command.runtime) == before
    assert lab_command.left() == []


def test_name_in_use_by_another_file_is_refused(pair: LabCommand, tmp_path: Path) -> None:
    other = tmp_path / "other" / "lab.yaml"
    other.parent.mkdir()
    other.write_text(PAIR)
    result = pair("up", "--name", "pair", cwd=other.parent)
    assert result.returncode == 1
    assert b"choose another --name" in result.stderr


def test_killed_coordinator_takes_everything_along_and_shows_as_crashed(pair: LabCommand) -> None:
    identity = run_id(pair)
    (row,) = json.loads(pair.ok("ls", "-f", "json"))
    pidfds = [os.pidfd_open(pid) for pid in processes_of(identity)]
    assert len(pidfds) >= 4
    os.kill(row["pid"], signal.SIGKILL)
    (crashed,) = json.loads(pair.ok("ls", "-f", "json"))
    assert crashed["state"] == "crashed"
    assert b"crashed" in pair("ls").stdout
    refused = pair("exec", "a", "--", "true")
    assert refused.returncode == 1
    assert b"lab gc" in refused.stderr
    assert "swept pair" in pair.ok("gc")
    assert processes_of(identity) == set()
    assert "nothing to sweep" in pair.ok("gc")
    for fd in pidfds:
        os.close(fd)


def test_up_after_a_crash_sweeps_and_starts_anew(pair: LabCommand) -> None:
    (row,) = json.loads(pair.ok("ls", "-f", "json"))
    os.kill(row["pid"], signal.SIGKILL)
    pair.ok("up", "-q")
    pair.ok("exec", "a", "--", "busybox", "ping", "-c1", "-W2", "b")


def test_killed_fabric_marks_the_lab_broken_with_the_reason(pair: LabCommand) -> None:
    events = pair.start("events")
    assert events.stdout is not None
    fabric = next(
        pid for pid in processes_of(run_id(pair)) if b"vswitch.fabric" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    # The stream of events begins once it is subscribed: ask until the first answer proves it is.
    os.kill(fabric, signal.SIGKILL)
    wait_for_state(pair, "broken")
    (row,) = json.loads(pair.ok("ls", "-f", "json"))
    assert "fabric" in row["cause"]
    assert "SIGKILL" in row["cause"]
    pair.ok("exec", "a", "--", "true")
    pair.ok("down")
    events.communicate(timeout=20)


def wait_for_state(lab: LabCommand, state: str) -> None:
    for _ in range(100):
        (row,) = json.loads(lab.ok("ls", "-f", "json"))
        if row["state"] == state:
            return
    raise AssertionError(f"lab never became {state}: {row}")


def test_killed_host_is_exited_and_the_others_go_on(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(PAIR.replace("  b: {kind: netns}", "  b: {kind: netns}\n  c: {kind: netns}") + "  - [c:eth0, lan0]\n")
    lab_command.ok("up", "-q")
    os.kill(int(str(ps(lab_command)["b"]["pid"])), signal.SIGKILL)
    for _ in range(100):
        if ps(lab_command)["b"]["state"] == "exited":
            break
    assert ps(lab_command)["b"]["state"] == "exited"
    assert "SIGKILL" in str(ps(lab_command)["b"]["info"])
    lab_command.ok("exec", "a", "--", "busybox", "ping", "-c1", "-W2", "c")
    assert lab_command("exec", "b", "--", "true").returncode != 0


SLOW = PAIR.replace("  b: {kind: netns}", "  b: {kind: netns, exec: ['echo booting slowly; sleep 1000']}")


def wait_until_lab_appears(lab: LabCommand, command: subprocess.Popen[bytes]) -> str:
    """Wait until the starting lab answers; return its run id."""
    while command.poll() is None:
        rows = json.loads(lab.ok("ls", "-f", "json"))
        if rows and rows[0]["state"] == "starting":
            return run_id(lab, rows[0]["name"])
    raise AssertionError(command.communicate())


def test_killed_cli_in_mid_up_leaves_no_orphan(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SLOW)
    command = lab_command.start("up")
    identity = wait_until_lab_appears(lab_command, command)
    command.kill()
    command.communicate()
    for _ in range(200):
        if not lab_command.left():
            break
        lab_command("ls")
    assert lab_command.left() == []
    for _ in range(50):
        if not processes_of(identity):
            break
        lab_command("ls")
    assert processes_of(identity) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_cleans_up_and_says_so(
    lab_command: LabCommand, lab_file: LabFile, number: signal.Signals
) -> None:
    lab_file(SLOW)
    command = lab_command.start("up")
    identity = wait_until_lab_appears(lab_command, command)
    command.send_signal(number)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130
    assert b"interrupted" in errors
    assert b"nothing is left" in errors
    assert processes_of(identity) == set()
    assert lab_command.left() == []


def test_attached_up_ends_with_the_lab_down(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file()
    command = lab_command.start("up", "-a")
    assert command.stderr is not None
    while b"attached" not in command.stderr.readline():
        assert command.poll() is None
    lab_command.ok("exec", "a", "--", "true")
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 0
    assert lab_command.left() == []


def test_node_not_ready_in_time_fails_the_up_with_its_console(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SLOW.replace("kind: netns, exec", "kind: netns, ready_timeout: 1s, exec"))
    result = lab_command("up")
    assert result.returncode == 1
    assert b"node b" in result.stderr
    assert b"not ready within 1 s" in result.stderr
    assert b"has been taken down" in result.stderr
    assert lab_command.left() == []


def test_failing_exec_is_reported_and_keep_leaves_the_lab_up(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(PAIR.replace("  b: {kind: netns}", "  b: {kind: netns, exec: ['echo so it goes; exit 3']}"))
    result = lab_command("up", "--keep")
    assert result.returncode == 1
    assert b"exit code 3" in result.stderr
    assert b"so it goes" in result.stderr
    (row,) = json.loads(lab_command.ok("ls", "-f", "json"))
    assert row["state"] == "broken"
    assert "so it goes" in lab_command.ok("logs", "b")
    assert "exit code 3" in str(ps(lab_command)["b"]["info"])
    lab_command.ok("exec", "a", "--", "true")
    lab_command.ok("down")


def test_up_timeout_bounds_the_whole_start(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SLOW)
    result = lab_command("up", "--timeout", "1")
    assert result.returncode == 1
    assert b"not ready within 1 s" in result.stderr
    assert b"b is booting" in result.stderr
    assert lab_command.left() == []


def test_dependent_host_starts_only_after_the_one_it_needs_is_healthy(
    lab_command: LabCommand, lab_file: LabFile, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    lab_file(
        PAIR.replace(
            "  a: {kind: netns}",
            f"  a: {{kind: netns, exec: ['echo a >> {trace}'], healthcheck: {{run: 'test -e {trace}'}}}}",
        ).replace(
            "  b: {kind: netns}",
            f"  b: {{kind: netns, depends_on: {{a: {{condition: healthy}}}}, exec: ['echo b >> {trace}']}}",
        )
    )
    lab_command.ok("up", "-q")
    assert trace.read_text() == "a\nb\n"


def test_dry_run_prints_the_plan_and_starts_nothing(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file()
    plan = lab_command.ok("up", "--dry-run").splitlines()
    assert plan[0] == "add network lan0 (switch)"
    assert "start node b" in plan
    assert lab_command.left() == []


def test_checks_pass_and_fail_by_exit_code(lab_command: LabCommand, lab_file: LabFile) -> None:
    checks = (
        "checks:\n  good: {node: a, run: 'busybox ping -c1 -W1 b'}\n  bad: {node: a, run: 'false', within: 300ms}\n"
    )
    lab_file(PAIR + checks)
    lab_command.ok("up", "-q")
    assert "pass" in lab_command.ok("check", "good")
    result = lab_command("check", "-f", "json")
    assert result.returncode == 1
    assert {row["check"]: row["result"] for row in json.loads(result.stdout)} == {"good": "pass", "bad": "FAIL"}


def test_console_of_a_host_is_a_shell(pair: LabCommand) -> None:
    result = pair("console", "a", stdin=b"echo $((40+2)); exit 5\n")
    assert b"42" in result.stdout
    assert result.returncode == 5


def test_environment_of_the_file_and_of_the_command_line_reach_the_command(
    lab_command: LabCommand, lab_file: LabFile
) -> None:
    lab_file(PAIR.replace("  b: {kind: netns}", "  b: {kind: netns, env: {COLOUR: red, SIZE: '1'}}"))
    lab_command.ok("up", "-q")
    shown = lab_command.ok("exec", "-e", "SIZE=2", "-w", "/usr", "b", "--", "sh", "-c", "echo $COLOUR $SIZE $PWD")
    assert shown == "red 2 /usr\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(pair: LabCommand, closed: str) -> None:
    command = " ".join(pair.argv("exec", "a", "--", "sh", "-c", "'cat; exit 4'"))
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"],
        env=pair.environment,
        cwd=pair.cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 4, result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["ps", "exec a -- echo hi"])
def test_full_disk_is_told_in_a_line(pair: LabCommand, verb: str) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            pair.argv(*verb.split()),
            env=pair.environment,
            cwd=pair.cwd,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 1
    assert b"No space left" in result.stderr
    assert b"Traceback" not in result.stderr


def test_terminated_exec_ends_with_its_command(pair: LabCommand) -> None:
    command = pair.start("exec", "a", "--", "sh", "-c", "trap '' TERM; echo go; while :; do sleep 0.1; done")
    assert command.stdout is not None
    assert command.stdout.readline() == b"go\n"
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=20)
    assert command.returncode == 128 + signal.SIGTERM


def test_silent_coordinator_is_named_and_not_waited_for(pair: LabCommand) -> None:
    (row,) = json.loads(pair.ok("ls", "-f", "json"))
    os.kill(row["pid"], signal.SIGSTOP)
    try:
        result = pair("exec", "a", "--", "true")
        assert result.returncode == 1
        assert f"pid {row['pid']}) has not answered".encode() in result.stderr
        assert b"unreachable" in pair("ls").stdout
    finally:
        os.kill(row["pid"], signal.SIGCONT)
    pair.ok("exec", "a", "--", "true")


@pytest.mark.parametrize("verb", [("logs", "-f"), ("events",)])
def test_following_ends_when_the_reader_leaves(pair: LabCommand, verb: tuple[str, ...]) -> None:
    command = pair.start(*verb)
    assert command.stdout is not None
    command.stdout.close()
    assert command.stderr is not None
    command.stderr.close()
    command.wait(timeout=20)


def test_host_has_a_small_environment_of_its_own(pair: LabCommand) -> None:
    pair.ok("down")
    pair.environment["SECRET"] = "s3cret"
    pair.ok("up", "-q")
    shown = pair.ok("exec", "a", "--", "env")
    names = {line.partition("=")[0] for line in shown.splitlines()}
    assert "SECRET" not in names
    assert names <= {"PATH", "HOME", "LANG", "VSWITCH_RUN", "PWD", "SHLVL", "_"}
    assert "s3cret" not in shown
