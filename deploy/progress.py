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

DEPLOY = "deploy"
"""Whose records tell what was done to nodes."""
_AFTER = {
    "leave": "leaving",
    "crash": "killed",
    "pause": "paused",
    "resume": "training",
    "restart": "restarted",
}
"""The state of a node after that was done to it."""


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
    what: str = ""
    """What was done to it on purpose last."""


class Progress:
    """Folds records into rows and a phase.

    Args:
        nodes: their names, in the order of the table.
        stop: the stop conditions, for the progress bar.
    """

    def __init__(self, *, nodes: tuple[str, ...], stop: StopConfig) -> None:
        self.rows = {name: Row(node=name) for name in nodes}
        self.phase = "starting"
        self.link_changes = 0
        """Times at which links have changed so far."""
        self.last_change: tuple[float, str] | None = None
        """Of those the last: when, on the run clock, and what."""
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
        if member == DEPLOY:
            return self._of_deploy(event)
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
        elif kind == "link":
            return self._links_changed(row, event)
        return []

    def _links_changed(self, row: Row, event: Mapping[str, Any]) -> list[str]:
        """A node has changed its links; the first to say so tells of it."""
        at = as_float(event.get("at"))
        what = "; ".join(map(str, event.get("what") or ()))
        lines = [f"{row.node}: links not as asked: {event['error']}"] if event.get("error") else []
        if at is not None and (self.last_change is None or at > self.last_change[0]):
            self.link_changes += 1
            self.last_change = (at, what)
            lines.insert(0, f"{at:.6g} s: {what}")
        return lines

    def _of_deploy(self, event: Mapping[str, Any]) -> list[str]:
        """Something was done to a node."""
        row = self.rows.get(str(event.get("member")))
        if row is None:
            return []
        what = "; ".join(map(str, event.get("what") or ()))
        if event.get("error"):
            return [f"{row.node}: not {what}: {event['error']}"]
        row.state = _AFTER.get(str(event.get("verb")), row.state)
        row.what = what
        return [f"{row.node}: {what}"]

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
        if state in ("done", "idle"):
            row.state = state
        return []
