"""What barriers and model syncs came to (pure): rounds, attempts, connections and peers given up.

A connection that was given up, and a peer that was expelled, speak against a run, unless the run's
own events or orders had cut the path, or stopped the node: then they are what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.history import Event, History, as_float, as_int, of_kind, started_at
from deploy.interventions import absences, deeds, expected_changes
from deploy.plan import BackendKind
from node.core.ids import COORDINATOR
from node.units import SECOND

_SLACK_S: Final = 1.0
"""From a report to the coordinator's decision, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A connection that was given up.

    Args:
        round, attempts: of which barrier, after how many attempts.
        at_s: on the run clock; before 0: at the barrier before the start.
        planned: an event or an order had cut its path, or stopped one of its ends.
        restored: in which round it was there again; None: it was not.
    """

    peers: tuple[str, str]
    round: int
    attempts: int
    at_s: float
    planned: bool
    restored: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expelled:
    """A peer that had to go; `planned` as for `Dropped`."""

    reason: str
    at_s: float
    planned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """One transfer of the model to a node, from `provider`; None: the initial model was it.

    Args:
        state: `done`, `failed`, `none` (nobody had one), or `assigned` if it has no end.
        took_s: until then.
    """

    number: int
    node: str
    provider: str | None
    state: str
    reason: str | None
    at_s: float
    took_s: float | None


def dropped(history: History) -> list[Dropped]:
    """The connections that were given up, in order."""
    found: list[Dropped] = []
    for event, at_s in _timed(history, "edge"):
        ends = event.get("peers")
        if not isinstance(ends, list) or len(ends) != 2:
            continue
        pair, number = (str(ends[0]), str(ends[1])), as_int(event.get("round"), 0)
        if event.get("state") == "dropped":
            cut = _cut(history, pair, at_s)
            attempts = _attempts(history, number)
            found.append(
                Dropped(peers=pair, round=number, attempts=attempts, at_s=at_s, planned=cut)
            )
        elif event.get("state") == "restored":
            found = [_restored(edge, pair, number) for edge in found]
    return found


def _restored(edge: Dropped, pair: tuple[str, str], number: int) -> Dropped:
    if edge.peers != pair or edge.restored is not None:
        return edge
    return Dropped(
        peers=pair,
        round=edge.round,
        attempts=edge.attempts,
        at_s=edge.at_s,
        planned=edge.planned,
        restored=number,
    )


def expelled(history: History) -> dict[str, Expelled]:
    """The peers that had to go, and why."""
    found = {}
    overlay = [tuple(map(str, pair)) for pair in history.plan.coordinator.overlay]
    for event, at_s in _timed(history, "member"):
        if event.get("state") != "expelled":
            continue
        name = str(event.get("member"))
        edges = [(a, b) for a, b in overlay if name in (a, b)]
        planned = any(_cut(history, pair, at_s) for pair in edges)
        reason = str(event.get("error") or "")
        found[name] = Expelled(reason=reason, at_s=at_s, planned=planned)
    return found


def syncs(history: History) -> list[Sync]:
    """The transfers of the model to nodes that came, in order; numbers may begin anew."""
    found: list[Sync] = []
    for event, at_s in _timed(history, "sync"):
        number, node = as_int(event.get("sync"), 0), str(event.get("member"))
        state, reason = str(event.get("state")), event.get("reason")
        provider = event.get("provider")
        begun = next((s for s in reversed(found) if (s.number, s.node) == (number, node)), None)
        open_ = begun is not None and begun.state in ("assigned", "none")
        since = begun.at_s if begun is not None and open_ else at_s
        sync = Sync(
            number=number,
            node=node,
            provider=str(provider) if provider else None,
            state=state,
            reason=None if reason is None else str(reason),
            at_s=since,
            took_s=at_s - since if state in ("done", "failed") else None,
        )
        if begun is not None and open_:
            found[found.index(begun)] = sync
        else:
            found.append(sync)
    return found


def summary(history: History) -> dict[str, Any] | None:
    """Of `summary.json`; None for a run without rounds."""
    rounds = history.plan.coordinator.rounds
    if rounds is None:
        return None
    states = [(str(e.get("state")), e) for e in of_kind(history.coordinator, "rounds")]
    attempts = retries = 0
    before = ""
    for state, _ in states:
        attempts += state == "connect"
        retries += state == before == "connect"
        before = state
    return {
        "mode": rounds.mode.value,
        "rounds": len({as_int(e.get("round"), 0) for state, e in states if state == "share"}),
        "attempts": attempts,
        "retries": retries,
        "dropped_edges": [
            {
                "peers": list(edge.peers),
                "round": edge.round,
                "attempts": edge.attempts,
                "at_s": round(edge.at_s, 6),
                "planned": edge.planned,
                "restored": edge.restored,
            }
            for edge in dropped(history)
        ],
        "expelled": {name: peer.reason for name, peer in expelled(history).items()},
        "syncs": [
            {
                "sync": sync.number,
                "node": sync.node,
                "provider": sync.provider,
                "state": sync.state,
                "reason": sync.reason,
                "at_s": round(sync.at_s, 6),
                "took_s": None if sync.took_s is None else round(sync.took_s, 6),
            }
            for sync in syncs(history)
        ],
        "coordinator_restarts": sum(
            deed.node == COORDINATOR and deed.error is None for deed in deeds(history.actions)
        ),
    }


def remarks(history: History) -> Iterator[str]:
    """What barriers gave up because that was asked for, and who got the model from whom."""
    for edge in dropped(history):
        if edge.planned:
            back = "" if edge.restored is None else f", back in round {edge.restored}"
            pair = " - ".join(edge.peers)
            yield f"{pair}: not connected in round {edge.round}, as was asked for{back}"
    for name, peer in expelled(history).items():
        if peer.planned:
            yield f"{name}: expelled, as its paths were cut: {peer.reason}"
    failed: dict[str, list[str]] = {}
    for sync in syncs(history):
        if sync.state == "failed":
            failed.setdefault(sync.node, []).append(f"{sync.provider} ({sync.reason})")
        elif sync.state == "done":
            after = failed.pop(sync.node, [])
            more = f", after {', '.join(after)}" if after else ""
            source = (
                "began from the initial model"
                if sync.provider is None
                else (f"got the model from {sync.provider} in {sync.took_s or 0.0:.1f} s")
            )
            yield f"{sync.node}: {source} at {sync.at_s + (sync.took_s or 0.0):.1f} s{more}"


# What was asked for ------------------------------------------------------------------------------


def _timed(history: History, kind: str) -> Iterator[tuple[Event, float]]:
    """Records of the coordinator with their time on the run clock, which it does not have."""
    zero = started_at(history.coordinator)
    for event in of_kind(history.coordinator, kind):
        wall = as_float(event.get("wall"))
        yield event, 0.0 if zero is None or wall is None else wall - zero


def _attempts(history: History, number: int) -> int:
    """How many attempts the barrier of a round took."""
    told = of_kind(history.coordinator, "rounds")
    return sum(e.get("state") == "connect" and e.get("round") == number for e in told)


def _cut(history: History, pair: tuple[str, str], at_s: float) -> bool:
    """Whether there was no path between two nodes, in one direction at least, or one of them stood
    still or was gone, at some time of the attempts that ended at `at_s`, on purpose."""
    rounds = history.plan.coordinator.rounds
    if rounds is None:
        return False
    attempts = 1 + rounds.max_connection_retry
    since_s = at_s - attempts * rounds.connection_timeout_ns / SECOND - _SLACK_S
    if any(_no_path(history, a, b, since_s, at_s) for a, b in (pair, pair[::-1])):
        return True
    return any(
        since <= at_s and until >= since_s
        for node in pair
        for since, until in (*absences(history, node), *_pauses(history, node))
    )


def _no_path(history: History, source: str, target: str, since_s: float, until_s: float) -> bool:
    """Whether there was no path at some time from `since_s` to `until_s`."""
    there, news = _path(history, source, target)
    missing = not there
    for at_s, there in news:
        if at_s > until_s:
            break
        # What was before `since_s` does not matter, once it is another.
        missing = not there if at_s <= since_s else missing or not there
    return missing


def _path(history: History, source: str, target: str) -> tuple[bool, Sequence[tuple[float, bool]]]:
    """Whether there is a path at the start, and when it goes and comes, in order of time.

    From the plan; a simulation's plan lists no paths, but each node records what becomes of those
    to its neighbours.
    """
    config = next((n.config for n in history.plan.nodes if n.name == source), None)
    if config is None:
        return True, ()
    if history.plan.backend is BackendKind.SIM:
        pairs = (history.links or {}).get("pairs") or ()
        there = any((p.get("from"), p.get("to")) == (source, target) for p in pairs)
        recorded = of_kind(history.nodes.get(source, ()), "link")
        told = [
            (as_float(e.get("at")) or 0.0, (e.get("applied") or {}).get(target)) for e in recorded
        ]
        return there, [(at_s, path["out"] is not None) for at_s, path in told if path is not None]
    there = any(p.name == target and p.out is not None for p in config.links.peers)
    return there, [
        (change.at_ns / SECOND, path.out is not None)
        for change in expected_changes(history, source)
        for path in change.peers
        if path.name == target
    ]


def _pauses(history: History, node: str) -> Sequence[tuple[float, float]]:
    """When a node stood still on purpose."""
    found: list[tuple[float, float]] = []
    since: float | None = None
    for deed in deeds(history.actions):
        if deed.node != node or deed.error is not None or deed.at_s is None:
            continue
        if deed.verb == "pause":
            since = deed.at_s
        elif since is not None:
            found.append((since, deed.at_s))
            since = None
    return found if since is None else [*found, (since, float("inf"))]
