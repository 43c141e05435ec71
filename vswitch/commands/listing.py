"""How every listing verb shows its rows: a table for people, JSON for programs."""

from __future__ import annotations

import io
import select
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import click

_NEVER_FOLDED = ("state", "age", "dropped")

_F = TypeVar("_F", bound=Callable[..., Any])


def format_option(function: _F) -> _F:
    """Add `-f/--format table|json`, passed on as `form`."""
    return click.option(
        "-f", "--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print it."
    )(function)


def show(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    form: str,
    empty: str = "nothing to show",
    numbers: Collection[str] = (),
) -> None:
    """Print `rows`: as JSON with all their keys, or as a table of `columns` (key names, shown in capitals).

    On a terminal, the values of `numbers` are shortened if they are large, and never broken over two lines.
    """
    if form == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    if not rows:
        click.echo(empty, err=True)
        return
    terminal = sys.stdout.isatty()
    if terminal:
        rows = [{**row, **{key: scaled(row[key]) for key in numbers}} for row in rows]
    click.echo(
        rows_as_text(rows, columns, width=shutil.get_terminal_size().columns if terminal else None, numbers=numbers),
        nl=False,
    )


def rows_as_text(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], *, width: int | None, numbers: Collection[str] = ()
) -> str:
    """A table as text, for a terminal `width` columns wide, or (None) for a file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = width is not None
    table = Table(
        box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, collapse_padding=terminal, header_style="bold"
    )
    for column in columns:
        number = column in numbers
        table.add_column(
            column.upper().replace("_", "\n" if number and terminal else " "),
            overflow="fold",
            no_wrap=number or column in _NEVER_FOLDED,
            justify="right" if number else "left",
        )
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # Not on a terminal: lines are never folded, so that grep and awk see one row a line.
    text = io.StringIO()
    console = Console(
        file=text, width=width or 10_000, force_terminal=terminal, markup=False, highlight=False, emoji=False
    )
    console.print(table, soft_wrap=not terminal)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def scaled(number: float) -> str:
    """A number in six characters at most: "999999" is the longest left as it is, then "1.0M", "12.3G"."""
    if number < 1e6:
        return str(round(number))
    for suffix in "MGTPE":
        number /= 1e6 if suffix == "M" else 1e3
        if number < 999.95:
            break
    return f"{number:.1f}{suffix}"


def reader_gone() -> bool:
    """Whether whoever read our standard output has closed it; verbs that go on printing ask now and then."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value) or "-"


def age(seconds: float) -> str:
    """A duration in the two units that matter: "41s", "5m 3s", "2h 7m", "3d 4h"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
