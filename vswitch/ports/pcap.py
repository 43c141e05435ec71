"""Port type `pcap`: plays a capture file, writes one, or both; see pcap.c.

The engine never waits for a disk. What is to be played is read into memory before; what is to be written goes through a
pipe to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import stat
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta

from ..emulated import patterns
from ..emulated.captures import MAX_FRAME, Captured, CaptureError, read_capture, unfit
from ..errors import FabricError
from ..model.spec import Duration
from .port import Attach, PortSpec, Status, lab_is_up

MAX_PLAYED = 1 << 30
"""Bytes of frames, with what goes with each, that a port keeps in memory to play."""
_FRAME_MAX = 69632
_SECOND = 1_000_000_000
_LONGEST_DELAY = 3600.0
_PIPE = 1 << 20
_READER_DELAY = 0.2
_END_GRACE = 1.0

_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
_record = struct.Struct("=QI4s")  # pcap.c's struct record
_options = struct.Struct("=QQIBBxx")  # and its struct pcap_options

_Rate = Annotated[
    str,
    Meta(
        pattern="^(max|[0-9]{1,12}([.][0-9]{1,6})?([kKmMgG]?)(pps|bit))$",
        extra={"what": "a rate such as 100kpps, 10mbit or max"},
    ),
]


class PcapSpec(PortSpec, frozen=True, kw_only=True, tag="pcap"):
    """`read` is a capture, pcap or pcapng, to be played; `write` the file to write what leaves by the port to.

    Playing begins `delay` after all nodes are ready. Frames keep their recorded distances, divided by `speed`, or go
    out at a `rate`: `100kpps`, `10mbit`, `max`. `loop` is how often, true for ever. Of a longer frame the first
    `snaplen` bytes are written. The file to write may be a FIFO.
    """

    read: Annotated[str, Meta(extra={"path": True})] | None = None
    write: Annotated[str, Meta(extra={"path": "new"})] | None = None
    speed: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    rate: _Rate | None = None
    loop: bool | Annotated[int, Meta(ge=1, le=1 << 32)] | None = None
    delay: Duration | None = None
    snaplen: Annotated[int, Meta(ge=14, le=MAX_FRAME)] | None = None

    def problems(self) -> list[str]:
        """Check that there is a file, and that what else is said is about what is done with it."""
        found = []
        if self.read is None and self.write is None:
            found.append("give read, write, or both")
        if self.read is None:
            keys = {"speed": self.speed, "rate": self.rate, "loop": self.loop, "delay": self.delay}
            found += [f"{key} is for a port that plays: give read" for key, value in keys.items() if value is not None]
        if self.write is None and self.snaplen is not None:
            found.append("snaplen is for a port that writes: give write")
        if self.speed is not None and self.rate is not None:
            found.append("'speed' and 'rate' are two ways to say how fast; write one")
        if self.delay is not None and self.delay > _LONGEST_DELAY:
            found.append("delay is at most 1h")
        try:
            if self.rate is not None:
                patterns.rate(self.rate)
        except ValueError as error:
            found.append(str(error))
        if self.read is not None and self.read == self.write:
            found.append("read and write are the same file")
        return found

    def exclusive(self) -> dict[str, str]:
        """The file written, unless it is one that takes what many write."""
        if self.write is None or self.write.startswith("/dev/"):
            return {}
        return {"write": f"file {os.path.normpath(self.write)}"}

    async def serve(self, attach: Attach, status: Status) -> None:
        """Play and write until all is played, if that is all, or for good. Raises FabricError."""
        played = await self._loaded(self.read) if self.read is not None else None
        fds = [] if played is None else [played.memory]
        timer = -1
        recorder = None
        try:
            timer = _new_timer()
            fds.insert(0, os.dup(timer))
            if self.write is not None:
                recorder = await _open_recorder(self.write, self.snaplen or MAX_FRAME, status)
                fds.append(recorder.sink)
            status("waiting" if played is not None else "writing", played.left_out if played is not None else "")
            options = _options.pack(
                played.period if played is not None else 0,
                0 if self.loop is True else int(self.loop or 1),
                self.snaplen or MAX_FRAME,
                played is not None,
                recorder is not None,
            )
            async with asyncio.TaskGroup() as tasks:
                if played is not None:
                    tasks.create_task(self._begin_playing(timer))
                watching = tasks.create_task(recorder.watch()) if recorder is not None else None
                await attach("pcap", fds, options=options)
                if recorder is not None and watching is not None:
                    await recorder.finish()
                    watching.cancel()
        except BaseExceptionGroup as errors:
            # Not `except*`: Python 3.11.2 puts what is raised there into a group again.
            if errors.split((FabricError, OSError))[1] is not None:
                raise
            raise errors.exceptions[0] from None
        finally:
            for fd in (timer, *fds):
                if fd >= 0:
                    os.close(fd)
            if recorder is not None:
                await recorder.finish()

    async def _begin_playing(self, timer: int) -> None:
        await lab_is_up()
        _arm(timer, self.delay or 0.0)

    async def _loaded(self, file: str) -> _Played:
        """`_load()` in a thread. Raises FabricError."""
        loading = asyncio.get_running_loop().run_in_executor(None, self._load, file)
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_forget)
            raise

    def _load(self, file: str) -> _Played:
        """Read the whole capture into memory. Raises FabricError."""
        memory = os.memfd_create("vswitch-pcap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with Path(file).open("rb") as capture:
                if not stat.S_ISREG(os.fstat(capture.fileno()).st_mode):
                    raise FabricError(f"{file} is not a regular file")
                pace = _Pace(self.speed or 1.0, self.rate)
                left_out: Counter[str] = Counter()
                with open(memory, "wb", buffering=_PIPE, closefd=False) as out:
                    size = 0
                    for captured in _fit(read_capture(capture), left_out):
                        size += out.write(_padded(pace.due(captured), captured.frame))
                        if size > MAX_PLAYED:
                            raise FabricError(f"{file} has more than {MAX_PLAYED >> 20} MiB of frames")
            if not size:
                raise FabricError(f"{file}: no frame in it can be sent{_named(left_out)}")
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        except (CaptureError, OSError) as error:
            os.close(memory)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise FabricError(f"{file}: {reason}") from None
        except FabricError:
            os.close(memory)
            raise
        return _Played(memory, pace.period(), _named(left_out))


class _Played(NamedTuple):
    """What is to be played: a memfd of records, the ns a loop takes, and what was left out, in words."""

    memory: int
    period: int
    left_out: str


def _forget(loading: asyncio.Future[_Played]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        os.close(loading.result().memory)


class _Pace:
    """When each frame of a capture is due, in ns from the first. Never backwards, whatever the file says."""

    def __init__(self, speed: float, rate: str | None) -> None:
        self._speed = speed
        self._rate = patterns.rate(rate) if rate is not None else None
        self._first: int | None = None
        self._done = 0  # frames or bits, in the unit of the rate
        self._last = 0

    def due(self, captured: Captured) -> int:
        """The time of the next frame, which is this one."""
        if self._rate is None:
            if self._first is None:
                self._first = captured.time
            self._last = max(self._last, int((captured.time - self._first) / self._speed))
        else:
            self._last = self._paid()
            self._done += 8 * len(captured.frame) if self._rate.unit == "bit" else 1
        return self._last

    def period(self) -> int:
        """How long all of them take: with recorded times the next loop begins with the last frame of this one."""
        return self._last if self._rate is None else self._paid()

    def _paid(self) -> int:
        assert self._rate is not None
        return int(self._done * _SECOND / self._rate.value) if self._rate.value else 0


def _fit(capture: Iterator[Captured], left_out: Counter[str]) -> Iterator[Captured]:
    for captured in capture:
        why = unfit(captured, _FRAME_MAX)
        if why is None:
            yield captured
        else:
            left_out[why] += 1


def _named(left_out: Counter[str]) -> str:
    words = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in sorted(left_out.items()))
    return f" (left out: {words})" if words else ""


def _padded(due: int, frame: bytes) -> bytes:
    return _record.pack(due, len(frame), len(frame).to_bytes(4, "big")) + frame + bytes(-len(frame) % 8)


# --- the timer --------------------------------------------------------------------------------------------------------
# Python has none of its own before 3.13.

_libc = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1


def _new_timer() -> int:
    """A timer's descriptor, never to expire yet. Raises OSError."""
    fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _arm(timer: int, seconds: float) -> None:
    """Have it expire `seconds` from now."""
    whole, fraction = divmod(max(1, round(seconds * _SECOND)), _SECOND)
    interval_and_value = (ctypes.c_long * 4)(0, 0, whole, fraction)
    _libc.timerfd_settime(timer, 0, ctypes.byref(interval_and_value), None)


