"""`lab events`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .listing import format_option, reader_gone
from .running_lab import lab_option

if TYPE_CHECKING:
    from ..coordinator.protocol import Event


def line(event: Event) -> str:
    """One event as a line for people."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    return f"{clock} {event.what} {event.name}: {event.state}" + (f" ({event.cause})" if event.cause else "")


@click.command("events")
@lab_option
@format_option
def command(lab: str | None, form: str) -> None:
    """Follow what happens in a lab until it goes down: one line, or one JSON object, per event."""
    import msgspec

    from ..coordinator.client import Client
    from ..coordinator.protocol import Event
    from ..errors import NoSuchLabError
    from ..rundir import find

    run_dir, run = find(lab)
    with Client(run_dir) as client:
        try:
            for news in client.follow():
                if isinstance(news, Event):
                    click.echo(msgspec.json.encode(news) if form == "json" else line(news))
                elif reader_gone():
                    break
        except NoSuchLabError:
            click.echo(f"lab {run.name} is gone", err=True)
        except KeyboardInterrupt:
            pass
