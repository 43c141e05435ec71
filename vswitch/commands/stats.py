"""`lab stats`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .listing import format_option, reader_gone, rows_as_text, scaled, show
from .running_lab import lab_option

if TYPE_CHECKING:
    from ..coordinator.client import Client

Row = dict[str, Any]

_TOTALS = ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes")
_RATES = ("rx_frames/s", "rx_bit/s", "tx_frames/s", "tx_bit/s")
_SHORTEST, _LONGEST = 0.1, 3600.0  # s


@click.command("stats")
@click.argument("names", nargs=-1, metavar="[NETWORK|PORT]...")
@click.option(
    "-w",
    "--watch",
    is_flag=False,
    flag_value="1",
    metavar="[SECONDS]",
    help="Go on every SECONDS (1) with rates, until Ctrl-C.",
)
@lab_option
@format_option
def command(names: tuple[str, ...], watch: str | None, lab: str | None, form: str) -> None:
    """Show the counters of every port, or of some: frames and bytes each way, and every reason frames were dropped for.

    \b
    lab stats                       totals since each port was made
    lab stats lan0                  one network's ports
    lab stats lan0/vm1:eth0 uplink  these ports
    lab stats -w                    frames/s and bit/s, every second
    lab stats -w 0.5 -f json        one JSON object per line every half second

    "rx" is from the port's peer into the switch. A note says who that is, or why a port is not up, where known. JSON
    has all counters: unicast, multicast and broadcast apart.
    """
    from ..coordinator.client import Client
    from ..errors import NoSuchLabError
    from ..rundir import find

    interval = None
    if watch is not None:
        interval = _seconds(watch)
        if interval is None:  # `-w lan0`: the word after -w was not meant for it
            names, interval = (watch, *names), 1.0
    run_dir, run = find(lab)
    with Client(run_dir) as client:
        if interval is None:
            rows = _ask(client)
            _check_names(client, rows, names)
            _show_totals(_wanted(rows, names), form)
            return
        try:
            _watch(client, names, interval, form)
        except NoSuchLabError:
            click.echo(f"lab {run.name} is gone", err=True)
        except KeyboardInterrupt:
            pass


def _seconds(text: str) -> float | None:
    """An interval; None when `text` is no number. Raises click.UsageError."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    if not _SHORTEST <= seconds <= _LONGEST:
        raise click.UsageError(f"-w takes {_SHORTEST:g} to {_LONGEST:g} seconds, not {text}")
    return seconds


def _ask(client: Client) -> list[Row]:
    from ..coordinator import protocol

    return client.table(protocol.Stats())


def _wanted(rows: list[Row], names: Sequence[str]) -> list[Row]:
    """The rows `names` stand for: networks, ports, NETWORK/PORT; all without names."""
    return [row for row in rows if not names or not _names_of(row).isdisjoint(names)]


def _check_names(client: Client, rows: list[Row], names: Sequence[str]) -> None:
    """Raise LabError if one of `names` stands for nothing."""
    from ..coordinator import protocol
    from ..errors import LabError
    from ..model.problems import quote, suggestion

    answering = {name for row in rows for name in _names_of(row)}
    unknown = [name for name in names if name not in answering]
    if unknown:
        networks = {row["network"] for row in client.table(protocol.Networks())}  # one may have no ports yet
        for name in unknown:
            if name not in networks:
                known = networks | {row["port"] for row in rows}
                raise LabError(f"unknown network or port {quote(name)}{suggestion(name, known)}")


def _names_of(row: Row) -> set[str]:
    """What a row answers to. A client of a listening port "up" is "up#1", and part of "up"."""
    network, port = row["network"], row["port"]
    listening = port.partition("#")[0]
    return {network, port, listening, f"{network}/{port}", f"{network}/{listening}"}


def _drops(row: Row, *, terminal: bool) -> str:
    """Every reason with its count; below each other on a terminal, where they would not fit beside each other."""
    return ("\n" if terminal else " ").join(f"{name}={count}" for name, count in row["drops"].items() if count)


def _show_totals(rows: list[Row], form: str) -> None:
    if form == "table":
        rows = [in_words(row, terminal=sys.stdout.isatty()) for row in rows]
    names = columns(rows, _TOTALS) if form == "table" else ()
    show(rows, names, form, empty="no ports", numbers=_TOTALS)


def columns(rows: Iterable[Row], numbers: Sequence[str]) -> list[str]:
    """The table's columns: notes only where there are any."""
    notes = ["note"] if any(row["note"] for row in rows) else []
    return ["network", "port", "type", "state", *numbers, "dropped", *notes]


def in_words(row: Row, *, terminal: bool) -> Row:
    """The row with what a table says in words: drops, and as a note who the peer is, or why there is none."""
    note = row["peer"] if row["state"] == "up" else row["reason"]
    return {**row, "dropped": _drops(row, terminal=terminal), "note": note}


# --- watching ---------------------------------------------------------------------------------------------------------


def rates(before: Iterable[Row], now: Iterable[Row], seconds: float) -> list[Row]:
    """The rows of `now` with what happened since `before`, per second.

    A port that was not there before has no past; one whose counters began anew counts from there.
    """
    known = {(row["network"], row["port"]): row for row in before}
    result = []
    for row in now:
        old = known.get((row["network"], row["port"]), row)
        grown = {key: row[key] - old[key] if row[key] >= old[key] else row[key] for key in _TOTALS}
        per_second = {key: value / seconds for key, value in grown.items()}
        result.append(
            {
                **row,
                "rx_frames/s": per_second["rx_frames"],
                "rx_bit/s": per_second["rx_bytes"] * 8,
                "tx_frames/s": per_second["tx_frames"],
                "tx_bit/s": per_second["tx_bytes"] * 8,
            }
        )
    return result


def _watch(client: Client, names: Sequence[str], interval: float, form: str) -> None:
    """Print rates until nobody reads them any more."""
    before, then = _ask(client), time.monotonic()
    _check_names(client, before, names)
    screen = _Screen() if form == "table" and sys.stdout.isatty() else None
    with screen or _Lines(form) as printer:
        while not reader_gone():
            client.pause(max(0.0, then + interval - time.monotonic()))
            rows, now = _ask(client), time.monotonic()
            printer.show(rates(before, _wanted(rows, names), now - then))
            before, then = rows, now


def _table(rows: list[Row], *, width: int | None) -> str:
    """A table of rates; `width` is the terminal's, None elsewhere."""
    cells = [in_words(row, terminal=width is not None) | {key: scaled(row[key]) for key in _RATES} for row in rows]
    return rows_as_text(cells, columns(cells, _RATES), width=width, numbers=_RATES)


class _Lines:
    """A table, or a JSON object, per interval."""

    def __init__(self, form: str) -> None:
        self._form = form

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def show(self, rows: list[Row]) -> None:
        """Print one interval."""
        import msgspec

        if self._form == "json":
            click.echo(msgspec.json.encode({"time": time.time(), "ports": rows}))
        else:
            click.echo(time.strftime("%H:%M:%S"))
            click.echo(_table(rows, width=None))


class _Screen:
    """One table on a terminal, drawn anew."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(markup=False, highlight=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="ellipsis")

    def __enter__(self) -> _Screen:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, rows: list[Row]) -> None:
        """Draw one interval."""
        from rich.text import Text

        text = _table(rows, width=self._console.width)
        self._live.update(Text(text + "Ctrl-C ends", no_wrap=True), refresh=True)
