"""A run on the screen: a table and a bar that keep up with it, or plain lines where there is no
terminal. Everything goes to the standard error, so that results can be piped.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from deploy.progress import Progress, Row
from node.units import format_size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

_PLAIN_EVERY_S: Final = 5.0
_ROWS_MAX: Final = 64
"""Of a table of nodes that is redrawn; of more nodes, only how many are in which state."""
_STYLES: Final = {
    "failed": "red",
    "lost": "red",
    "expelled": "red",
    "away": "yellow",
    "syncing": "yellow",
    "joining": "yellow",
    "standby": "dim",
    "left": "magenta",
    "killed": "magenta",
    "paused": "yellow",
    "done": "green",
    "training": "cyan",
}


class Clock(Protocol):
    """The time of the run that is shown."""

    def now(self) -> float:
        """Unix time, as in the run's records."""

    def said(self, progress: Progress) -> str:
        """How long it has run, for people."""


class WallClock:
    """Of a run that takes as long as it takes."""

    def now(self) -> float:
        return time.time()

    def said(self, progress: Progress) -> str:
        if progress.started_at is None:
            return ""
        return f"{max(0.0, self.now() - progress.started_at):.0f} s"


class Screen(Protocol):
    """Where a run is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, line: str) -> None:
        """One line for the user, which stays."""

    def show(self, progress: Progress) -> None:
        """The run's state has (perhaps) changed."""


class PlainScreen:
    """A line for each thing that happens, and a short one every few seconds of training."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or WallClock()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if not progress.started or now < self._next:
            return
        self._next = now + _PLAIN_EVERY_S
        sent = sum(row.model_bytes for row in progress.rows.values())
        share = progress.fraction(now=self._clock.now())
        self.say(
            f"{share:4.0%}  {self._clock.said(progress)}  round {progress.round}"
            f"  accuracy {percent(progress.accuracy)}  model bytes sent {size(sent)}"
        )


class LiveScreen:
    """A table of nodes and a progress bar, redrawn in place; lines scroll by above them."""

    def __init__(self, *, title: str, clock: Clock | None = None) -> None:
        self._title = title
        self._clock = clock or WallClock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), refresh_per_second=5, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)

    def show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(_picture(self._title, progress, self._clock))


def screen(*, title: str, clock: Clock | None = None) -> Screen:
    """The screen that fits where the standard error goes.

    Args:
        clock: of the run; None: it takes as long as it takes.
    """
    if sys.stderr.isatty():
        return LiveScreen(title=title, clock=clock)
    return PlainScreen(clock=clock)


def _picture(title: str, progress: Progress, clock: Clock) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    share = progress.fraction(now=clock.now())
    few = len(progress.rows) <= _ROWS_MAX
    table = node_table(progress) if few else _state_table(progress)
    table.title = f"{title}: {progress.phase}"
    footer = Table.grid(padding=(0, 2))
    mean = "" if progress.accuracy is None else f"mean accuracy {percent(progress.accuracy)}"
    footer.add_row(
        ProgressBar(total=1.0, completed=share, width=40),
        f"{share:.0%}",
        clock.said(progress),
        mean,
    )
    return Group(table, *filter(None, (progress.barrier, progress.waiting)), footer)


def node_table(progress: Progress) -> Table:
    """The nodes of a run, one a line."""
    from rich.table import Table

    table = Table(title_justify="left")
    table.add_column("node")
    table.add_column("state")
    table.add_column("links")
    for heading in ("round", "accuracy", "loss", "model bytes sent"):
        table.add_column(heading, justify="right")
    for row in progress.rows.values():
        table.add_row(*cells(row), style=_STYLES.get(row.state))
    return table


def _state_table(progress: Progress) -> Table:
    """How many nodes are in which state, and how far."""
    from rich.table import Table

    table = Table(title_justify="left")
    for heading in ("nodes", "state", "rounds"):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    states = Counter(row.state for row in progress.rows.values())
    for state, count in states.most_common():
        rounds = [row.round for row in progress.rows.values() if row.state == state]
        span = str(min(rounds)) if min(rounds) == max(rounds) else f"{min(rounds)} to {max(rounds)}"
        table.add_row(str(count), state, span, style=_STYLES.get(state))
    return table


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text."""
    told = row.error or row.what
    state = f"{row.state}: {told}" if told else row.state
    loss = "-" if row.loss is None else f"{row.loss:.3f}"
    accuracy = percent(row.accuracy)
    return row.node, state, row.emulator, str(row.round), accuracy, loss, size(row.model_bytes)


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{share:.1%}"


def size(count: int | None) -> str:
    """A number of bytes for people: rounded, where `format_size` is exact."""
    if count is None:
        return "-"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return format_size(count).replace("B", " B")
