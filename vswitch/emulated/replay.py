"""Role `replay`: sends a capture file's frames again, at their recorded distances or at a rate. No I/O of its own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from . import patterns
from .captures import Captured, CaptureError, unfit
from .pacing import SECOND, Schedule
from .role import Arguments, Command, Frame, Reply, Role, no_arguments
from .settings import EmulatedSpec

MAX_BATCH = 256


class Replay(Role):
    """Replays what `open_capture` yields, from the beginning each time it is called.

    It may raise CaptureError or OSError: then the node says so, stops, and goes on answering commands.
    """

    name: ClassVar[str] = "replay"

    def __init__(self, spec: EmulatedSpec, open_capture: Callable[[], Iterator[Captured]]) -> None:
        super().__init__()
        self._open = open_capture
        self._rate = patterns.rate(spec.rate) if spec.rate is not None else None
        self._speed = spec.speed or 1.0
        # A bool is a number: True would be one loop.
        self._loops = None if spec.loop is True else 1 if not spec.loop else spec.loop
        self._auto = spec.start != "manual"
        self._frame_max = 1 << 16
        self._source: Iterator[Captured] | None = None
        self._ready: deque[tuple[int, bytes]] = deque()  # when due, or bytes sent before with a rate in bits
        self._schedule: Schedule | None = None
        self._base = 0  # what a recorded time is added to, once divided by the speed
        self._last_due = 0
        self._loop = 0
        self._counters: Counter[str] = Counter()
        self._error = ""
        self.commands["start"] = Command(self._command_start, "start", "send from the beginning of the file")
        self.commands["stop"] = Command(self._command_stop, "stop", "send no more")

    def ports_attached(self, frame_max: Sequence[int]) -> None:
        """Note what the ring takes: longer frames are left out."""
        self._frame_max = min(frame_max, default=self._frame_max)

    def begin(self, now: int) -> None:
        """Start unless that is to be done by hand."""
        if self._auto:
            self._start(now)

    @property
    def running(self) -> bool:
        """Whether anything is still to be sent."""
        return self._source is not None or bool(self._ready)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _start(self, now: int) -> None:
        self._stop()
        self._error = ""
        self._loop = 0
        self._last_due = now
        if self._rate is not None:
            # Bits per second: one bit is one thing to send; see `_affordable`.
            per_second = None if self._rate.unit == "max" else self._rate.value
            self._schedule = Schedule(now, per_second)
        self._rewind()
        self._fill()

    def _stop(self) -> None:
        self._source = None
        self._schedule = None
        self._ready.clear()

    def _rewind(self) -> None:
        self._loop += 1
        try:
            self._source = self._open()
        except (CaptureError, OSError) as error:
            self._failed(error)
        self._base = -1

    def _failed(self, error: Exception) -> None:
        self._error = str(error)
        self._source = None
        self.log(f"the capture cannot be read: {error}")

    def _fill(self) -> None:
        """Read ahead. A file without a frame that can be sent is not looped for ever."""
        while self._source is not None and len(self._ready) < MAX_BATCH:
            found = self._read()
            if found is not None:
                self._ready.append(found)
            elif self._source is not None:
                self._end_of_file()

    def _end_of_file(self) -> None:
        self._source = None
        self._counters["loops"] += 1
        if self._base < 0:
            self._failed(CaptureError("no frame in it can be sent"))
        elif self._loops is None or self._loop < self._loops:
            self._rewind()
        else:
            self.log(f"read the whole capture{f', {self._loop} times' if self._loop > 1 else ''}")

    def _read(self) -> tuple[int, bytes] | None:
        """The next frame that can be sent, and when it is due; None at the end of the file."""
        assert self._source is not None
        while True:
            try:
                captured = next(self._source, None)
            except (CaptureError, OSError) as error:
                self._failed(error)
                return None
            if captured is None:
                return None
            why = unfit(captured, self._frame_max)
            if why is None:
                break
            self._counters[why] += 1
        moment = int(captured.time / self._speed)
        if self._base < 0:
            self._base, self._first = self._last_due, moment
        # Never backwards, whatever the file says.
        self._last_due = max(self._last_due, self._base + moment - self._first)
        return self._last_due, captured.frame

    _first = 0

    def due(self) -> int | None:
        """When the next frame is due."""
        if not self._ready:
            return None
        return self._schedule.due() if self._schedule is not None else self._ready[0][0]

    def emit(self, now: int, room: int) -> tuple[int, Sequence[Frame]]:
        """The frames that are due."""
        most = min(room, MAX_BATCH)
        if self._schedule is None:
            frames: list[bytes] = []
            for due, frame in self._ready:
                if due > now or len(frames) == most:
                    break
                frames.append(frame)
            return 0, frames
        return 0, self._affordable(now, most)

    def _affordable(self, now: int, most: int) -> list[bytes]:
        assert self._schedule is not None
        assert self._rate is not None
        frames: list[bytes] = []
        if self._rate.unit != "bit":
            most = self._schedule.allowed(now, most)
            return [frame for _, (_, frame) in zip(range(most), self._ready, strict=False)]
        bits = self._schedule.allowed(now, SECOND)
        for _, frame in self._ready:
            # What is begun is sent, and paid for afterwards.
            if bits <= 0 or len(frames) == most:
                break
            bits -= 8 * len(frame)
            frames.append(frame)
        return frames

    def sent(self, count: int, now: int) -> None:
        """Count what the ring took, and read on."""
        size = 0
        for _ in range(count):
            size += len(self._ready.popleft()[1])
        if self._schedule is not None and self._rate is not None:
            self._schedule.sent(8 * size if self._rate.unit == "bit" else count)
        self._counters["sent"] += count
        self._counters["bytes"] += size
        self._fill()

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Count what comes in; nothing is answered."""
        self._counters["received"] += len(frames)
        return ()

    # --- commands ---------------------------------------------------------------------------------------------------

    def stats(self) -> Mapping[str, object]:
        """Counters; frames left out of the capture are counted by reason."""
        names = ("sent", "bytes", "received", "loops", "cut_short", "too_long", "too_short")
        given_up = self._schedule.given_up if self._schedule is not None and self._rate is not None else 0
        counters = {name: self._counters[name] for name in names}
        state = {"role": self.name, "running": self.running, "error": self._error}
        return {
            **state,
            **counters,
            "given_up_bits" if self._rate and self._rate.unit == "bit" else "given_up": given_up,
        }

    def reset(self) -> None:
        """Start counting from nothing."""
        self._counters.clear()

    def _command_start(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        self._start(now)
        if self._error:
            reply.err(self._error + "\n")
        reply.exit(1 if self._error else 0)

    def _command_stop(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        self._stop()
        reply.exit()
