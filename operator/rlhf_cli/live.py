"""The job while it runs: called with the RLHFJob after every change, draws it for a person or a log file.

On a terminal one row a stage is redrawn in place. Elsewhere (a pipe, CI, `--output json`) plain lines are appended: one for every
change of phase, and one now and then for a step, so that a log of ten thousand steps stays readable.
"""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, Protocol, Self, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf_cli.stage_rows import StageRow, duration, rows_of

STEP_LINE_SECONDS = 10.0
"""Shortest time between two plain lines about the steps of one stage."""

COLOURS = {"Succeeded": "green", "Failed": "red", "Running": "cyan", "Verifying": "cyan", "Starting": "yellow", "Restarting": "yellow"}


class Display(Protocol):
    """What `rlhf run` and `resume` show while the session works."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def update(self, job: Mapping[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


def display(console: Console, clock: Callable[[], float]) -> Display:
    """The display that fits the console. `clock` counts seconds and never goes back."""
    return LiveTable(console) if console.is_terminal else PlainLines(console, clock)


class LastingStream:
    """A stream that outlives its reader: once it cannot be written, what is shown is dropped.

    An exception in `write` would unwind through the session, which then kills the pods without a checkpoint. It stands below rich because
    the live table is also drawn by a thread, and because rich leaves the process when a pipe breaks.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO = stream or io.StringIO()  # None: the process was started with this stream closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # rich asks for isatty, encoding, fileno

    def write(self, text: str) -> int:
        with self._lasting():
            try:
                self._stream.write(text)
            except UnicodeError:  # a file name that is not UTF-8, in a message
                self._stream.write(text.encode(self._stream.encoding, "replace").decode(self._stream.encoding))
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        """Write into nothing from now on. The descriptor too: Python flushes what is left as it exits, and would exit with 120."""
        with suppress(OSError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), self._stream.fileno())


def console_on(stream: LastingStream) -> Console:
    """A console that writes there."""
    return Console(file=cast(IO[str], stream))


class LiveTable:
    """One row a stage, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, auto_refresh=True)
        self._console = console

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def update(self, job: Mapping[str, Any]) -> None:
        self._live.update(render(job))

    def note(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False)


def render(job: Mapping[str, Any]) -> RenderableType:
    """The table of all stages, and below it why the job waits, if it does."""
    table = Table(box=None, pad_edge=False, expand=False)
    for heading in ("STAGE", "PHASE", "", "STEP", "ETA", "", "TOKENS/S"):
        table.add_column(heading, justify="right" if heading in ("STEP", "ETA", "TOKENS/S") else "left", no_wrap=True)
    for row in rows_of(job):
        table.add_row(*_cells(row))
    waits = why_it_waits(job)
    return Group(table, Text(waits, style="yellow")) if waits else table


def _cells(row: StageRow) -> tuple[RenderableType, ...]:
    phase = f"{row.phase} (r{row.attempt})" if row.attempt > 1 else row.phase
    has_begun = row.percent is not None or row.phase in ("Starting", "Running", "Restarting")
    bar: RenderableType = (
        ProgressBar(total=100, completed=row.percent or 0, width=20, complete_style="cyan", finished_style="green") if has_begun else ""
    )
    speed = f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else ""
    return (row.name, Text(phase, style=COLOURS.get(row.phase, "dim")), bar, row.steps, duration(row.eta_seconds), row.headline, speed)


def why_it_waits(job: Mapping[str, Any]) -> str:
    """The message of the condition that holds the job up: refused, or stalled. Empty when it moves."""
    for condition in job.get("status", {}).get("conditions") or []:
        holds = (condition["type"], condition["status"]) in (("Accepted", "False"), ("Stalled", "True"))
        if holds:
            return f"{condition['reason']}: {condition.get('message', '')}".rstrip(": ")
    return ""


class PlainLines:
    """Appended lines, for everything that is not a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._phases: dict[str, tuple[str, int]] = {}
        self._step_lines: dict[str, tuple[float, int | None]] = {}
        self._waits = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is held back: every line was printed when it happened."""

    def update(self, job: Mapping[str, Any]) -> None:
        for row in rows_of(job):
            if self._is_news(row):
                self.note(line(row))
        waits = why_it_waits(job)
        if waits and waits != self._waits:
            self.note(waits)
        self._waits = waits

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _is_news(self, row: StageRow) -> bool:
        now = self._clock()
        if self._phases.get(row.name, ("Pending", 0)) != (row.phase, row.attempt):
            self._phases[row.name] = (row.phase, row.attempt)
            self._step_lines[row.name] = (now, row.step)
            return True
        last_time, last_step = self._step_lines.get(row.name, (now, row.step))
        if row.phase != "Running" or row.step in (None, last_step) or now - last_time < STEP_LINE_SECONDS:
            return False
        self._step_lines[row.name] = (now, row.step)
        return True


def line(row: StageRow) -> str:
    """`ppo  Running  step 40/120  33%  eta 1m10s  reward 1.20  KL 0.31  2,100 tokens/s`; a failure adds reason and message."""
    parts = [f"{row.name:<15} {row.phase:<10}"]
    parts += [f"r{row.attempt}"] if row.attempt > 1 else []
    parts += [f"step {row.steps}"] if row.steps else []
    parts += [f"{row.percent:.0f}%"] if row.percent is not None and not row.is_finished else []
    parts += [f"eta {duration(row.eta_seconds)}"] if row.eta_seconds is not None else []
    parts += [row.headline] if row.headline else []
    parts += [f"{row.tokens_per_second:,.0f} tokens/s"] if row.tokens_per_second else []
    parts += [f"{row.reason}: {row.message}".rstrip(": ")] if row.reason and row.phase in ("Failed", "Restarting", "Suspended") else []
    return "  ".join(parts).rstrip()
