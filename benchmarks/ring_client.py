"""Sends or receives frames with vswitch.ring as fast as it can, for benchmarks/rings.py.

    ring_client.py send PORT LEN
    ring_client.py receive|borrow PORT WARM_UP_MS MEASURE_MS

A sender sends the same 256 frames again and again, for ever. A receiver looks at the length of each frame; it prints
"ready", then frames received per second, and ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from vswitch.ring import Ring

BATCH = 256
SENDER, RECEIVER = bytes([2, 1, 0, 0, 0, 0]), bytes([2, 2, 0, 0, 0, 0])
ETHERTYPE = b"\x88\xb5"


def send(ring: Ring, size: int) -> None:
    """Send for ever."""
    frames = [(RECEIVER + SENDER + ETHERTYPE).ljust(size, b"\x5a")] * BATCH
    while True:
        ring.send_all(frames)


def receive(ring: Ring, take: Callable[[int], Sequence[bytes | memoryview]], warm_up: float, measure: float) -> float:
    """Return frames received per second; times in seconds."""

    def taken() -> int:
        while not (frames := take(BATCH)):
            ring.wait()
        if any(len(frame) != len(frames[0]) for frame in frames):
            sys.exit("a frame of another length arrived")
        return len(frames)

    ring.send_all([(RECEIVER + RECEIVER + ETHERTYPE).ljust(60, b"\0")])
    print("ready", flush=True)
    taken()
    begun = time.perf_counter()
    while time.perf_counter() - begun < warm_up:
        taken()
    frames, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < measure:
        frames += taken()
    return frames / (now - begun)


def main() -> None:
    """Do what the arguments say."""
    mode, port, *numbers = sys.argv[1:]
    with Ring.open(port) as ring:
        if mode == "send":
            send(ring, int(numbers[0]))
        warm_up, measure = (int(number) / 1000 for number in numbers)
        print(receive(ring, ring.borrow if mode == "borrow" else ring.receive, warm_up, measure))


if __name__ == "__main__":
    main()
