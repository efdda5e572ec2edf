"""How far a run is, from its records as they come (pure): what the live table and `status` show."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.history import as_float, as_int
from node.config import StopConfig
from node.units import SECOND

_SAID = {
    "gathering": "starting nodes",
    "preparing": "nodes get ready to train",
    "connecting": "nodes connect",
    "running": "training",
    "recovering": "the coordinator is back: nodes tell it how far they are",
}

DEPLOY = "deploy"
"""Whose records tell what was done to nodes."""
STANDBY = "standby"
_AFTER = {
    "join": "starting",
    "leave": "leaving",
    "crash": "killed",
    "pause": "paused",
    "resume": "training",
    "restart": "restarted",
    "return": "starting",
}
"""The state of a node after that was done to it."""
_ENDED = ("failed", "lost", "expelled")
"""What the coordinator calls a member that is gone, with a reason."""
_COMING = frozenset({"starting", "restarted", "joining", "joined", "syncing"})
"""States of nodes that do not take part yet: the run's round and accuracy leave them out."""


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
    late: bool = False
    """It came, or came back, while the run went on."""
    gone: bool = False
    """It is not there (any more); that all nodes leave at the end is not meant."""

    @property
    def counts(self) -> bool:
        """It takes part in what the run has reached."""
        return not self.gone and not (self.late and self.state in _COMING)


class Progress:
    """Folds records into rows and a phase.

    Args:
        nodes: their names, in the order of the table.
        stop: the stop conditions, for the progress bar.
        standby: nodes that are not there at the start.
    """

    def __init__(
        self, *, nodes: tuple[str, ...], stop: StopConfig, standby: Collection[str] = ()
    ) -> None:
        self.rows = {name: Row(node=name) for name in nodes}
        for name in standby:
            row = self.rows[name]
            row.state, row.late, row.gone = STANDBY, True, True
        self.phase = "starting"
        self.barrier = ""
        """The newest barrier: its round, state and attempt, and what it waits for."""
        self.waiting = ""
        """That there are too few nodes for a round; empty: there are enough."""
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
    def gone(self) -> set[str]:
        """The nodes that are not there (any more), and are not waited for."""
        return {row.node for row in self.rows.values() if row.gone}

    @property
    def _there(self) -> list[Row]:
        return [row for row in self.rows.values() if row.counts]

    @property
    def accuracy(self) -> float | None:
        """Mean over all nodes that are there, once each has been evaluated."""
        known = [row.accuracy for row in self._there if row.accuracy is not None]
        return sum(known) / len(known) if known and len(known) == len(self._there) else None

    @property
    def round(self) -> int:
        """What every node that is there has reached."""
        return min((row.round for row in self._there), default=0)

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
            if row.state not in _ENDED:  # how it goes is no news then
                row.state = str(event.get("state", row.state))
        elif kind == "evaluation":
            row.accuracy = as_float(event.get("accuracy"))
        elif kind == "round":
            if row.state not in _ENDED:
                row.state = "training"
            row.loss = as_float(event.get("loss"))
            row.round = as_int(event.get("round"), row.round - 1) + 1
        elif kind == "error":
            return self._failed(row, str(event.get("message", "")))
        elif kind == "bytes":
            row.model_bytes = as_int(event.get("model_sent"), row.model_bytes)
        elif kind == "link":
            return self._links_changed(row, event)
        return []

    def _failed(self, row: Row, error: str) -> list[str]:
        """What a node failed of; it tells of it itself, and the coordinator does."""
        error, known = _one_line(error), row.error
        row.error = error
        return [f"{row.node}: {error}"] if error and error != known else []

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
        verb = str(event.get("verb"))
        row.state = _AFTER.get(verb, row.state)
        row.gone = verb in ("leave", "crash") or (row.gone and verb in ("pause", "resume"))
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
                self.barrier = self.waiting = ""
                return []
            case "stop":
                return [f"stopping: {event.get('reason')}"]
            case "warning" | "error":
                text = _one_line(str(event.get("message", "")))
                if any(
                    row.error and text == f"{row.node}: {row.error}" for row in self.rows.values()
                ):
                    return []  # told already, by the node itself
                return [f"{event.get('kind')}: {text}"]
            case "member":
                return self._of_member(event)
            case "rounds":
                return self._of_rounds(event)
            case "waiting":
                return self._of_waiting(event)
            case "edge" | "sync":
                return _told(event)
            case _:
                return []

    def _of_member(self, event: Mapping[str, Any]) -> list[str]:
        """What the coordinator says of a member."""
        row = self.rows.get(str(event.get("member")))
        state = str(event.get("state"))
        if row is None:
            return []
        if state in ("joined", "returned", "idle"):
            row.emulator = str(event.get("emulator", row.emulator))
        if row.state in _ENDED and state in (*_ENDED, "left", "killed"):
            return []  # what took it away says more than how it went
        if state in _ENDED:
            row.state, row.gone = state, True
            error = str(event.get("error") or "")
            if error and state != "expelled":
                return self._failed(row, error)
            row.error = error
            return [f"{row.node}: {state}: {error}" if error else f"{row.node}: {state}"]
        early = state in ("left", "killed") and self.phase == "running"
        if state in ("done", "idle", "away") or early:
            row.state, row.gone = state, early or row.gone
        elif state in ("joined", "returned") and self.started:
            row.state, row.late, row.gone, row.error = "joining", True, False, ""
            return [f"{row.node}: {state}"]
        elif state == "syncing":
            row.state, row.late, row.gone = state, True, False
        elif state in ("synced", "present", "back"):
            row.state, row.gone = "training", False
        return []

    def _of_rounds(self, event: Mapping[str, Any]) -> list[str]:
        """A barrier goes on; only what is out of the ordinary is worth a line."""
        state, attempt = str(event.get("state")), as_int(event.get("attempt"), 0)
        why = str(event.get("why") or "")
        if state != "lobby":
            self.waiting = ""
        self.barrier = f"round {event.get('round')}: {state}"
        if state == "connect":
            self.barrier += f", attempt {attempt}"
        if state == "connect" and attempt > 1:
            return [f"{self.barrier}: {why}"]
        if state == "share" and why.startswith("given up"):
            return [f"{self.barrier}: {why}"]
        return []

    def _of_waiting(self, event: Mapping[str, Any]) -> list[str]:
        """Too few nodes for a round, or some that are late for it."""
        if "needed" not in event:
            names = ", ".join(map(str, event.get("for") or ()))
            return [f"round {event.get('round')}: waiting for {names}"]
        present, needed = as_int(event.get("present"), 0), as_int(event.get("needed"), 0)
        before = self.waiting
        self.waiting = f"waiting for {needed - present} more of {needed} participants"
        return [] if self.waiting == before else [self.waiting]


def _told(event: Mapping[str, Any]) -> list[str]:
    """A connection that was given up or is back, or a model on its way."""
    state = event.get("state")
    if event.get("kind") == "edge":
        pair = " - ".join(map(str, event.get("peers") or ()))
        return [f"{pair}: {'not connected' if state == 'dropped' else 'connected again'}"]
    member, provider = event.get("member"), event.get("provider")
    match state:
        case "assigned":
            return [f"{member}: gets the model from {provider}"]
        case "failed":
            return [f"{member}: did not get the model from {provider}: {event.get('reason')}"]
        case "done":
            return [f"{member}: has the model" + (f" of {provider}" if provider else "")]
        case _:
            return []


def _one_line(message: str) -> str:
    """What failed and what to do, which are lines of their own."""
    return ". ".join(line.strip().rstrip(".") for line in message.splitlines())
