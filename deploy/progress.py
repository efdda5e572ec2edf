"""How far a run is, from its records as they come (pure): what the live table and `status` show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.history import as_float, as_int
from node.config import StopConfig
from node.units import SECOND

_SAID = {
    "gathering": "starting nodes",
    "preparing": "nodes get ready to train",
    "running": "training",
}


@dataclass(slots=True)
class Row:
    """One node as the live table shows it."""

    node: str
    state: str = "starting"
    round: int = 0
    accuracy: float | None = None
    loss: float | None = None
    model_bytes: int = 0
    emulator: str = ""
    error: str = ""


class Progress:
    """Folds records into rows and a phase.

    Args:
        nodes: their names, in the order of the table.
        stop: the stop conditions, for the progress bar.
    """

    def __init__(self, *, nodes: tuple[str, ...], stop: StopConfig) -> None:
        self.rows = {name: Row(node=name) for name in nodes}
        self.phase = "starting"
        self.started_at: float | None = None
        """Unix time at which the run clock stood at zero."""
        self._stop = stop

    @property
    def started(self) -> bool:
        return self.started_at is not None

    @property
    def accuracy(self) -> float | None:
        """Mean over all nodes, once each has been evaluated."""
        known = [row.accuracy for row in self.rows.values() if row.accuracy is not None]
        return sum(known) / len(known) if known and len(known) == len(self.rows) else None

    @property
    def round(self) -> int:
        """What every node has reached."""
        return min((row.round for row in self.rows.values()), default=0)

    def fraction(self, *, now: float) -> float:
        """How near the run is to its first stop condition, 0 to 1; `now` is Unix time."""
        if self.started_at is None:
            return 0.0
        shares = [(now - self.started_at) * SECOND / self._stop.time_ns]
        if self._stop.rounds:
            shares.append(self.round / self._stop.rounds)
        if self._stop.accuracy and self.accuracy is not None:
            shares.append(self.accuracy / self._stop.accuracy)
        return min(1.0, max(0.0, *shares))

    def feed(self, member: str, event: Mapping[str, Any]) -> list[str]:
        """Take in a record of a member; returns lines worth telling a user."""
        row = self.rows.get(member)
        return self._of_coordinator(event) if row is None else self._of_node(row, event)

    def _of_node(self, row: Row, event: Mapping[str, Any]) -> list[str]:
        kind = event.get("kind")
        if kind == "state":
            row.state = str(event.get("state", row.state))
        elif kind == "evaluation":
            row.accuracy = as_float(event.get("accuracy"))
        elif kind == "round":
            row.state = "training"
            row.loss = as_float(event.get("loss"))
            row.round = as_int(event.get("round"), row.round - 1) + 1
        elif kind == "error":
            row.error = " ".join(str(event.get("message", "")).split())
            return [f"{row.node}: {row.error}"]
        elif kind == "bytes":
            row.model_bytes = as_int(event.get("model_sent"), row.model_bytes)
        return []

    def _of_coordinator(self, event: Mapping[str, Any]) -> list[str]:
        match event.get("kind"):
            case "phase":
                self.phase = str(event.get("phase", self.phase))
                return [_SAID[self.phase]] if self.phase in _SAID else []
            case "measuring":
                again = f", try {event.get('try')}" if event.get("try") != 1 else ""
                return [f"measuring {event.get('pairs')} links{again}"]
            case "start":
                self.started_at = as_float(event.get("at_wall"))
                return []
            case "finish":
                self.phase = "ended"
                return []
            case "stop":
                return [f"stopping: {event.get('reason')}"]
            case "warning" | "error":
                return [f"{event.get('kind')}: {event.get('message')}"]
            case "member":
                return self._of_member(event)
            case _:
                return []

    def _of_member(self, event: Mapping[str, Any]) -> list[str]:
        """What the coordinator says of a member."""
        row = self.rows.get(str(event.get("member")))
        state = str(event.get("state"))
        if row is None:
            return []
        if state == "joined":
            row.emulator = str(event.get("emulator", ""))
        if state in ("failed", "lost"):
            row.state = state
            row.error = str(event.get("error") or "")
            return [f"{row.node}: {row.error or state}"]
        if state == "done":
            row.state = "done"
        return []
