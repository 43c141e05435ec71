"""VDE ports: our switch at a control directory and our client at another's, with VDE's own programs as peers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.qemu_converter import QemuConverter, needs_qemu, qemu_peer
from vswitch.errors import FabricError
from vswitch.ports import vde_client, vde_server
from vswitch.ports.vde import VdeSpec
from vswitch.ports.vde_directory import ControlDirectory
from vswitch.ports.vde_request import MAX_PORT, VdeRequest, make_address, make_request, parse_address, parse_request
from vswitch.ports.vde_server import VdeCable

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, Peer, frame, mac
from ..fabric.running import Fabric, run
from .served import Served, eventually
from .vde_peers import SIZES, VdePlug, ask, vde_switch

needs_vde = pytest.mark.skipif(shutil.which("vde_plug") is None, reason="needs VDE (package vde2)")
LARGE = (16000, 65535, 69632)
"""Bytes of frames that VDE's own programs do not carry, but our sockets do."""


@pytest.fixture
def directory(runtime_dir: Path) -> Path:
    """Where a control directory may be made; its path is short."""
    return runtime_dir / "ctl.d"


def names_in(directory: Path) -> list[str]:
    """What is in it, sorted."""
    return sorted(path.name for path in directory.iterdir())


def exchange(outer: Peer | VdePlug, inner: Peer, sizes: tuple[int, ...] = SIZES) -> None:
    """Frames of all sizes arrive unchanged, both ways. `inner` is host 2, the one beyond host 1."""
    meet(outer, inner)
    for size in sizes:
        outer.send(frame(mac(2), mac(1), b"out", size=size)[:size])
        assert inner.receive() == frame(mac(2), mac(1), b"out", size=size)[:size]
        inner.send(frame(mac(1), mac(2), b"in", size=size)[:size])
        assert outer.receive() == frame(mac(1), mac(2), b"in", size=size)[:size]


def meet(outer: Peer | VdePlug, inner: Peer) -> None:
    """Both are known to all switches on the way afterwards, and have nothing left to receive."""
    outer.send(frame(BROADCAST, mac(1), b"hello"))
    assert inner.receive() == frame(BROADCAST, mac(1), b"hello")
    inner.send(frame(mac(1), mac(2), b"hello"))
    assert outer.receive() == frame(mac(1), mac(2), b"hello")


# --- the lab file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (VdeSpec(listen="/run/lan.ctl", mode="0660", group="users"), None),
        (VdeSpec(connect="/run/lan.ctl", port=3), None),
        (VdeSpec(), "exactly one of"),
        (VdeSpec(listen="/a", connect="/b"), "exactly one of"),
        (VdeSpec(listen="lan.ctl"), "absolute path"),
        (VdeSpec(connect="/" + "x" * 100), "at most"),
        (VdeSpec(listen="/a", port=3), "goes with connect"),
    ],
)
def test_vde_spec_says_what_is_wrong(spec: VdeSpec, problem: str | None) -> None:
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


# --- requests ---------------------------------------------------------------------------------------------------------

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30).map(
    lambda text: f"/{text}"
)
REQUESTS = st.builds(VdeRequest, st.none() | st.integers(0, MAX_PORT), PATHS)


@given(REQUESTS, st.text(max_size=300))
def test_vde_request_is_understood_as_it_was_meant(request_: VdeRequest, description: str) -> None:
    data = make_request(request_, description)
    assert len(data) <= 256
    assert parse_request(data) == request_
    assert all(parse_request(data[:size]) is None for size in range(122))


@given(REQUESTS)
def test_vde_request_of_version_1_is_understood(request_: VdeRequest) -> None:
    kind = 1 if request_.port == 0 else (request_.port or 0) << 8
    data = struct.pack("=II6x", 0xFEEDFACE, kind) + make_address(request_.path)
    assert parse_request(data) == request_
    assert parse_request(data[:-1]) is None


