"""What a program may do to a ring while one of the ring's own methods runs. In a process of its own: it may crash.

python3 -m tests.unit.ring.misuse CASE NAME_OF_A_PORT [SOCKET_OF_ITS_FABRIC]
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from vswitch.ring import Ring, RingError

FRAME = bytes(60)
PATIENCE = 20.0  # s


def _overwrite_freed_memory() -> None:
    gc.collect()
    junk = [bytes([0xA5]) * 5000 for _ in range(2000)]
    del junk


def _in_a_thread(wait: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start `wait` and return once it is asleep, or as good as."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            wait()
        except RingError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    task = Path("/proc/self/task")
    while thread.native_id is None or (task / str(thread.native_id) / "stat").read_text().split()[2] != "S":
        os.sched_yield()
    return thread, errors


def generator_closes_the_ring_it_is_sent_to(ring: Ring, _: Path) -> None:
    def frames() -> Iterator[bytes]:
        yield from [FRAME] * 300
        ring.close()
        _overwrite_freed_memory()

    with pytest.raises(RingError, match="the ring is closed"):
        ring.send(frames())  # type: ignore[arg-type]


def lengths_close_the_ring_they_are_committed_to(ring: Ring, _: Path) -> None:
    class Lengths(Sequence[int]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: object) -> int:  # type: ignore[override]
            if i == 2:
                raise IndexError
            ring.close()
            _overwrite_freed_memory()
            return 60

    ring.reserve(2)
    with pytest.raises(RingError, match="the ring is closed"):
        ring.commit(Lengths())


def wait_ends_when_another_thread_closes_the_ring(ring: Ring, _: Path) -> None:
    thread, errors = _in_a_thread(ring.wait)
    ring.close()
    _overwrite_freed_memory()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == ["the ring is closed"]


def wait_that_would_reconnect_ends_as_well(ring: Ring, _: Path) -> None:
    with Ring.open(ring.name + "2", reconnect=3600) as waiting:
        thread, errors = _in_a_thread(waiting.wait)
        waiting.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert [str(error) for error in errors] == ["the ring is closed"]


def reopen_ends_when_another_thread_closes_the_ring(ring: Ring, path: Path) -> None:
    path.rename(path.with_name("hidden"))
    try:
        thread, errors = _in_a_thread(lambda: ring.reopen(3600))
        for use in (ring.receive, ring.reopen, ring.fileno, lambda: ring.send([FRAME]), lambda: ring.wait(timeout=1)):
            with pytest.raises(RingError, match="the ring is being reopened"):
                use()
        ring.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert [str(error) for error in errors] == ["the ring is closed"]
    finally:
        path.with_name("hidden").rename(path)


def ring_is_not_reopened_while_another_thread_waits(ring: Ring, _: Path) -> None:
    thread, errors = _in_a_thread(ring.wait)
    with pytest.raises(RingError, match="in use"):
        ring.reopen(1)
    ring.send([FRAME])
    ring.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == ["the ring is closed"]


def memory_behind_a_view_is_not_shown_after_reopening(ring: Ring, path: Path) -> None:
    view = ring.reserve(1)[0]
    behind = view.obj
    with pytest.raises(BufferError, match="views of frames are still held"):
        ring.reopen(1)
    assert bytes(memoryview(behind)[:4]) == bytes(4)  # nothing has changed
    view.release()
    path.rename(path.with_name("hidden"))
    with pytest.raises(RingError, match="no fabric serves rings"):
        ring.reopen(0.0)
    path.with_name("hidden").rename(path)
    with pytest.raises(BufferError, match="the ring has been opened anew"):
        memoryview(behind)
    ring.reopen(PATIENCE)
    with pytest.raises(BufferError, match="the ring has been opened anew"):
        memoryview(behind)
    assert len(ring.reserve(1)) == 1


def collector_closes_the_ring_while_views_are_made(ring: Ring, _: Path) -> None:
    class Closer:
        def __init__(self, victim: Ring) -> None:
            self.itself = self
            self.victim = victim

        def __del__(self) -> None:
            self.victim.close()
            _overwrite_freed_memory()

    threshold = gc.get_threshold()
    for count in range(1, 40):
        victim = Ring.open(f"{ring.name}-{count}")
        gc.collect()
        gc.disable()
        Closer(victim)
        gc.set_threshold(gc.get_count()[0] + count, 1000, 1000)
        gc.enable()
        views = victim.reserve(64)
        gc.set_threshold(*threshold)
        for view in views:
            view[:4] = b"here"
        gc.collect()
        assert victim.closed
        with pytest.raises(RingError, match="the ring is closed"):
            victim.commit([60])


CASES: dict[str, Callable[[Ring, Path], None]] = {
    case.__name__: case
    for case in (
        generator_closes_the_ring_it_is_sent_to,
        lengths_close_the_ring_they_are_committed_to,
        wait_ends_when_another_thread_closes_the_ring,
        wait_that_would_reconnect_ends_as_well,
        reopen_ends_when_another_thread_closes_the_ring,
        ring_is_not_reopened_while_another_thread_waits,
        memory_behind_a_view_is_not_shown_after_reopening,
        collector_closes_the_ring_while_views_are_made,
    )
}


def main() -> None:
    """Do one of them."""
    case, name, path = sys.argv[1:]
    with Ring.open(name) as ring:
        CASES[case](ring, Path(path))


if __name__ == "__main__":
    main()
