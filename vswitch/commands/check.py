"""`lab check`."""

from __future__ import annotations

import sys
import time

import click

from .listing import format_option, show
from .running_lab import lab_option

_RETRY = 0.2


@click.command("check")
@lab_option
@format_option
@click.argument("names", nargs=-1)
def command(lab: str | None, form: str, names: tuple[str, ...]) -> None:
    """Run the lab file's checks (or only NAMES): each must succeed within its time. Exits 1 if one does not."""
    import msgspec

    from ..coordinator.client import Client
    from ..errors import LabError
    from ..model.lab import Lab
    from ..rundir import find

    run_dir, run = find(lab)
    checks = msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab).checks
    unknown = [name for name in names if name not in checks]
    if unknown:
        raise LabError(f"no check {', '.join(unknown)} in lab {run.name}; checks: {', '.join(checks) or 'none'}")
    rows = []
    with Client(run_dir) as client:
        for name in names or checks:
            wanted = checks[name]
            begun = time.monotonic()
            while True:
                left = wanted.within - (time.monotonic() - begun)
                try:
                    code, output = client.run(wanted.node, ("sh", "-c", wanted.run), timeout=max(left, 0.001))
                except LabError as error:
                    code, output = None, str(error).encode()
                if code == 0 or time.monotonic() + _RETRY - begun >= wanted.within:
                    break
                client.pause(_RETRY)
            last = output.decode(errors="replace").strip().splitlines()[-1:]
            rows.append(
                {
                    "check": name,
                    "result": "pass" if code == 0 else "FAIL",
                    "seconds": time.monotonic() - begun,
                    "node": wanted.node,
                    "run": wanted.run,
                    "info": ""
                    if code == 0
                    else (last[0] if last else f"exit code {code}" if code is not None else "timed out"),
                }
            )
    show(rows, ["check", "result", "seconds", "node", "run", "info"], form, empty="the lab file has no checks")
    sys.exit(any(row["result"] != "pass" for row in rows))