@given(st.binary(max_size=256) | st.binary(max_size=244).map(lambda rest: struct.pack("=III", 0xFEEDFACE, 3, 0) + rest))
@example(struct.pack("=III", 0xFEEDFACE, 3, 0) + make_address("relative"))
@example(struct.pack("=III", 0xFEEDFACE, 3, 0) + bytes(110))
@example(struct.pack("=III", 0xFEEDFACE, 3, 0) + b"\1\0" + b"/" * 108)
@example(struct.pack("=III", 0xFEEDFACE, 3, 2) + make_address("/a"))
@example(struct.pack("=III", 0xFEEDFACE, 3, (MAX_PORT + 1) << 8) + make_address("/a"))
@example(struct.pack("=III", 0xFEEDFACE, 2, 0) + make_address("/a"))
def test_vde_request_that_is_none_is_refused(data: bytes) -> None:
    """Whatever comes is a request with a usable path, needs more, or is refused."""
    try:
        request_ = parse_request(data)
    except ValueError:
        return
    if request_ is None:
        assert len(data) < 124
    else:
        assert request_.path.startswith("/")
        assert "\0" not in request_.path
        assert len(os.fsencode(request_.path)) < 108
        assert request_.port is None or 0 <= request_.port <= MAX_PORT


# --- our switch -------------------------------------------------------------------------------------------------------


@needs_vde
def test_vde_plugs_and_a_cable_of_them_reach_our_switch(lan: Lan, directory: Path) -> None:
    """Each is a port of its own, until it goes."""
    inner, _ = lan.peer()
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        with VdePlug(str(directory)) as one:
            served.wait_for("p#1", "up")
            exchange(one, inner)
            with VdePlug(f"vde://{directory}[7]") as other:
                served.wait_for("p#7", "up")
                other.send(frame(mac(1), mac(3), size=9014))
                assert one.receive() == frame(mac(1), mac(3), size=9014)
            served.wait_for_ports("p#1")
        served.wait_for_ports()
        eventually(lambda: names_in(directory) == ["ctl"])
    assert not directory.exists()


@needs_qemu
def test_vde_of_qemu_reaches_our_switch(lan: Lan, directory: Path) -> None:
    """It takes and sends as much as we do."""
    inner, _ = lan.peer()
    with Served(lan, VdeSpec(listen=str(directory))) as served, qemu_peer(f"vde,sock={directory},port=5") as outer:
        served.wait_for("p#5", "up")
        exchange(outer, inner, SIZES + LARGE)


def test_vde_of_ours_carries_frames_of_any_size(lan: Lan, directory: Path) -> None:
    """A lab joined to another: our client at our switch."""
    inner, _ = lan.peer()
    with Lan() as away, Served(lan, VdeSpec(listen=str(directory))) as served:
        outer, _ = away.peer()
        with Served(away, VdeSpec(connect=str(directory), port=300)) as client:
            client.wait_for("p", "up")
            served.wait_for("p#300", "up")
            assert sorted(path.name[:4] for path in directory.iterdir()) == ["300.", "ctl"]
            exchange(outer, inner, SIZES + LARGE)
        served.wait_for_ports()


