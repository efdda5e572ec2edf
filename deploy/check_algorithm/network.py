"""A few nodes with the real peer machine, in virtual time, and what goes wrong between them (pure).

Every node has a send queue, which gives one message after the other to the network; what waits in
it a cancel takes back. Messages go through the codec. In synchronous rounds the network is the
coordinator, too: sharing opens when all that are there have offered the newest round.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from deploy.check_algorithm.case import CALM, Broken, Case, Faults, origin, words
from deploy.check_algorithm.nonsense import variants
from deploy.check_algorithm.toy import LAYOUT, Toy
from node.config import Mode, StopConfig
from node.core.algorithm import Algorithm
from node.core.effects import (
    CancelTimer,
    DropQueued,
    Effect,
    Evaluate,
    Finish,
    Offer,
    Record,
    Send,
    SetTimer,
    Train,
)
from node.core.events import (
    Evaluated,
    Event,
    ModelAdopted,
    PeerChange,
    PeerChanged,
    PeerDropped,
    Received,
    SendFailed,
    Sent,
    ShareOpened,
    ShareSkipped,
    Started,
    StopRequested,
    TimerFired,
    Trained,
)
from node.core.ids import NodeId
from node.core.messages import Delivery, PeerMessage
from node.core.parts import Vector
from node.core.peer import Peer, PeerSetting
from node.core.rng import stream
from node.errors import PeerFault
from node.sim.queue import EventQueue
from node.units import MILLISECOND, SECOND, Nanos
from node.wire.codec import decode_message, encode_message
from node.wire.frames import Identity

STEP: Final = 10 * MILLISECOND
"""What a training step takes."""
_DELAY: Final = 5 * MILLISECOND
_RATE: Final = 2_000_000
"""bit/s: a whole toy model takes 7 ms."""
_HELD_UP: Final = (200 * MILLISECOND, SECOND)
"""Between these a packet that was lost is sent again."""
_BROKEN: Final = 200 * MILLISECOND
"""Until a stream that broke is there again."""
_BESIDE: Final = 20 * MILLISECOND
"""Within this time nonsense follows what it was made of."""
_SHARE: Final = 2 * SECOND
_PATIENCE: Final = 60 * SECOND
_ENDLESS: Final = 10**9 * SECOND
_CALLS_MAX: Final = 500_000


@dataclass(slots=True, kw_only=True)
class _Node:
    """One life of a node, and what outlives it."""

    name: NodeId
    life: int = 0
    peer: Peer | None = None
    algorithm: Algorithm | None = None
    queue: deque[Send] = field(default_factory=deque)
    sending: bool = False
    timers: dict[str, int] = field(default_factory=dict)
    offered: int | None = None
    records: list[Record] = field(default_factory=list)
    finished: bool = False


class Network:
    """See the module. `absent` nodes are not there until `come`."""

    def __init__(
        self, case: Case, *, seed: int, faults: Faults = CALM, absent: Iterable[NodeId] = ()
    ) -> None:
        self.case, self.seed, self.faults = case, seed, faults
        self.names = tuple(case.overlay)
        self.toy = Toy.of(self.names, seed)
        self.queue = EventQueue()
        self.sent: Counter[str] = Counter()
        """Messages by kind that were handed to the network."""
        self.datagrams = 0
        self.bytes = 0
        """Of model values."""
        self._nodes = {name: _Node(name=name) for name in self.names}
        self._rng = stream(seed, "check", "faults")
        self._ways: dict[tuple[NodeId, NodeId], Nanos] = {}
        """When the last message of an ordered pair arrives."""
        self._down: set[frozenset[NodeId]] = set()
        self._longest: Nanos = STEP
        """Of all training jobs."""
        self._timer: Nanos = 0
        """The longest that an algorithm has set: so long it may wait in a round."""
        self._numbers = 0
        self._digest = hashlib.sha256()
        gone = set(absent)
        for name in self.names:
            if name not in gone:
                self._born(self._nodes[name])
        for name in self.there:
            self._meet(name)
            self._feed(name, Started())

    # --- looking

    @property
    def there(self) -> list[NodeId]:
        return [name for name in self.names if self._nodes[name].peer is not None]

    def peer(self, name: NodeId) -> Peer:
        """The machine of a node that is there."""
        found = self._nodes[name].peer
        assert found is not None
        return found

    def algorithm(self, name: NodeId) -> Algorithm:
        """The algorithm of a node that is there."""
        found = self._nodes[name].algorithm
        assert found is not None
        return found

    def rounds(self) -> dict[NodeId, int]:
        """Rounds that each node that is there has ended."""
        return {name: self.peer(name).round for name in self.there}

    def records(self, name: NodeId, kind: str) -> list[Mapping[str, Any]]:
        """Fields of a node's records of one kind, of all its lives."""
        return [record.fields for record in self._nodes[name].records if record.kind == kind]

    @property
    def loss_left(self) -> float:
        """The mean loss of the nodes' models above the best, over what it was at the start."""
        models = [self.peer(name).parameters for name in self.there]
        now = float(np.mean([self.toy.loss(model) for model in models]))
        return now / self.toy.loss(self.toy.initial)

    @property
    def apart(self) -> float:
        """See `Toy.apart`."""
        return self.toy.apart([self.peer(name).parameters for name in self.there])

    @property
    def digest(self) -> str:
        """Of all that the nodes have done so far, and when."""
        return self._digest.hexdigest()

    # --- running

    def run(self, rounds: int, *, nodes: Iterable[NodeId] | None = None) -> None:
        """Until these nodes (default: all that are there) have ended so many rounds.

        Raises:
            Broken: one of them does not, or did what it may not.
        """
        limit, calls = self.queue.now + _PATIENCE, 0
        wanted = self.there if nodes is None else list(nodes)
        while behind := [name for name in wanted if self.peer(name).round < rounds]:
            patience = rounds * (20 * self._longest * self.faults.slow + 2 * self._timer)
            calls += 1
            if not self.queue.run(until=limit + patience, limit=1) or calls > _CALLS_MAX:
                raise Broken(self._stuck(behind[0], rounds))

    def end(self) -> None:
        """Tell all to end, and let what is under way come to its end."""
        for name in self.there:
            self._feed(name, StopRequested(reason="time"))
        self.queue.run(until=self.queue.now + _PATIENCE, limit=_CALLS_MAX)
        for name in self.there:
            if not self._nodes[name].finished:
                raise Broken(f"{name} did not end when it was told to")

    def go(self, name: NodeId) -> None:
        """A node is gone at once; the others are told."""
        node = self._nodes[name]
        node.life += 1
        node.peer = node.algorithm = node.offered = None
        node.sending = False
        node.queue.clear()
        node.timers.clear()
        for other in self.there:
            if other in self.case.overlay[name]:
                self._feed(other, PeerChanged(peer=name, change=PeerChange.LOST))
            if self.case.mode is Mode.SYNC:
                self._feed(other, PeerDropped(round=self.peer(other).round, peer=name))
        self._open()

    def come(self, name: NodeId) -> None:
        """A node is there, or there again as a new process, with the model of a neighbour."""
        near = [other for other in self.case.overlay[name] if other in self.there]
        source = max(near, key=lambda other: self.peer(other).aggregated[0])
        held, model = self.peer(source).aggregated
        newest = max(self.peer(other).round for other in self.there)
        node = self._nodes[name]
        self._born(node)
        round_ = newest if self.case.mode is Mode.SYNC else held
        self._feed(name, ModelAdopted(round=round_, parameters=model))
        self._meet(name)
        self._feed(name, Started())
        for other in near:
            self._feed(other, PeerChanged(peer=name, change=PeerChange.CONNECTED))

    def _born(self, node: _Node) -> None:
        node.algorithm = self.case.kind(self.case.configs[node.name])
        setting = PeerSetting(
            me=node.name,
            peers=self.case.overlay[node.name],
            members=len(self.names),
            seed=self.seed,
            layout=LAYOUT,
            stop=StopConfig(time_ns=_ENDLESS),
            mode=self.case.mode,
            share_ns=_SHARE,
            samples=100,
        )
        node.peer = Peer(setting=setting, algorithm=node.algorithm, initial=self.toy.initial)

    def _meet(self, name: NodeId) -> None:
        """A node learns whom of its neighbours it is connected to, as streams come up."""
        for other in self.case.overlay[name]:
            change = PeerChange.CONNECTED if other in self.there else PeerChange.LOST
            self._feed(name, PeerChanged(peer=other, change=change))

    def _stuck(self, name: NodeId, rounds: int) -> str:
        state = self._nodes[name]
        ended = self.peer(name).round
        timers = ", ".join(sorted(key for key in state.timers if not key.startswith("peer/")))
        waits = f"its timers are {timers}" if timers else "it has set no timer"
        return (
            f"{name} has ended {ended} of {rounds} rounds after {self.queue.now / SECOND:.0f} s and"
            f" goes no further; {waits}"
        )

    # --- what machines want

    def _feed(self, name: NodeId, event: Event) -> None:
        node = self._nodes[name]
        if node.peer is None:
            return
        try:
            effects = node.peer.step(event, now=self.queue.now)
        except Exception as error:
            raise Broken(f"{self._when(name)}, {words(event)}: {origin(error)}") from error
        if not np.isfinite(node.peer.parameters).all():
            raise Broken(f"{self._when(name)}, {words(event)}: its model is not finite any more")
        for effect in effects:
            self._perform(node, effect)

    def _when(self, name: NodeId) -> str:
        return f"{name} at {self.queue.now / SECOND:.2f} s (seed {self.seed})"

    def _perform(self, node: _Node, effect: Effect) -> None:
        match effect:
            case Send(message=PeerMessage() as message):
                self._queue(node, effect, message)
            case DropQueued(key_prefix=prefix):
                node.queue = deque(s for s in node.queue if not s.key.startswith(prefix))
            case Train(steps=steps):
                took = steps * STEP * (self.faults.slow if node.name == self.names[-1] else 1)
                self._longest = max(self._longest, took)
                self.queue.after(took, self._trained, node, node.life, effect)
                self._write(node, "train", str(steps), effect.parameters)
            case Evaluate(round=round_):
                done = Evaluated(round=round_, accuracy=0.5, loss=1.0)
                self.queue.after(MILLISECOND, self._later, node, node.life, done)
            case SetTimer(key=key, at=at):
                self._numbers += 1
                node.timers[key] = self._numbers
                at = max(at, self.queue.now)
                if at < _ENDLESS:
                    self._timer = max(self._timer, at - self.queue.now)
                self.queue.at(at, self._fire, node, node.life, key, self._numbers)
            case CancelTimer(key=key):
                node.timers.pop(key, None)
            case Record():
                self._recorded(node, effect)
            case Offer(round=round_):
                node.offered = round_
                self.queue.after(_DELAY, self._open)
            case Finish(error=error):
                node.finished = error is None
            case _:
                pass  # ShareOver: the coordinator here has nothing to learn from it

    def _recorded(self, node: _Node, record: Record) -> None:
        node.records.append(record)
        self._write(node, record.kind, json.dumps(record.fields, sort_keys=True, default=str))
        if record.kind == "refused" and not self.faults.nonsense:
            sender, reason = record.fields.get("sender"), record.fields.get("reason")
            raise Broken(f"{self._when(node.name)} refuses a message of {sender}: {reason}")

    def _trained(self, node: _Node, life: int, job: Train) -> None:
        parameters, loss = self.toy.train(node.name, job.parameters, job.steps)
        done = Trained(job=job.job, parameters=parameters, loss=loss, steps=job.steps)
        self._later(node, life, done)

    def _later(self, node: _Node, life: int, event: Event) -> None:
        if node.life == life:
            self._feed(node.name, event)

    def _fire(self, node: _Node, life: int, key: str, number: int) -> None:
        if node.life == life and node.timers.get(key) == number:
            del node.timers[key]
            self._feed(node.name, TimerFired(key=key))

    def _write(self, node: _Node, what: str, text: str, values: Vector | None = None) -> None:
        """Note what a node did."""
        self._digest.update(f"{self.queue.now} {node.name} {what} {text}\n".encode())
        if values is not None:
            self._digest.update(values.tobytes())

    # --- messages

    def _queue(self, node: _Node, send: Send, message: PeerMessage) -> None:
        """What is queued is what the peer will read: through the codec and back."""
        try:
            whole = _through_codec(message, node)
        except (ValueError, PeerFault, TypeError, AttributeError) as error:
            raise Broken(f"{self._when(node.name)} sends what cannot be sent: {error}") from error
        if send.supersedes:
            same = (send.target, send.key)
            node.queue = deque(s for s in node.queue if (s.target, s.key) != same)
        fields = json.dumps(dict(message.fields), default=str)
        told = f"{send.target} {send.key} {message.kind} {message.round} {fields}"
        self._write(node, "send", told, None if message.part is None else message.part.values)
        node.queue.append(
            Send(target=send.target, message=whole, key=send.key, supersedes=send.supersedes)
        )
        self._pump(node)

    def _pump(self, node: _Node) -> None:
        if node.sending or not node.queue:
            return
        send = node.queue.popleft()
        assert isinstance(send.message, PeerMessage)
        node.sending = True
        self.sent[send.message.kind] += 1
        self.bytes += send.message.model_bytes
        self.datagrams += send.message.delivery is Delivery.DATAGRAM
        took = 100_000 + send.message.model_bytes * 8 * SECOND // _RATE
        self.queue.after(took, self._leaves, node, node.life, send)

    def _leaves(self, node: _Node, life: int, send: Send) -> None:
        """A message is on its way; what becomes of it is drawn."""
        if node.life != life:
            return
        node.sending = False
        message, pair = send.message, (node.name, send.target)
        assert isinstance(message, PeerMessage)
        faults, draw = self.faults, self._rng.random(5)
        if send.target not in self.there or frozenset(pair) in self._down:
            self._later(node, life, _failed(send, "out of reach"))
        elif draw[0] < faults.broken:
            self._breaks(node, life, send)
        elif draw[1] < faults.vanish and message.delivery is Delivery.DATAGRAM:
            self._later(node, life, _sent(send))
        else:
            at = self.queue.now + _DELAY
            if draw[2] < faults.held_up:
                at += round(_HELD_UP[0] + draw[3] * (_HELD_UP[1] - _HELD_UP[0]))
            if faults.overtake_ns:
                at += round(draw[3] * faults.overtake_ns)
            else:
                at = self._ways[pair] = max(at, self._ways.get(pair, 0))
            self._arrives_at(at, node, life, send)
            if draw[4] < faults.twice:
                self.queue.at(at + _DELAY, self._arrives, node, None, send, message)
        if node.life == life:
            self._pump(node)

    def _arrives_at(self, at: Nanos, node: _Node, life: int, send: Send) -> None:
        message = send.message
        assert isinstance(message, PeerMessage)
        if self._rng.random() < self.faults.nonsense:
            found = variants(message, LAYOUT)
            _, odd = found[int(self._rng.integers(len(found)))]
            if message.attempt > 0:  # of each sender one counts: in the place of the right one
                message = odd
            else:  # before the next one of the sender, which would take its place
                later = at + int(self._rng.integers(_BESIDE))
                self.queue.at(later, self._arrives, node, None, send, odd)
        self.queue.at(at, self._arrives, node, life, send, message)

    def _arrives(self, node: _Node, life: int | None, send: Send, message: PeerMessage) -> None:
        """Args: life: of the sender, who is told; None: it is not."""
        if send.target in self.there:
            self._feed(send.target, Received(sender=node.name, message=message))
            if life is not None:
                self.queue.after(_DELAY, self._later, node, life, _sent(send))
        elif life is not None:
            self._later(node, life, _failed(send, "the connection broke"))

    def _breaks(self, node: _Node, life: int, send: Send) -> None:
        """A stream breaks; it is up again a moment later."""
        pair = frozenset((node.name, send.target))
        self._down.add(pair)
        self._later(node, life, _failed(send, "the connection broke"))
        self._tell(pair, PeerChange.LOST)
        self.queue.after(_BROKEN, self._mend, pair)

    def _mend(self, pair: frozenset[NodeId]) -> None:
        self._down.discard(pair)
        self._tell(pair, PeerChange.CONNECTED)

    def _tell(self, pair: frozenset[NodeId], change: PeerChange) -> None:
        one, other = sorted(pair)
        if {one, other} <= set(self.there):
            self._feed(one, PeerChanged(peer=other, change=change))
            self._feed(other, PeerChanged(peer=one, change=change))

    # --- synchronous rounds

    def _open(self) -> None:
        """Open the newest round once all that are there have offered; who is behind skips."""
        nodes = [self._nodes[name] for name in self.there if not self._nodes[name].finished]
        offers = {node.name: node.offered for node in nodes if node.offered is not None}
        if not nodes or len(offers) < len(nodes):
            return
        newest = max(offers.values())
        sharing = [name for name, round_ in offers.items() if round_ == newest]
        for node in nodes:
            node.offered = None
        for name, round_ in offers.items():
            if name in sharing:
                peers = tuple(other for other in self.case.overlay[name] if other in sharing)
                self._feed(name, ShareOpened(round=newest, attempt=1, peers=peers))
            else:
                self._feed(name, ShareSkipped(round=round_))


def _through_codec(message: PeerMessage, node: _Node) -> PeerMessage:
    identity = Identity(session="check", member=node.name, incarnation=node.life + 1)
    encoded = encode_message(message, sender=identity)
    return decode_message(encoded.cut(0, encoded.size), sender=identity)


def _sent(send: Send) -> Sent:
    assert isinstance(send.message, PeerMessage)
    return Sent(target=send.target, key=send.key, model_bytes=send.message.model_bytes)


def _failed(send: Send, reason: str) -> SendFailed:
    return SendFailed(target=send.target, key=send.key, reason=reason)
