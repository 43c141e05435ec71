"""Child processes and background tasks that are watched to their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from ..rundir import RUN_ENV

_T = TypeVar("_T")
_tasks: set[asyncio.Task[Any]] = set()


def spawn_task(work: Coroutine[Any, Any, _T], name: str | None = None) -> asyncio.Task[_T]:
    """Run `work` in the background and keep a reference until it ends."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


class Child:
    """A child process watched through its pidfd: no thread, no SIGCHLD handler.

    The process runs in a session of its own and carries the lab's run id in its environment.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, whole_group: bool = False) -> None:
        self._process = process
        self._whole_group = whole_group
        self._pidfd = os.pidfd_open(process.pid)
        self._ended: asyncio.Future[int] | None = None

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str | Path],
        *,
        run_id: str,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        output: IO[bytes] | int = subprocess.DEVNULL,
        errors: IO[bytes] | int = subprocess.STDOUT,
        whole_group: bool = False,
    ) -> Child:
        """Start `argv`, both outputs to `output` unless there is another for `errors`. Raises OSError.

        With `whole_group`, whatever it has started is killed, with it or when it ends.
        """
        return cls(
            subprocess.Popen(
                [os.fspath(word) for word in argv],
                stdin=stdin,
                stdout=output,
                stderr=errors,
                pass_fds=tuple(pass_fds),
                env={**(os.environ if env is None else env), RUN_ENV: run_id},
                cwd=cwd,
                start_new_session=True,
            ),
            whole_group=whole_group,
        )

    @property
    def pid(self) -> int:
        """Process id; names this process only until `wait` has returned."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal, None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """Return the exit code (negative: ended by that signal) once the process has ended. Any number may wait."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            ended = self._ended = loop.create_future()

            def reap() -> None:
                loop.remove_reader(self._pidfd)
                os.close(self._pidfd)
                if self._whole_group:  # before its number can be another's
                    self._kill_group()
                ended.set_result(self._process.wait())

            loop.add_reader(self._pidfd, reap)
        return await asyncio.shield(self._ended)

    async def wait_or_kill(self, grace: float) -> int:
        """Give the process `grace` seconds to end by itself, kill it if it does not, and return its exit code."""
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._process.returncode is None:
            if self._whole_group:
                self._kill_group(number)
            else:
                self._process.send_signal(number)

    def _kill_group(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def describe_exit(returncode: int) -> str:
    """Say in words how a process ended."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