@needs_vde
def test_wirefilter_joins_two_of_our_switches(lan: Lan, runtime_dir: Path) -> None:
    """It opens both with a request like any other's."""
    near, far = runtime_dir / "near", runtime_dir / "far"
    inner, _ = lan.peer()
    with (
        Lan() as away,
        Served(lan, VdeSpec(listen=str(near))) as served,
        Served(away, VdeSpec(listen=str(far))) as beyond,
    ):
        outer, _ = away.peer()
        with subprocess.Popen(
            ["wirefilter", "-v", f"{near}:{far}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as wirefilter:
            try:
                served.wait_for("p#1", "up")
                beyond.wait_for("p#1", "up")
                exchange(outer, inner, (14, 60, 1514))
            finally:
                wirefilter.kill()
        served.wait_for_ports()
        beyond.wait_for_ports()


@needs_vde
def test_a_taken_port_is_refused_and_told(lan: Lan, directory: Path) -> None:
    with Served(lan, VdeSpec(listen=str(directory))) as served, VdePlug(f"vde://{directory}[2]"):
        served.wait_for("p#2", "up")
        with VdePlug(f"vde://{directory}[2]") as late:
            code, said = late.ended()
            assert code != 0
            assert "vde_open" in said
        served.wait_for("p", "listening", "port 2 is taken")
        assert list(served.ports) == ["p#2"]


def client_socket(directory: Path, name: str = ".12345-00000") -> tuple[socket.socket, Path]:
    """A client's datagram socket, bound."""
    data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    data.settimeout(20)
    data.bind(str(directory / name))
    return data, directory / name


def answered(control: socket.socket) -> str:
    """The path the switch answers with; "" when it hangs up."""
    answer = control.recv(110, socket.MSG_WAITALL)
    return parse_address(answer) if answer else ""


def test_a_request_of_version_1_cut_into_pieces_is_served(lan: Lan, directory: Path) -> None:
    inner, _ = lan.peer()
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        data, path = client_socket(directory)
        request_ = struct.pack("=II6x", 0xFEEDFACE, 9 << 8) + make_address(str(path))
        with data, ask(directory, request_[:3]) as control:
            control.sendall(request_[3:100])
            control.sendall(request_[100:])
            data.connect(answered(control))
            assert list(served.ports) == ["p#9"]
            data.send(frame(BROADCAST, mac(1)))
            assert inner.receive() == frame(BROADCAST, mac(1))
            control.sendall(b"a late description")
            inner.send(frame(mac(1), mac(2)))
            assert data.recv(2000) == frame(mac(1), mac(2))
            control.sendall(bytes(500))  # but no more than that
            served.wait_for_ports()
        eventually(lambda: not path.exists())  # it had left that


GARBAGE = (b"GET / HTTP/1.0\r\n\r\n", bytes(300), struct.pack("=II", 0xFEEDFACE, 77) + bytes(200), b"\xce")


def test_a_client_that_talks_garbage_is_hung_up_on_alone(
    lan: Lan, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vde_server, "_TELL_PAUSE", 0.0)
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        data, path = client_socket(directory)
        with data, ask(directory, make_request(VdeRequest(None, str(path)), "well-behaved")) as good:
            assert answered(good).startswith(f"{directory}/001.")
            for garbage in GARBAGE[:3]:
                with ask(directory, garbage) as control, contextlib.suppress(ConnectionResetError):  # of what it left
                    assert control.recv(200) == b""
            with ask(directory, GARBAGE[3]):
                pass
            served.wait_for("p", "listening", "it does not begin as a VDE request does")
            served.wait_for("p", "listening", "version 77")
            served.wait_for("p", "listening", "before it had said")
            assert list(served.ports) == ["p#1"]
            data.connect(answered_path := next(str(p) for p in directory.iterdir() if p.name.startswith("001.")))
            assert answered_path
            data.send(frame(BROADCAST, mac(1)))


def test_a_client_that_says_nothing_is_hung_up_on(lan: Lan, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vde_server, "_PATIENCE", 0.05)
    request_ = make_request(VdeRequest(None, "/nowhere"), "")
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        with ask(directory, request_[:121]) as control:
            assert control.recv(1) == b""
        served.wait_for("p", "listening", "did not say in time")


def test_a_client_is_only_given_a_socket_of_its_own(
    lan: Lan, directory: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path it names is not there, no socket, a symlink, or nobody listens."""
    monkeypatch.setattr(vde_server, "_TELL_PAUSE", 0.0)
    data, path = client_socket(runtime_dir, "mine")
    (runtime_dir / "file").touch()
    (runtime_dir / "link").symlink_to(path)
    dead, _ = client_socket(runtime_dir, "dead")
    dead.close()
    stream = socket.socket(socket.AF_UNIX)
    stream.bind(str(runtime_dir / "stream"))
    wrong = {
        "nothing": "No such file",
        "file": "not a socket",
        "link": "not a socket",
        "dead": "Connection refused",
        "stream": "wrong type",
    }
    with data, stream, Served(lan, VdeSpec(listen=str(directory))) as served:
        for name, reason in wrong.items():
            with ask(directory, make_request(VdeRequest(None, str(runtime_dir / name)), "")) as control:
                assert answered(control) == ""
            served.wait_for("p", "listening", reason)
        assert served.ports == {}
        eventually(lambda: names_in(directory) == ["ctl"])


@pytest.mark.root
def test_another_users_socket_is_refused(lan: Lan, directory: Path, runtime_dir: Path) -> None:
    """Who could name one would have us write to it."""
    data, path = client_socket(runtime_dir, "roots")
    runtime_dir.chmod(0o711)
    request_ = make_request(VdeRequest(None, str(path)), "")
    with data, Served(lan, VdeSpec(listen=str(directory), mode="0666")) as served:
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "s.sendall(bytes.fromhex(sys.argv[2])); sys.exit(len(s.recv(110)))"
        )
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]
        code = subprocess.run([*command, str(directory / "ctl"), request_.hex()], timeout=20, check=False).returncode
        assert code == 0
        served.wait_for("p", "listening", "belongs to another user")


@needs_vde
@pytest.mark.root
def test_clients_of_other_users_are_served_where_the_mode_lets_them(
    lan: Lan, directory: Path, runtime_dir: Path
) -> None:
    inner, _ = lan.peer()
    runtime_dir.chmod(0o711)
    with Served(lan, VdeSpec(listen=str(directory), mode="0660", group="65534")) as served:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o3770
        assert stat.S_IMODE((directory / "ctl").stat().st_mode) == 0o660
        assert (directory.stat().st_gid, (directory / "ctl").stat().st_gid) == (65534, 65534)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "vde_plug", str(directory)]
        with VdePlug(*command, program=()) as plug:
            served.wait_for("p#1", "up")
            exchange(plug, inner)


def test_a_client_that_went_before_it_was_answered_leaves_nothing(lan: Lan, directory: Path) -> None:
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        dead, path = client_socket(directory, ".00001-00000")
        dead.close()
        with ask(directory, make_request(VdeRequest(None, str(path)), "")) as control:
            assert answered(control) == ""
        served.wait_for("p", "listening", "refused")
        assert names_in(directory) == ["ctl"]


def test_a_path_that_hangs_keeps_nobody_else_waiting(
    lan: Lan, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose server has gone; so many such, and clients are refused."""
    go_on = threading.Event()
    connect = vde_server.connect_to_client

    def hang(data: socket.socket, path: str, uid: int) -> None:
        if path == "/hangs":
            go_on.wait(60)
        else:
            connect(data, path, uid)

    monkeypatch.setattr(vde_server, "connect_to_client", hang)
    monkeypatch.setattr(vde_server, "_PATIENCE", 1.0)
    monkeypatch.setattr(vde_server, "_TELL_PAUSE", 0.0)
    monkeypatch.setattr(vde_server, "_LOOK_UPS", 2)
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        data, path = client_socket(directory)
        with (
            data,
            ask(directory, make_request(VdeRequest(None, "/hangs"), "")) as hangs,
            ask(directory, make_request(VdeRequest(None, str(path)), "")) as control,
        ):
            assert answered(control)
            assert list(served.ports) != []
            assert answered(hangs) == ""
            with ask(directory, make_request(VdeRequest(None, "/hangs"), "")) as again:
                with ask(directory, make_request(VdeRequest(None, "/hangs"), "")) as more:
                    assert answered(more) == ""
                assert answered(again) == ""
            served.wait_for("p", "listening", "too many look-ups")
            go_on.set()


class SwappedSocket(socket.socket):
    """One whose file is replaced by a link to `secret` as soon as it is there, by who may write to the directory."""

    secret: Path

    def bind(self, address: Any) -> None:
        super().bind(address)
        Path(str(address)).unlink()
        Path(str(address)).symlink_to(self.secret)


@pytest.fixture
def secret(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is none of others' business, which SwappedSocket links to."""
    secret = runtime_dir / "secret"
    secret.touch(0o600)
    monkeypatch.setattr(SwappedSocket, "secret", secret, raising=False)
    return secret


def test_what_was_put_in_place_of_a_switchs_socket_keeps_its_permissions(directory: Path, secret: Path) -> None:
    with (
        contextlib.closing(ControlDirectory(directory, mode=0o666)) as there,
        SwappedSocket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        pytest.raises(PermissionError, match="not the socket we bound"),
        there.data_socket(sock, 5),
    ):
        pass
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not directory.exists()


def test_what_was_put_in_place_of_a_clients_socket_keeps_its_permissions(
    lan: Lan, directory: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vde_client, "open_data_socket", lambda: SwappedSocket(socket.AF_UNIX, socket.SOCK_DGRAM))
    with Served(lan, VdeSpec(listen=str(directory))), Served(lan, VdeSpec(connect=str(directory), mode="0666")) as ours:
        ours.wait_for("p", "connecting", "not the socket we bound")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.root
def test_what_was_put_in_place_of_roots_client_socket_keeps_its_owner(
    lan: Lan, runtime_dir: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root gives its socket to the user of the switch."""
    monkeypatch.setattr(vde_client, "open_data_socket", lambda: SwappedSocket(socket.AF_UNIX, socket.SOCK_DGRAM))
    monkeypatch.setattr(vde_client, "peer_credentials", lambda control: (1, 65534))
    with (
        Served(lan, VdeSpec(listen=str(runtime_dir / "c"))),
        Served(lan, VdeSpec(connect=str(runtime_dir / "c"))) as us,
    ):
        us.wait_for("p", "connecting", "not the socket we bound")
    assert secret.stat().st_uid == 0


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(lan: Lan, directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    assert "belongs to another user" in refusal(lan, directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_who_may_use_a_directory_may_not_remove_our_sockets(lan: Lan, directory: Path) -> None:
    with Served(lan, VdeSpec(listen=str(directory), mode="0666")):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o3777


def test_only_its_user_may_use_a_directory_unless_told_otherwise(lan: Lan, directory: Path) -> None:
    with Served(lan, VdeSpec(listen=str(directory))):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o2700
        assert stat.S_IMODE((directory / "ctl").stat().st_mode) == 0o600


def test_a_client_that_made_its_socket_inaccessible_is_served(lan: Lan, directory: Path) -> None:
    """Libvdeplug does, told mode 0; a vde_switch refuses it then."""
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        data, path = client_socket(directory)
        path.chmod(0)
        with data, ask(directory, make_request(VdeRequest(None, str(path)), "")) as control:
            assert answered(control)
            assert list(served.ports) == ["p#1"]


def test_so_many_clients_are_served_and_no_more(lan: Lan, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vde_server, "MAX_CLIENTS", 3)
    with Served(lan, VdeSpec(listen=str(directory))) as served, contextlib.ExitStack() as stack:
        for number in range(4):
            data, path = client_socket(directory, f".12345-0000{number}")
            stack.enter_context(data)
            control = stack.enter_context(ask(directory, b""))
            with contextlib.suppress(BrokenPipeError):
                control.sendall(make_request(VdeRequest(None, str(path)), ""))
            with contextlib.suppress(ConnectionResetError):
                assert bool(answered(control)) == (number < 3)
        served.wait_for("p", "listening", "there are 3 already")
        assert set(served.ports) == {"p#1", "p#2", "p#3"}


@needs_vde
def test_a_killed_client_leaves_nothing_and_may_come_again(lan: Lan, directory: Path) -> None:
    inner, _ = lan.peer()
    with Served(lan, VdeSpec(listen=str(directory))) as served:
        for _ in range(3):
            with VdePlug(str(directory)) as plug:
                served.wait_for_ports("p#1")
                exchange(plug, inner, (60,))
                plug.kill()
            served.wait_for_ports()
        eventually(lambda: names_in(directory) == ["ctl"])


# --- the directory ----------------------------------------------------------------------------------------------------


def refusal(lan: Lan, directory: Path) -> str:
    """Why `directory` cannot be served."""
    with pytest.raises(FabricError) as caught, Served(lan, VdeSpec(listen=str(directory))):
        pass
    return str(caught.value)


@needs_vde
def test_what_a_dead_switch_left_is_swept(lan: Lan, directory: Path) -> None:
    """Its sockets and those of its clients, but not those of clients that live."""
    with vde_switch(directory) as switch, VdePlug(str(directory)):
        eventually(lambda: [name[0] for name in names_in(directory)] == ["0", "c"])  # the port's socket, ctl
        switch.kill()
        switch.wait()
    dead, _ = client_socket(directory, ".00001-00000")
    dead.close()
    live, _ = client_socket(directory, ".00002-00000")
    assert len(list(directory.iterdir())) == 4
    with live, Served(lan, VdeSpec(listen=str(directory))):
        assert sorted(path.name for path in directory.iterdir()) == [".00002-00000", "ctl"]
    assert [path.name for path in directory.iterdir()] == [".00002-00000"]  # somebody's still


@needs_vde
def test_a_directory_that_is_served_is_refused(lan: Lan, runtime_dir: Path) -> None:
    """By a vde_switch, or by one of ours."""
    theirs, ours = runtime_dir / "theirs", runtime_dir / "ours"
    with vde_switch(theirs):
        assert "somebody else serves it" in refusal(lan, theirs)
        ask(theirs, b"").close()
    with Served(lan, VdeSpec(listen=str(ours))):
        assert "somebody else serves it" in refusal(lan, ours)
        assert (ours / "ctl").exists()
    ours.mkdir()
    lock = os.open(ours, os.O_RDONLY)  # as one of ours does that is about to listen
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "somebody else serves it" in refusal(lan, ours)
    os.close(lock)


def test_a_directory_of_something_else_is_refused_and_left_alone(lan: Lan, runtime_dir: Path) -> None:
    """Its permissions above all: somebody will write /tmp."""
    other, nowhere, file = runtime_dir / "other", runtime_dir / "no" / "where", runtime_dir / "file"
    other.mkdir(0o755)
    (other / "letter").touch()
    file.touch()
    assert "neither empty nor" in refusal(lan, other)
    assert stat.S_IMODE(other.stat().st_mode) == 0o755
    assert "No such file" in refusal(lan, nowhere)
    assert "Not a directory" in refusal(lan, file)
    (other / "letter").rename(other / "ctl")
    assert "is not a socket" in refusal(lan, other)


def test_a_killed_fabric_leaves_what_the_next_one_sweeps(directory: Path) -> None:
    """With a client plugged in. Removing the port, the network or all of it properly leaves nothing."""
    spec = {"type": "vde", "listen": str(directory)}

    async def killed() -> None:
        fabric = Fabric()
        await fabric.client.open()
        await fabric.client.add_network("lan", "switch")
        await fabric.client.add_outside_port("lan", "v", spec)
        data, path = client_socket(directory)
        with data, ask(directory, make_request(VdeRequest(None, str(path)), "")) as control:
            assert await asyncio.to_thread(answered, control)
            fabric.process.kill()
            await asyncio.to_thread(fabric.process.wait, 20)
        await fabric.client.close()

    async def swept(fabric: Fabric) -> None:
        await fabric.client.add_outside_port("lan", "v", spec)
        assert names_in(directory) == ["ctl"]
        await fabric.client.remove_port("lan", "v")
        await asyncio.to_thread(lambda: eventually(lambda: not directory.exists()))
        await fabric.client.add_outside_port("lan", "v", spec)

    asyncio.run(killed())
    assert len(names_in(directory)) > 1
    run(swept)
    assert not directory.exists()


def test_a_directory_that_was_there_stays(lan: Lan, directory: Path) -> None:
    directory.mkdir()
    with Served(lan, VdeSpec(listen=str(directory))):
        assert (directory / "ctl").exists()
    assert list(directory.iterdir()) == []


def test_a_group_that_does_not_exist_is_named(lan: Lan, directory: Path) -> None:
    with (
        pytest.raises(FabricError, match="no group 'nosuch'"),
        Served(lan, VdeSpec(listen=str(directory), group="nosuch")),
    ):
        pass


# --- our client -------------------------------------------------------------------------------------------------------


@needs_vde
def test_our_client_joins_a_vde_switch(lan: Lan, directory: Path) -> None:
    """vde_switch cuts frames after 1518 bytes."""
    inner, _ = lan.peer()
    with vde_switch(directory), Served(lan, VdeSpec(connect=str(directory), port=4)) as served:
        served.wait_for("p", "up")
        assert [path.name[:4] for path in directory.iterdir() if path.name != "ctl"] == ["004."]
        with VdePlug(str(directory)) as plug:
            exchange(plug, inner, (14, 42, 60, 64, 1514, 1518))
            inner.send(frame(mac(1), mac(2), size=4096))
            assert plug.receive() == frame(mac(1), mac(2), size=1518)


@needs_vde
def test_our_client_comes_back_after_its_switch_did(lan: Lan, directory: Path) -> None:
    inner, _ = lan.peer()
    with Served(lan, VdeSpec(connect=str(directory))) as served:
        seen = served.wait_for("p", "connecting", "No such file")
        for _ in range(2):
            with vde_switch(directory) as switch:
                seen = served.wait_for("p", "up", after=seen)
                with VdePlug(str(directory)) as plug:
                    exchange(plug, inner, (60,))
                switch.kill()
                switch.wait()
            seen = served.wait_for("p", "connecting", "the switch has gone", after=seen)
            served.wait_for_ports()


def test_our_client_is_refused_and_tries_again(lan: Lan, directory: Path) -> None:
    """By one that hangs up, one that answers nonsense, and one that has that port taken."""
    with Lan() as away:
        directory.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(20)
            listener.bind(str(directory / "ctl"))
            listener.listen()
            with Served(lan, VdeSpec(connect=str(directory), port=2)) as served:
                for answer, reason in ((b"", "refused us a port"), (bytes(110), "did not answer with the path")):
                    control, _ = listener.accept()
                    with control:
                        request_ = parse_request(control.recv(256))
                        assert request_ is not None
                        assert request_.port == 2
                        assert Path(request_.path).is_socket()
                        control.sendall(answer)
                    served.wait_for("p", "connecting", reason)
                    assert not Path(request_.path).exists()
                listener.close()
                with Served(away, VdeSpec(listen=str(directory))) as switch:
                    served.wait_for("p", "up")
                    assert list(switch.ports) == ["p#2"]


@needs_vde
@pytest.mark.root
def test_our_client_joins_the_switch_of_another_user(lan: Lan, runtime_dir: Path) -> None:
    """That one can write to our socket, though it is not told any mode."""
    inner, _ = lan.peer()
    home = runtime_dir / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    runtime_dir.chmod(0o711)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "vde_switch", "-s", str(home / "c")]
    with (
        Served(lan, VdeSpec(connect=str(home / "c"))) as served,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as switch,
    ):
        try:
            served.wait_for("p", "up")
            with VdePlug(str(home / "c")) as plug:
                exchange(plug, inner, (60,))
        finally:
            switch.kill()


# --- a cable for one --------------------------------------------------------------------------------------------------


@needs_qemu
def test_vde_cable_is_plugged_in_later_and_again(lan: Lan, directory: Path) -> None:
    """The port is there before QEMU, and stays when QEMU is killed and another comes."""
    inner, _ = lan.peer()

    async def scenario() -> None:
        cable = VdeCable(directory)
        port = lan.engine.add_port(lan.switch, "dgram", [os.dup(cable.fd)])
        inner.send(frame(BROADCAST, mac(2)))  # to nobody yet
        serving = asyncio.get_running_loop().create_task(cable.serve())
        try:
            for _ in range(2):
                async with asyncio.timeout(30):
                    await asyncio.to_thread(qemu_exchanges)
            assert lan.counters(port).state == "up"
        finally:
            serving.cancel()
            await asyncio.wait({serving})

    def qemu_exchanges() -> None:
        with qemu_peer(f"vde,sock={directory}") as outer:
            exchange(outer, inner, (60, 1514))
            with pytest.raises(RuntimeError, match="QEMU ended"):  # there is a client already
                QemuConverter(f"vde,sock={directory}")

    asyncio.run(scenario())
    assert not directory.exists()


def test_vde_cable_that_is_never_served_leaves_nothing(directory: Path) -> None:
    VdeCable(directory).close()
    assert not directory.exists()