# --- writing ----------------------------------------------------------------------------------------------------------


class _Recorder:
    """Empties a pipe into an open file, both taken over, in a thread. `sink` is the pipe's end for the engine."""

    def __init__(self, path: str, file: int, snaplen: int) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[OSError | None] = self._loop.create_future()
        source, self.sink = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # more than one user may have in pipes: it is a smaller one then
            fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, _PIPE)
        header = struct.pack("=IHHiIII", _NANOSECONDS, 2, 4, 0, 0, snaplen, _ETHERNET)
        # A daemon: one that waits for the reader of a FIFO for ever must not hold up our end.
        threading.Thread(target=self._run, args=(source, file, header), daemon=True).start()

    def _run(self, source: int, file: int, data: bytes) -> None:
        result: OSError | None = None
        try:
            while data:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                # All there is, so that the file ends with a whole record whenever we wait here.
                data = os.read(source, _PIPE)
        except OSError as error:
            result = error
        finally:
            os.close(source)
            os.close(file)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._tell, result)

    def _tell(self, result: OSError | None) -> None:
        if not self._ended.done():
            self._ended.set_result(result)

    async def watch(self) -> None:
        """Wait until nothing can be written any more. Raises FabricError with the reason, if it is one."""
        error = await asyncio.shield(self._ended)
        if isinstance(error, BrokenPipeError):
            raise FabricError(f"nobody reads {self._path} any more")
        if error is not None:
            raise FabricError(f"writing {self._path}: {error.strerror}")

    async def finish(self) -> None:
        """Once the engine has closed its end: wait, for a limited time, until all is in the file."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_GRACE):
                await asyncio.shield(self._ended)


async def _open_recorder(path: str, snaplen: int, status: Status) -> _Recorder:
    """Open the file; where that is a FIFO, wait for its reader. Raises FabricError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        try:
            file = os.open(path, flags | os.O_TRUNC, 0o666)
        except OSError as error:
            if error.errno != 6 or not stat.S_ISFIFO(os.stat(path).st_mode):  # ENXIO  # noqa: PTH116
                raise FabricError(f"{path}: {error.strerror}") from None
            status("waiting", f"nobody reads {path} yet")
            await asyncio.sleep(_READER_DELAY)
        else:
            os.set_blocking(file, True)
            return _Recorder(path, file, snaplen)
