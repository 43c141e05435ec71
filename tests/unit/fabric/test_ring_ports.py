"""Ring ports of a real fabric process: opening and closing them, in all the ways a hostile client may try."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import itertools
import mmap
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ring_fabric import (
    TIMEOUT,
    Pair,
    RingFabric,
    numbered,
    processor_time,
    raw_connection,
    readable,
    ring_fabric,
)
from vswitch.errors import FabricError
from vswitch.fabric.ring_ports import RingPorts
from vswitch.model.lab import PortSettings
from vswitch.ring import Ring, RingError

OPEN = struct.Struct("=IIIIII128s")
OPENED = struct.Struct("=IIII256s")
MAGIC = 0x52535756
FROM_US = 1033  # F_ADD_SEALS


@pytest.fixture(scope="module")
def shared() -> Iterator[RingFabric]:
    """One fabric for all tests that leave it as they found it."""
    with ring_fabric() as fabric:
        yield fabric


@pytest.fixture
def fabric(shared: RingFabric) -> Iterator[RingFabric]:
    """The fabric; a test must leave no ports, descriptors and mappings behind."""
    before = shared.holdings()
    yield shared
    shared.wait_until(lambda: shared.ports() == {} and shared.holdings()[:3] == before[:3])
    while not shared.events.empty():
        shared.events.get()


def ask(sock: socket.socket, name: str, *, version: int = 1, rings: int = 0, slots: int = 0, size: int = 0) -> None:
    sock.send(OPEN.pack(MAGIC, version, rings, slots, size, 0, name.encode()))


def answer(sock: socket.socket) -> tuple[str, list[int]]:
    """The error, and the descriptors."""
    data, fds, _, _ = socket.recv_fds(sock, OPENED.size + 1, 4)
    assert len(data) == OPENED.size
    return OPENED.unpack(data)[4].split(b"\0")[0].decode(), fds


def refusal(fabric: RingFabric, name: str, **fields: int) -> str:
    """Ask for a port that is refused; return why."""
    with raw_connection(fabric) as sock:
        ask(sock, name, **fields)
        error, fds = answer(sock)
        assert fds == []
        assert sock.recv(1) == b""
        return error


# --- what exists ------------------------------------------------------------------------------------------------------


def test_port_appears_when_it_is_opened_and_goes_when_it_is_closed(fabric: RingFabric) -> None:
    with fabric.open("p1") as ring:
        assert fabric.ports()["p1"].state == "up"
        assert fabric.ports()["p1"].type == "ring"
        ring.send([numbered(2, 1, 0)])
        fabric.wait_until(lambda: fabric.ports()["p1"].rx_frames == 1)
    assert fabric.expect("p1", "closed").reason == "the client closed it"
    assert fabric.ports() == {}


def test_port_lives_until_the_last_descriptor_of_its_socket_is_closed(fabric: RingFabric) -> None:
    """A client that hands its socket to a child may go."""
    ring = fabric.open("p1")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[ring.fileno()])
    ring.close()
    assert fabric.ports()["p1"].state == "up"
    child.communicate(b"\n", TIMEOUT)
    fabric.expect("p1", "closed")


def test_port_lives_while_its_socket_is_on_its_way_to_another_process(fabric: RingFabric) -> None:
    ring = fabric.open("p1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [ring.fileno()])
        ring.close()
        assert fabric.ports()["p1"].state == "up"
        _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
        os.close(fd)
    fabric.expect("p1", "closed")


def test_declared_port_waits_for_its_client_and_waits_again(fabric: RingFabric) -> None:
    fabric.declare("door", PortSettings(), slots=100, buf_size=4096)
    for _ in range(2):
        assert fabric.ports()["door"].state == "waiting"
        with fabric.open("door") as ring:
            assert (ring.rings, ring.slots, ring.buf_size) == (1, 100, 4096)
            assert fabric.ports()["door"].state == "up"
        fabric.expect("door", "closed")
    with fabric.open("door") as ring:
        fabric.ask(fabric.client.remove_port("lan", "door"))
        with pytest.raises(RingError, match="the other side has gone"):
            ring.wait(timeout=TIMEOUT)
    assert fabric.ports() == {}


def test_second_open_of_a_name_is_refused_until_the_first_is_closed(fabric: RingFabric) -> None:
    with fabric.open("p1"):
        with pytest.raises(RingError, match=r"lan:p1: somebody has this port open already"):
            Ring.open(fabric.name("p1"))
        assert fabric.ports()["p1"].state == "up"
    fabric.expect("p1", "closed")
    with fabric.open("p1"):
        pass


def test_ring_and_other_ports_share_one_space_of_names(fabric: RingFabric) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        fabric.ask(fabric.client.add_port("lan", "p1", "stream", [theirs.detach()]))
        with pytest.raises(RingError, match="has a port p1 already"):
            Ring.open(fabric.name("p1"))
        with fabric.open("p2"):
            fd = os.open("/dev/null", os.O_RDWR)
            with pytest.raises(FabricError, match="has a port p2 already"):
                fabric.ask(fabric.client.add_port("lan", "p2", "stream", [fd]))
        fabric.ask(fabric.client.remove_port("lan", "p1"))


def test_name_of_a_port_that_faces_outside_is_its_own_while_it_has_no_peer(fabric: RingFabric, tmp_path: Path) -> None:
    """Such a client would get its settings, keep its peers out and be left over when it is removed."""
    listening, connecting = {"listen": f"unix:{tmp_path}/a"}, {"connect": f"unix:{tmp_path}/b"}
    peers = {"server#1", "uplink"}
    for name, address in (("server", listening), ("uplink", connecting)):
        fabric.ask(fabric.client.add_outside_port("lan", name, {"type": "stream", **address}, PortSettings()))
        assert refusal(fabric, f"lan:{name}") == f"network lan: port {name} is one of type stream"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(f"{tmp_path}/b")
        server.listen(1)
        client.connect(f"{tmp_path}/a")
        fabric.wait_until(lambda: {row.port for row in fabric.ports().values() if row.state == "up"} == peers)
        for name in ("server", "uplink"):
            fabric.ask(fabric.client.remove_port("lan", name))
    assert fabric.ports() == {}


def test_port_of_a_removed_network_is_hung_up_on(fabric: RingFabric) -> None:
    fabric.ask(fabric.client.add_network("other", "hub"))
    with Ring.open(f"{fabric.path}:other:p1") as ring:
        fabric.ask(fabric.client.remove_network("other"))
        with pytest.raises(RingError, match="the other side has gone"):
            ring.wait(timeout=TIMEOUT)


# --- requests that make no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "this is no port's name"),
        ("lan", "this is no port's name"),
        ("lan:", "this is no port's name"),
        ("lan:p1:p2", "this is no port's name"),
        ("lan:p/1", "this is no port's name"),
        ("lan:" + "p" * 64, "this is no port's name"),
        ("lan:p#1", "this is no port's name"),
        ("lan:p1{", "this is no port's name"),
        ("lan:p1{" + "x" * 17, "this is no port's name"),
        ("wan:p1", "wan"),
        ("lan:\x1b[31m", "this is no port's name"),
    ],
)
def test_request_for_a_bad_name_is_refused_with_the_reason(fabric: RingFabric, name: str, reason: str) -> None:
    assert reason in refusal(fabric, name)


@pytest.mark.parametrize(
    "fields", [{"rings": 17}, {"slots": 63}, {"slots": 4097}, {"size": 65600}, {"size": 300}, {"rings": 2**32 - 1}]
)
def test_request_for_memory_out_of_bounds_is_refused(fabric: RingFabric, fields: dict[str, int]) -> None:
    assert "a ring has 1..16 ring pairs of 64..4096 slots" in refusal(fabric, "lan:p1", **fields)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"rings": 16, "slots": 4096, "size": 65536}, "8192.0 MiB"),
        ({"rings": 1, "slots": 2049, "size": 65536}, "256.1 MiB"),
    ],
)
def test_request_for_more_memory_than_a_port_may_have_is_refused(
    fabric: RingFabric, fields: dict[str, int], size: str
) -> None:
    for name in ("lan:p1", "lan:p{1"):
        assert f"are {size} of buffers; a port has 256 MiB at most" in refusal(fabric, name, **fields)
    fabric.declare("door", PortSettings())
    assert "a port has 256 MiB at most" in refusal(fabric, "lan:door", **fields)
    fabric.ask(fabric.client.remove_port("lan", "door"))


def test_request_of_another_version_is_refused_with_both_versions(fabric: RingFabric) -> None:
    assert refusal(fabric, "lan:p1", version=7) == "this lab's fabric speaks version 1 of rings, not 7"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        OPEN.pack(MAGIC, 1, 0, 0, 0, 0, b"lan:p1") + b"x",
        b"\xff" * OPEN.size,
        b"x" * 60000,
    ],
)
def test_garbage_instead_of_a_request_is_hung_up_on(fabric: RingFabric, garbage: bytes) -> None:
    with raw_connection(fabric) as sock:
        sock.send(garbage)
        assert sock.recv(1) == b""


def test_name_that_is_not_text_is_refused(fabric: RingFabric) -> None:
    with raw_connection(fabric) as sock:
        sock.send(OPEN.pack(MAGIC, 1, 0, 0, 0, 0, b"\xff" * 128))
        assert "this is no port's name" in answer(sock)[0]


def test_descriptors_sent_along_are_not_kept(fabric: RingFabric) -> None:
    read, write = os.pipe()
    with raw_connection(fabric) as sock:
        socket.send_fds(sock, [OPEN.pack(MAGIC, 1, 0, 0, 0, 0, b"lan:p1")], [write] * 200)
        os.close(write)
        _, fds = answer(sock)
        assert len(fds) == 2
        assert os.read(read, 1) == b"", "the fabric holds what it was sent"
        for fd in fds:
            os.close(fd)
    os.close(read)


def test_client_that_goes_before_its_answer_leaves_nothing(fabric: RingFabric) -> None:
    for number in range(100):
        with raw_connection(fabric) as sock:
            ask(sock, f"lan:p{number}")


def test_client_that_talks_afterwards_loses_its_port(fabric: RingFabric) -> None:
    with raw_connection(fabric) as sock:
        ask(sock, "lan:p1")
        for fd in answer(sock)[1]:
            os.close(fd)
        fabric.expect("p1", "up")
        sock.send(b"and another thing")
        fabric.expect("p1", "closed")


@pytest.mark.parametrize("handed_down", [False, True])
def test_mistake_of_ours_that_a_request_provokes_costs_that_client_alone(
    handed_down: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What attaches ports here fails in a way nobody thought of, until it no longer does."""
    failures: list[Exception] = [KeyError("whoops"), RuntimeError("whoops")]
    unhandled: list[dict[str, Any]] = []

    def attach(network: str, port: str, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if failures:
            raise failures.pop()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        ports = RingPorts(attach, lambda network, port: None, lambda *event: None, lambda network: True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"{tmp_path}/ring")
        listener.listen()
        ports.listen(listener)
        for expected in ("internal error: RuntimeError('whoops')", "internal error: KeyError('whoops')", ""):
            if handed_down:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ports.hand_down("lan", "p1", theirs)
            else:
                ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.connect(f"{tmp_path}/ring")
            with ours:
                ours.settimeout(TIMEOUT)
                ask(ours, "lan:p1")
                error, fds = await asyncio.to_thread(answer, ours)
                assert (error, len(fds)) == (expected, 0 if expected else 2)
                for fd in fds:
                    os.close(fd)
            ports.remove("lan", "p1")
        ports.close()

    asyncio.run(body())
    assert unhandled == []
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["whoops", "'whoops'"]


# --- many of them -----------------------------------------------------------------------------------------------------


def test_silent_connections_keep_nobody_out_and_are_closed(fabric: RingFabric) -> None:
    """More of them than the fabric lets ask at once: those that say nothing go first."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_connection(fabric)) for _ in range(200)]
        with Ring.open(fabric.name("p1"), timeout=TIMEOUT):
            fabric.expect("p1", "up")
        assert silent[0].recv(1) == b""
        assert all(readable(sock.fileno()) for sock in silent), "the last of them is closed after 5 s"


def test_two_hundred_clients_at_once_all_get_their_ports(fabric: RingFabric) -> None:
    rings: list[Ring] = []

    def open_one(number: int) -> None:
        rings.append(Ring.open(fabric.name(f"p{number}"), slots=64, buf_size=256, timeout=TIMEOUT))

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fabric.ports()) == len(rings) == 200
    for ring in rings:
        ring.close()


def test_five_thousand_ports_come_and_go_and_nothing_is_left() -> None:
    """Well-behaved ones, half-done handshakes and garbage in turn; two other ports lose nothing meanwhile."""
    with ring_fabric() as fabric:
        pair = Pair(fabric)
        pair.exchange()

        def storm(n: int) -> None:
            for number in range(n):
                if number % 500 == 0:
                    pair.exchange(20)
                kind = number % 10
                if kind == 7:
                    raw_connection(fabric).close()
                elif kind == 8:
                    with raw_connection(fabric) as sock:
                        ask(sock, f"lan:p{number % 7}", slots=64, size=256)
                elif kind == 9:
                    with raw_connection(fabric) as sock:
                        sock.send(b"nonsense")
                else:
                    Ring.open(fabric.name(f"q{number}"), slots=64, buf_size=256).close()

        before = fabric.holdings()
        storm(500)
        fabric.wait_until(lambda: fabric.holdings()[:3] == before[:3])
        resident = fabric.holdings().resident  # allocators have grown to what they need
        storm(5000)
        fabric.wait_until(lambda: fabric.holdings()[:3] == before[:3])
        assert fabric.holdings().resident < resident + 4096
        pair.exchange()
        pair.close()


def test_ports_of_one_network_are_bounded(fabric: RingFabric) -> None:
    """A client that opens ports for ever is stopped where a lab file would be: at 1024."""
    rings = [Ring.open(fabric.name(f"p{number}"), slots=64, buf_size=256) for number in range(1024)]
    with pytest.raises(RingError, match="1024 ports"):
        Ring.open(fabric.name("p1024"))
    rings.pop().close()
    fabric.wait_until(lambda: len(fabric.ports()) == 1023)
    Ring.open(fabric.name("p1024")).close()
    for ring in rings:
        ring.close()


def test_pipes_that_wait_for_their_other_end_are_bounded(fabric: RingFabric) -> None:
    rings = [Ring.open(fabric.name(f"p{{{number}"), slots=64, buf_size=256) for number in range(1024)]
    with pytest.raises(RingError, match="1024 pipes"):
        Ring.open(fabric.name("p{1024"))
    with Ring.open(fabric.name("p}1")):  # there is one waiting less, now
        Ring.open(fabric.name("p{1024")).close()
    for ring in rings:
        ring.close()


def open_huge(fabric: RingFabric, stack: contextlib.ExitStack, port: str) -> None:
    """Have the fabric give out 256 MiB, and map none of it here."""
    sock = stack.enter_context(raw_connection(fabric))
    ask(sock, f"lan:{port}", slots=2048, size=65536)
    error, fds = answer(sock)
    for fd in fds:
        stack.callback(os.close, fd)
    assert error == "", error


def test_memory_that_all_clients_have_is_bounded_and_given_back(fabric: RingFabric) -> None:
    """By a quarter of the machine's, or 4 GiB. What the lab file declares is not kept from whoever opens it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bound = min(4 << 30, total // 4)
    most = bound // (256 << 20)
    fabric.declare("large", PortSettings(), slots=2048, buf_size=65536)
    with contextlib.ExitStack() as stack:
        for number in range(most - 1):
            open_huge(fabric, stack, f"p{number}")
        with contextlib.ExitStack() as last:
            open_huge(fabric, last, "p{waits")  # a pipe takes part
            for name in ("lan:q", "lan:p{1"):
                reason = refusal(fabric, name, slots=2048, size=65536)
                assert f"clients have {256 * most}.0 MiB" in reason
                assert f"the most they may have, {bound / (1 << 20):.1f} MiB" in reason
            open_huge(fabric, last, "large")
            assert "MiB more" in refusal(fabric, "lan:q", slots=2048, size=65536), "it has taken from others, or given"
        fabric.wait_until(lambda: fabric.ports()["large"].state == "waiting")
        open_huge(fabric, stack, "q")
    fabric.ask(fabric.client.remove_port("lan", "large"))


def test_declared_port_counts_with_what_its_client_asks_beyond_the_declaration(fabric: RingFabric) -> None:
    bound = min(4 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    doors = [f"door{number}" for number in range(bound // (256 << 20) + 1)]
    for door in doors:
        fabric.declare(door, PortSettings(), slots=64, buf_size=256)
    with contextlib.ExitStack() as stack:
        for door in doors[:-1]:
            open_huge(fabric, stack, door)
        assert "MiB more" in refusal(fabric, f"lan:{doors[-1]}", slots=2048, size=65536)
        with raw_connection(fabric) as sock:
            ask(sock, f"lan:{doors[-1]}")
            error, fds = answer(sock)
            assert error == ""
            for fd in fds:
                os.close(fd)
    for door in doors:
        fabric.ask(fabric.client.remove_port("lan", door))


@contextlib.contextmanager
def descriptors_left(pid: int, n: int) -> Iterator[None]:
    """Let a process have `n` descriptors more than it has now."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path("/proc", str(pid), "fd").iterdir()}
    free = (number for number in itertools.count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, n, None)), limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("spare", range(1, 6))
def test_port_for_which_descriptors_do_not_suffice_is_refused_and_leaves_none(fabric: RingFabric, spare: int) -> None:
    """One is for the connection, two are for the client, three for the engine."""
    with descriptors_left(fabric.process.pid, spare), pytest.raises(RingError, match="Too many open files"):
        Ring.open(fabric.name("p1"))
    with descriptors_left(fabric.process.pid, 6):
        Ring.open(fabric.name("p1")).close()


def test_fabric_that_can_accept_nobody_waits_without_spinning(fabric: RingFabric) -> None:
    pid = fabric.process.pid
    opening = threading.Thread(target=lambda: Ring.open(fabric.name("p1"), timeout=TIMEOUT).close())
    with descriptors_left(pid, 0):
        begun = processor_time(pid)
        opening.start()
        opening.join(1.0)
        assert opening.is_alive()
        assert processor_time(pid) < begun + 0.2
    opening.join()
    fabric.expect("p1", "up")


# --- memory -----------------------------------------------------------------------------------------------------------


def opened(fabric: RingFabric, sock: socket.socket) -> tuple[int, int]:
    """Open port p1 by hand; return its memory and its eventfd."""
    ask(sock, "lan:p1", slots=64, size=256)
    error, fds = answer(sock)
    assert error == ""
    memory, kick = fds
    fabric.expect("p1", "up")
    return memory, kick


def test_memory_cannot_be_cut_grown_or_unsealed(fabric: RingFabric) -> None:
    with raw_connection(fabric) as sock:
        memory, kick = opened(fabric, sock)
        size = os.fstat(memory).st_size
        for wrong in (0, size - 4096, size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(memory, wrong)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory, FROM_US, 8)
        again = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
        for fd in (memory, kick, again):
            os.close(fd)


def test_memory_written_to_after_the_port_has_gone_hurts_nobody(fabric: RingFabric) -> None:
    with fabric.open("p2") as ring:
        with raw_connection(fabric) as sock:
            memory, kick = opened(fabric, sock)
        fabric.expect("p1", "closed")
        with mmap.mmap(memory, 0) as mapping:
            mapping[:] = b"\xff" * len(mapping)
            os.eventfd_write(kick, 1)
        with fabric.open("p1") as second:
            ring.send([numbered(1, 2, 5)])
            assert second.wait(timeout=TIMEOUT)
            assert second.receive() == [numbered(1, 2, 5)]
        os.close(memory)
        os.close(kick)


def test_eventfd_filled_to_its_limit_and_blocking_stops_nobody(fabric: RingFabric) -> None:
    """With the descriptor's own process holding it so, and a doorbell socket that is never read."""
    pair = Pair(fabric)
    with raw_connection(fabric) as sock:
        memory, kick = opened(fabric, sock)
        os.set_blocking(kick, True)
        sock.setblocking(True)
        os.eventfd_write(kick, 2**64 - 2)
        with mmap.mmap(memory, 0) as mapping, fabric.open("p2") as sender:
            # The rx ring's need-kick word changes all the time, so that a bell is due for each batch.
            line = 4096 + 64
            for number in range(2000):
                mapping[line + 8 : line + 12] = struct.pack("=I", number + 1)
                mapping[line : line + 4] = mapping[8192 + 64 + 4 : 8192 + 64 + 8]  # released: hwtail
                sender.send([numbered(0x99, 3, number)])
            pair.exchange()
            assert fabric.ports()["p1"].state == "up"
            queued = array.array("i", [0])
            fcntl.ioctl(sock, 0x541B, queued)  # FIONREAD
            assert queued[0] > 0, "no bell was ever sent"
    os.close(memory)
    os.close(kick)
    pair.close()
    fabric.expect("innocent1", "closed")
    fabric.expect("innocent2", "closed")
    for port in ("innocent1", "innocent2"):
        fabric.ask(fabric.client.remove_port("lan", port))


def test_port_that_breaks_a_rule_is_in_error_with_the_reason_until_it_is_closed(fabric: RingFabric) -> None:
    with raw_connection(fabric) as sock:
        memory, kick = opened(fabric, sock)
        with mmap.mmap(memory, 0) as mapping:
            mapping[4096:4100] = struct.pack("=I", 64)
            os.eventfd_write(kick, 1)
            assert fabric.expect("p1", "error").reason == "the client's head is 64 in a ring of 64 slots"
        assert fabric.ports()["p1"].state == "error"
        assert sock.recv(1) == b""
        with pytest.raises(RingError, match="open already"):
            Ring.open(fabric.name("p1"))
        os.close(memory)
        os.close(kick)
    fabric.expect("p1", "closed")


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_pipe_joins_two_clients_and_outlives_the_fabrics_interest(fabric: RingFabric) -> None:
    with Ring.open(fabric.name("p{1")) as a, Ring.open(fabric.name("p}1")) as b:
        assert fabric.ports() == {}, "a pipe is no port of the switch"
        for source, to in ((a, b), (b, a)):
            assert source.send([b"x" * 60, b"y" * 3000]) == 2
            assert to.wait(timeout=TIMEOUT)
            assert to.receive() == [b"x" * 60, b"y" * 3000]


def test_frames_sent_before_the_other_end_opens_arrive(fabric: RingFabric) -> None:
    with Ring.open(fabric.name("p}1")) as b:
        b.send([b"x" * 60])
        assert b.arm() is False
        with Ring.open(fabric.name("p{1")) as a:
            assert a.wait(timeout=TIMEOUT)
            assert a.receive() == [b"x" * 60]
            a.send([b"y" * 60])
            assert readable(b.fileno())
            b.disarm()
            assert b.receive() == [b"y" * 60]


def test_pipe_end_that_goes_before_the_other_opens_leaves_a_new_pipe(fabric: RingFabric) -> None:
    before = fabric.holdings().descriptors
    with Ring.open(fabric.name("p{1")) as a:
        a.send([b"x" * 60])
    for _ in range(50):
        Ring.open(fabric.name("p{1")).close()
    with Ring.open(fabric.name("p}1")) as b:
        assert not b.wait(timeout=0.01)
        with Ring.open(fabric.name("p{1")):
            pass
    fabric.wait_until(lambda: fabric.holdings().descriptors == before)


def test_pipe_end_hears_that_the_other_has_gone_after_its_last_frames(fabric: RingFabric) -> None:
    with Ring.open(fabric.name("p{1")) as a:
        with Ring.open(fabric.name("p}1")) as b:
            b.send([b"x" * 60])
        assert a.wait(timeout=TIMEOUT)
        assert a.receive() == [b"x" * 60]
        with pytest.raises(RingError, match="the other side has gone"):
            a.wait(timeout=TIMEOUT)


def test_pipe_refuses_the_same_end_twice_and_another_geometry(fabric: RingFabric) -> None:
    with Ring.open(fabric.name("p{1"), slots=128):
        assert "this end of pipe lan:p:1 is open already" in refusal(fabric, "lan:p{1")
        assert "has 1 rings of 128 slots of 2048 bytes" in refusal(fabric, "lan:p}1", slots=64)
        Ring.open(fabric.name("p}1")).close()


# --- handed down ------------------------------------------------------------------------------------------------------


def test_socket_handed_to_a_child_is_its_port(fabric: RingFabric) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fabric.ask(fabric.client.add_port("lan", "node:eth0", "ring", [theirs.detach()]))
    assert fabric.ports()["node:eth0"].state == "waiting"
    with Ring.from_fd(ours.detach()) as ring, fabric.open("p1") as other:
        fabric.wait_until(lambda: fabric.ports()["node:eth0"].state == "up")
        ring.send([numbered(1, 2, 0)])
        assert other.wait(timeout=TIMEOUT)
        assert other.receive() == [numbered(1, 2, 0)]
        with pytest.raises(RingError, match="handed down cannot be reopened"):
            ring.reopen(0.1)
    fabric.wait_until(lambda: "node:eth0" not in fabric.ports())


def test_socket_handed_to_a_child_that_says_nonsense_is_no_port(fabric: RingFabric) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        fabric.ask(fabric.client.add_port("lan", "node:eth0", "ring", [theirs.detach()]))
        ours.send(b"nonsense")
        assert fabric.ports()["node:eth0"].state == "waiting"
        fabric.ask(fabric.client.remove_port("lan", "node:eth0"))
