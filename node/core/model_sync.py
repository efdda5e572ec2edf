"""The model for a node that comes late: both ends of the transfer (pure).

The newcomer pulls, so that the provider keeps no state that could pile up, and a transfer goes on
where it stood after a broken stream:

    newcomer                                         provider
    ModelRequest {sync, offset, count}          -->
                                                <--  SharedModel {sync, sha256, offset, total, held}
                                                     with the part Span(offset, offset + count)

`WINDOW` requests are under way at a time. `sha256` is over the whole model as little-endian float32
and stands in each answer: values of two models are never mixed. A provider that is in the middle of
a round serves when it has ended it; until then it answers without a part, which says that it lives.
What a request or an answer claims is checked against the layout before it is used; what does not
fit is refused and recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from node.core.effects import (
    CancelTimer,
    Effect,
    KeepConnected,
    Record,
    Send,
    SetTimer,
    TakeSnapshot,
)
from node.core.events import ModelSnapshot
from node.core.ids import NodeId
from node.core.messages import PeerMessage, Scalar
from node.core.parts import Part, Span, Vector, frozen
from node.units import Nanos, format_duration

REQUEST: Final = "ModelRequest"
ANSWER: Final = "SharedModel"
KINDS: Final = frozenset({REQUEST, ANSWER})
"""Kinds of PeerMessages that are the member machine's, not the algorithm's."""
PREFIX: Final = "sync/"
"""Begins the keys of what is sent here: in the background."""
CHUNK: Final = 8 * 1024
"""Values in an answer: 32 KiB, which 50 kbit/s carry in 5 s."""
WINDOW: Final = 8
"""Requests under way: 256 KiB, a bandwidth-delay product of 40 Mbit/s and 50 ms."""
STALL: Final = "sync/stall"
IDLE: Final = "sync/idle"
_NUDGES: Final = 4
"""How often what is under way is asked for again before the provider is given up."""
_RESTARTS: Final = 3
"""How often a provider may go over to another model in the middle of one sync."""


def digest(parameters: Vector) -> str:
    """What identifies a model: sha256 of its values as little-endian float32."""
    values = np.ascontiguousarray(parameters.astype("<f4", copy=False))
    return hashlib.sha256(values.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fetched:
    """A model that has come whole, as its hash says.

    Args:
        held: rounds that it has behind it.
    """

    sync: int
    held: int
    parameters: Vector


@dataclass(frozen=True, slots=True)
class _Model:
    """Which model a provider says it gives."""

    sha256: str
    held: int


class Fetch:
    """The newcomer's end: one sync at a time, each with one provider.

    Args:
        size: number of parameters of the model.
        stall_ns: a provider of which nothing arrives for so long is given up.
        patience_ns: for how long a provider may say that it is not ready yet.
    """

    def __init__(self, *, size: int, stall_ns: Nanos, patience_ns: Nanos) -> None:
        self._size = size
        self._stall_ns = stall_ns
        self._patience_ns = patience_ns
        self._sync = 0
        self._provider: NodeId | None = None
        self._began: Nanos = 0
        self._heard: Nanos = 0
        """When something of use came last."""
        self._asked: Nanos = 0
        self._model: _Model | None = None
        self._values = np.zeros(0, dtype=np.float32)
        self._missing: set[int] = set()
        """Offsets of what has not come."""
        self._todo: list[int] = []
        """Of them, what has not been asked for in this sync; the next one last."""
        self._under_way: set[int] = set()
        self._restarts = 0
        self.fetched: Fetched | None = None
        self.failure: str | None = None
        """Why the sync came to nothing; the next may begin."""

    @property
    def sync(self) -> int:
        """Number of the newest sync, 0 before the first."""
        return self._sync

    @property
    def current(self) -> tuple[int, NodeId] | None:
        """The sync that runs and its provider, if one does."""
        return (self._sync, self._provider) if self._provider is not None else None

    def begin(self, sync: int, provider: NodeId, *, now: Nanos) -> list[Effect]:
        """Get the model from `provider`. What came of the same model before is not asked again."""
        effects = self.stop()
        self._sync, self._provider = sync, provider
        self._began = self._heard = now
        self._restarts = 0
        self.fetched = self.failure = None
        if self._size < 1:
            return [*effects, *self._fail("this node does not know the size of its model")]
        if self._model is None:
            self._clear()
        self._todo = sorted(self._missing, reverse=True)
        connect = KeepConnected(peer=provider)
        return [*effects, connect, *self._ask(now), self._nudge_later(now)]

    def connected(self, peer: NodeId, *, now: Nanos) -> list[Effect]:
        """A stream is there (again): what was under way may be lost."""
        return self._ask_again(now) if peer == self._provider else []

    def take(self, sender: NodeId, message: PeerMessage, *, now: Nanos) -> list[Effect]:
        """A SharedModel has come."""
        if sender != self._provider or message.fields.get("sync") != self._sync:
            return []  # of a sync that was given up
        if message.part is None:
            if self._model is None and now < self._began + self._patience_ns:
                self._heard = now
            return []
        model, fault = self._check(message)
        if model is None:
            return [_refused(sender, fault)]
        if self._model != model:
            if self._model is not None:
                self._restarts += 1
            if self._restarts > _RESTARTS:
                return self._fail(f"{sender} changed its model again and again")
            self._model = model
            self._clear()
            self._todo = sorted(self._missing - self._under_way, reverse=True)
        span = message.part.where
        assert isinstance(span, Span)
        self._under_way.discard(span.start)
        if span.start in self._missing:
            self._missing.discard(span.start)
            self._values[span.start : span.stop] = message.part.values
            self._heard = now
        if not self._missing:
            return self._complete(model)
        return self._ask(now)

    def timer(self, *, now: Nanos) -> list[Effect]:
        """Nothing new for a while: ask again, or give the provider up."""
        if self._provider is None:
            return []
        if now - self._heard >= self._stall_ns:
            wait = format_duration(self._stall_ns)
            return self._fail(f"nothing came from {self._provider} for {wait}")
        quiet_since = max(self._heard, self._asked)
        quiet = now - quiet_since >= self._stall_ns // _NUDGES
        return [*(self._ask_again(now) if quiet else []), self._nudge_later(now)]

    def stop(self) -> list[Effect]:
        """Give up the sync that runs, if one does."""
        if self._provider is None:
            return []
        self._provider = None
        self._under_way.clear()
        return [CancelTimer(key=STALL)]

    def _clear(self) -> None:
        """Nothing has come of the model that is to come."""
        self._values = np.zeros(self._size, dtype=np.float32)
        self._missing = set(range(0, self._size, CHUNK))

    def _count(self, offset: int) -> int:
        return min(CHUNK, self._size - offset)

    def _ask(self, now: Nanos) -> list[Effect]:
        """Fill the window."""
        wanted: list[int] = []
        while self._todo and len(self._under_way) < WINDOW:
            wanted.append(self._todo.pop())
            self._under_way.add(wanted[-1])
        if not wanted:
            return []
        self._asked = now
        return self._requests(wanted)

    def _ask_again(self, now: Nanos) -> list[Effect]:
        self._asked = now
        return self._requests(sorted(self._under_way))

    def _requests(self, offsets: Iterable[int]) -> list[Effect]:
        assert self._provider is not None
        effects: list[Effect] = []
        for offset in offsets:
            count = self._count(offset)
            fields: dict[str, Scalar] = {"sync": self._sync, "offset": offset, "count": count}
            message = PeerMessage(kind=REQUEST, round=0, fields=fields)
            effects.append(_send(self._provider, message, self._sync, offset))
        return effects

    def _nudge_later(self, now: Nanos) -> Effect:
        return SetTimer(key=STALL, at=now + self._stall_ns // _NUDGES)

    def _check(self, message: PeerMessage) -> tuple[_Model | None, str]:
        """Which model the answer is of, or what is wrong with it."""
        part, fields = message.part, message.fields
        assert part is not None
        sha256, total, held = fields.get("sha256"), fields.get("total"), fields.get("held")
        if not isinstance(sha256, str) or len(sha256) != 64:
            return None, f"a model with the hash {str(sha256)[:80]!r}"
        if not isinstance(held, int) or held < 0:
            return None, f"a model that is {held!r} rounds old"
        if total != self._size:
            return None, f"a model with {total!r} parameters instead of {self._size}"
        span = part.where
        if not isinstance(span, Span) or not 0 <= span.start < self._size or span.start % CHUNK:
            return None, f"{span} of a model, which was not asked for"
        count = self._count(span.start)
        if span.stop != span.start + count or part.values.size != count:
            return None, f"{part.values.size} values as {span} of a model, instead of {count}"
        if not np.isfinite(part.values).all():
            return None, "a model with values that are not finite"
        return _Model(sha256, held), ""

    def _complete(self, model: _Model) -> list[Effect]:
        values, sync, provider = self._values, self._sync, self._provider
        self._model = None
        if digest(values) != model.sha256:
            return self._fail(f"the model that came from {provider} is not what its hash says")
        self.fetched = Fetched(sync=sync, held=model.held, parameters=frozen(values))
        return self.stop()

    def _fail(self, reason: str) -> list[Effect]:
        self.failure = reason
        return self.stop()


@dataclass(slots=True, kw_only=True, eq=False)
class _Served:
    """One newcomer at the provider.

    Args:
        asked: requests that came before there was something to serve, by offset.
    """

    sync: int
    newest: Nanos
    snapshot: ModelSnapshot | None = None
    taking: bool = False
    asked: dict[int, PeerMessage] = field(default_factory=dict)


class Serve:
    """The provider's end: the last aggregated model, to several newcomers, in the background.

    Args:
        idle_ns: a newcomer that asks for nothing for so long is forgotten.
    """

    def __init__(self, *, idle_ns: Nanos) -> None:
        self._idle_ns = idle_ns
        self._served: dict[NodeId, _Served] = {}
        self._early: dict[NodeId, dict[int, PeerMessage]] = {}
        """Requests of newcomers that heard of the sync before this node did."""
        self._hash: tuple[Vector, str] | None = None

    def expect(self, sync: int, newcomer: NodeId, *, now: Nanos) -> list[Effect]:
        """`newcomer` will ask. `snapshots` is to be called when there is a model to give."""
        known = self._served.get(newcomer)
        if known is not None and known.sync == sync:
            return []
        early = self._early.pop(newcomer, {})
        self._served[newcomer] = _Served(sync=sync, newest=now, asked=early)
        return [KeepConnected(peer=newcomer), SetTimer(key=IDLE, at=now + self._idle_ns)]

    def snapshots(self) -> list[Effect]:
        """Ask for a model for everyone who has none yet: the node is not sharing now."""
        effects: list[Effect] = []
        for served in self._served.values():
            if served.snapshot is None and not served.taking:
                served.taking = True
                effects.append(TakeSnapshot(sync=served.sync))
        return effects

    def snapshot(self, event: ModelSnapshot, *, now: Nanos) -> list[Effect]:
        """The model is here: answer what was asked meanwhile. Without a model, forget it."""
        effects: list[Effect] = []
        for newcomer, served in list(self._served.items()):
            if served.sync != event.sync or served.snapshot is not None:
                continue
            if event.parameters is None:
                del self._served[newcomer]
                continue
            served.snapshot = event
            asked, served.asked = served.asked, {}
            for offset in sorted(asked):
                effects += self.take(newcomer, asked[offset], now=now)
        return effects

    def take(self, sender: NodeId, message: PeerMessage, *, now: Nanos) -> list[Effect]:
        """A ModelRequest has come."""
        sync, offset = message.fields.get("sync"), message.fields.get("offset")
        count = message.fields.get("count")
        if not (isinstance(sync, int) and isinstance(offset, int) and isinstance(count, int)):
            return [_refused(sender, "a ModelRequest without sync, offset and count")]
        if offset < 0 or offset % CHUNK or not 1 <= count <= CHUNK:
            return [_refused(sender, f"a ModelRequest for {count} values from {offset}")]
        served = self._served.get(sender)
        if served is None or sync > served.sync:
            self._keep(self._early.setdefault(sender, {}), sync, message)
            return []
        if sync < served.sync:
            return []  # of a sync that was given up
        served.newest = now
        snapshot = served.snapshot
        if snapshot is None:
            self._keep(served.asked, sync, message)
            return [self._busy(sender, sync, offset)]
        assert snapshot.parameters is not None
        total = snapshot.parameters.size
        if offset + count > total:
            text = f"a ModelRequest for {count} values from {offset} of {total}"
            return [_refused(sender, text)]
        return [self._answer(sender, snapshot, sync, offset, count)]

    def timer(self, *, now: Nanos) -> list[Effect]:
        """Forget newcomers that ask for nothing any more, and what came of others."""
        for newcomer, served in list(self._served.items()):
            if now - served.newest >= self._idle_ns:
                del self._served[newcomer]
        self._early.clear()
        if not self._served:
            self._hash = None
            return []
        oldest = min(served.newest for served in self._served.values())
        return [SetTimer(key=IDLE, at=oldest + self._idle_ns)]

    def _keep(self, kept: dict[int, PeerMessage], sync: int, message: PeerMessage) -> None:
        """A request that cannot be answered yet; at most a window of them, of the newest sync."""
        if any(old.fields["sync"] != sync for old in kept.values()):
            kept.clear()
        if len(kept) < WINDOW:
            kept[int(message.fields["offset"])] = message

    def _busy(self, newcomer: NodeId, sync: int, offset: int) -> Effect:
        fields: dict[str, Scalar] = {"sync": sync, "offset": offset}
        return _send(newcomer, PeerMessage(kind=ANSWER, round=0, fields=fields), sync, offset)

    def _answer(
        self, newcomer: NodeId, snapshot: ModelSnapshot, sync: int, offset: int, count: int
    ) -> Effect:
        parameters = snapshot.parameters
        assert parameters is not None
        if self._hash is None or self._hash[0] is not parameters:
            self._hash = (parameters, digest(parameters))
        values = frozen(parameters[offset : offset + count].copy())
        fields: dict[str, Scalar] = {
            "sync": sync,
            "sha256": self._hash[1],
            "offset": offset,
            "total": parameters.size,
            "held": snapshot.held,
        }
        part = Part(where=Span(offset, offset + count), values=values)
        message = PeerMessage(kind=ANSWER, round=snapshot.held, part=part, fields=fields)
        return _send(newcomer, message, sync, offset)


def _send(target: NodeId, message: PeerMessage, sync: int, offset: int) -> Effect:
    """Asked twice is sent once, as long as it has not left."""
    return Send(target=target, message=message, key=f"{PREFIX}{sync}/{offset}", supersedes=True)


def _refused(sender: NodeId, reason: str) -> Effect:
    return Record(kind="refused", fields={"sender": sender, "reason": reason})
