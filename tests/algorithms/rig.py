"""Several real peer machines, without network, clock or trainer.

What is under way (messages, training jobs, evaluations) lies in one pool; a step takes one of it by
`Order` and feeds it to its machine. Time passes only when the pool is empty: then the earliest
timer fires. So a run is a function of its arguments.

A message stays in the pool, as in a sender's queue, until it is taken: until then `DropQueued`
cancels it. In synchronous rounds the rig is the coordinator: when all that live have offered,
sharing opens for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from node import algorithms
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
    ShareOver,
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
    Started,
    TimerFired,
    Trained,
)
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Vector
from node.core.peer import Peer, PeerSetting
from node.units import SECOND

ENDLESS = 10**9 * SECOND
Training = Callable[[int, Vector, int], Vector]
"""(node, parameters, steps) -> trained parameters."""


class Order(Enum):
    """What of the pool comes next."""

    FIFO = "fifo"
    SHUFFLED = "shuffled"
    """Anything, drawn from the rig's seed: messages overtake each other and training."""


class Fate(Enum):
    """What becomes of a message."""

    ARRIVES = "arrives"
    LOST = "lost"
    """Nobody hears of it."""
    FAILS = "fails"
    """Does not arrive, and the sender is told."""
    TWICE = "twice"


Fates = Callable[[int, int, PeerMessage], Fate]
"""(sender, target, message) -> its fate; asked once, when it leaves the queue."""


def always(sender: int, target: int, message: PeerMessage) -> Fate:
    return Fate.ARRIVES


def name(i: int) -> NodeId:
    return NodeId(f"n-{i:03d}")


def number(node: NodeId) -> int:
    return int(node.removeprefix("n-"))


def ring(count: int) -> list[list[int]]:
    return [sorted({(i - 1) % count, (i + 1) % count} - {i}) for i in range(count)]


def complete(count: int) -> list[list[int]]:
    return [[j for j in range(count) if j != i] for i in range(count)]


def star(count: int) -> list[list[int]]:
    """Node 0 is the hub."""
    return [list(range(1, count)), *([0] for _ in range(1, count))]


def still(node: int, parameters: Vector, steps: int) -> Vector:
    """No training: what is left is the exchange."""
    return parameters.copy()


@dataclass(frozen=True)
class Quadratic:
    """Node i minimises 1/2 |x - c_i|^2 by exact gradient steps; the sum's optimum is mean c_i.

    Args:
        centres: shape (nodes, d).
    """

    centres: np.ndarray[Any, Any]
    rate: float

    @property
    def optimum(self) -> np.ndarray[Any, Any]:
        return np.asarray(self.centres.mean(axis=0))

    def __call__(self, node: int, parameters: Vector, steps: int) -> Vector:
        x = parameters.astype(np.float64)
        for _ in range(steps):
            x -= self.rate * (x - self.centres[node])
        return x.astype(np.float32)


@dataclass(frozen=True)
class _Pending:
    """Something for `node` in the pool; a message also has who sent it."""

    node: int
    event: Event
    send: Send | None = None
    sender: int = -1


class Rig:
    """See the module.

    Args:
        make: the algorithm's name in the registry, or what makes one.
        near: neighbours in the overlay by node.
        initial: the first models, shape (nodes, d).
        fates: what becomes of messages; may be replaced while it runs.
        samples: training samples by node; default 1 each.
        stop: rounds after which a node finishes; default never.
    """

    def __init__(
        self,
        make: str | Callable[[], Algorithm],
        *,
        near: Sequence[Sequence[int]],
        initial: np.ndarray[Any, Any],
        options: Mapping[str, Any] | None = None,
        train: Training = still,
        order: Order = Order.FIFO,
        fates: Fates = always,
        seed: int = 1,
        samples: Sequence[int] | None = None,
        batch_size: int = 1,
        stop: int | None = None,
        layout: Layout | None = None,
        mode: Mode | None = None,
    ) -> None:
        self._make = make
        self._options = dict(options or {})
        self.near = [list(others) for others in near]
        self.initial = np.asarray(initial, dtype=np.float32)
        self.layout = layout or Layout.of({"w": (self.initial.shape[1],)})
        self.train = train
        self.order = order
        self.fates = fates
        self.seed = seed
        self.samples = list(samples or [1] * len(near))
        self.batch_size = batch_size
        self.stop = StopConfig(time_ns=ENDLESS, rounds=stop)
        self.mode = mode or self._new(0).MODES[0]
        self.now = 0
        self.live = set(range(len(near)))
        self.pool: list[_Pending] = []
        self.timers: list[dict[str, int]] = [{} for _ in near]
        self.records: list[list[Record]] = [[] for _ in near]
        self.sends: list[tuple[int, int, PeerMessage]] = []
        """All that left a queue: sender, target, message."""
        self.cancelled: list[tuple[int, int, PeerMessage]] = []
        self.evaluated: list[dict[int, Vector]] = [{} for _ in near]
        """By node and round, the model that was evaluated."""
        self.finished: dict[int, Vector] = {}
        """Nodes that have ended, and the models that they stored."""
        self.cut: set[frozenset[int]] = set()
        """Pairs that do not share although both take part."""
        self._offered: dict[int, int] = {}
        self._rng = np.random.default_rng(seed)
        self.algorithms: list[Algorithm] = []
        self.peers: list[Peer] = []
        for i in range(len(near)):
            algorithm = self._new(i)
            self.algorithms.append(algorithm)
            self.peers.append(self._peer(i, algorithm))
        for i in range(len(near)):
            self.feed(i, Started())

    # --- what tests look at

    @property
    def models(self) -> np.ndarray[Any, Any]:
        """Parameters of the nodes that live, float64, in order."""
        return np.array([self.peers[i].parameters for i in sorted(self.live)], dtype=np.float64)

    @property
    def distance(self) -> float:
        """Consensus distance: sqrt(mean |x_i - mean x|^2)."""
        apart = self.models - self.models.mean(axis=0)
        return float(np.sqrt((apart**2).sum(axis=1).mean()))

    def round(self, i: int) -> int:
        return self.peers[i].round

    def of(self, i: int, kind: str) -> list[dict[str, Any]]:
        """The fields of a node's records of one kind."""
        return [dict(record.fields) for record in self.records[i] if record.kind == kind]

    @property
    def waiting(self) -> list[tuple[int, int, PeerMessage]]:
        """All that is still queued: sender, target, message."""
        return [
            (pending.sender, pending.node, pending.send.message)
            for pending in self.pool
            if pending.send is not None and isinstance(pending.send.message, PeerMessage)
        ]

    def bytes_by_kind(self) -> Counter[str]:
        """Model bytes that left the queues."""
        count: Counter[str] = Counter()
        for _, _, message in self.sends:
            count[message.kind] += message.model_bytes
        return count

    # --- running

    def run(self, *, rounds: int, most: int = 1_000_000) -> None:
        """Until each node that lives has ended so many rounds."""
        for _ in range(most):
            if all(self.peers[i].round >= rounds for i in self.live):
                return
            if not self.step():
                state = {i: self.peers[i].round for i in sorted(self.live)}
                raise AssertionError(f"nothing happens any more; rounds ended: {state}")
        raise AssertionError(f"not {rounds} rounds after {most} steps")

    def deliver(self) -> None:
        """Until no message is under way; training and timers stand still."""
        while messages := [pending for pending in self.pool if pending.send is not None]:
            self.pool.remove(messages[0])
            self._take(messages[0])

    def drain(self) -> None:
        """Until nothing is under way: whoever still waits waits for a timer."""
        while self.pool:
            self.step()

    def step(self) -> bool:
        """The next thing happens; False: there is none."""
        if self.pool:
            at = 0 if self.order is Order.FIFO else int(self._rng.integers(len(self.pool)))
            self._take(self.pool.pop(at))
            return True
        return self._fire()

    def feed(self, i: int, event: Event) -> list[Effect]:
        """Give an event to a machine and perform what it wants."""
        effects = self.peers[i].step(event, now=self.now)
        for effect in effects:
            self._perform(i, effect)
        return effects

    def kill(self, i: int) -> None:
        """A node is gone; the others are told."""
        self.live.discard(i)
        self.finished.pop(i, None)
        self.timers[i].clear()
        self._offered.pop(i, None)
        self.pool = [p for p in self.pool if i not in (p.node, p.sender)]
        for j in sorted(self.live):
            if i in self.near[j]:
                self.feed(j, PeerChanged(peer=name(i), change=PeerChange.LOST))
            self.feed(j, PeerDropped(round=self.peers[j].round, peer=name(i)))
        self._open()

    def revive(self, i: int, *, model_of: int) -> None:
        """A new process in a dead node's place, with the model and round of another."""
        held, parameters = self.peers[model_of].aggregated
        self.algorithms[i] = self._new(i)
        self.peers[i] = self._peer(i, self.algorithms[i])
        self.live.add(i)
        round_ = self.peers[model_of].round if self.mode is Mode.SYNC else held
        self.feed(i, ModelAdopted(round=round_, parameters=parameters))
        self.feed(i, Started())
        for j in self.near[i]:
            if j in self.live:
                self.feed(j, PeerChanged(peer=name(i), change=PeerChange.CONNECTED))
                self.feed(i, PeerChanged(peer=name(j), change=PeerChange.CONNECTED))

    # --- inside

    def _new(self, i: int) -> Algorithm:
        """Node i's algorithm, made as a plan has it made."""
        if not isinstance(self._make, str):
            return self._make()
        kind = algorithms.find(self._make)
        overlay = {name(j): tuple(map(name, others)) for j, others in enumerate(self.near)}
        config = algorithms.configure(kind, self._options)
        own = kind.options_by_node(config, overlay).get(name(i), {})
        return algorithms.make(self._make, self._options | dict(own))

    def _peer(self, i: int, algorithm: Algorithm) -> Peer:
        setting = PeerSetting(
            me=name(i),
            peers=tuple(name(j) for j in self.near[i]),
            members=len(self.near),
            seed=self.seed,
            layout=self.layout,
            stop=self.stop,
            mode=self.mode,
            samples=self.samples[i],
            batch_size=self.batch_size,
        )
        return Peer(setting=setting, algorithm=algorithm, initial=self.initial[i].copy())

    def _perform(self, i: int, effect: Effect) -> None:
        match effect:
            case Send(target=target, key=key, supersedes=supersedes):
                if supersedes:
                    self._cancel(i, lambda send: send.target == target and send.key == key)
                event = Received(sender=name(i), message=effect.message)
                self.pool.append(_Pending(number(target), event, send=effect, sender=i))
            case DropQueued(key_prefix=prefix):
                self._cancel(i, lambda send: send.key.startswith(prefix))
            case Train(job=job, steps=steps, parameters=parameters):
                trained = self.train(i, parameters, steps)
                trained.flags.writeable = False
                done = Trained(job=job, parameters=trained, loss=1.0, steps=steps)
                self.pool.append(_Pending(i, done))
            case Evaluate(round=round_, parameters=parameters):
                self.evaluated[i][round_] = parameters
                self.pool.append(_Pending(i, Evaluated(round=round_, accuracy=0.5, loss=1.0)))
            case SetTimer(key=key, at=at):
                self.timers[i][key] = at
            case CancelTimer(key=key):
                self.timers[i].pop(key, None)
            case Record():
                self.records[i].append(effect)
            case Offer(round=round_):
                self._offered[i] = round_
                self._open()
            case ShareOver():
                pass
            case Finish(error=error, parameters=model):
                assert error is None, f"{name(i)}: {error}"
                assert model is not None
                self.finished[i] = model
            case _:
                raise AssertionError(f"unexpected effect of a peer: {effect}")

    def _take(self, pending: _Pending) -> None:
        if pending.send is None:
            self.feed(pending.node, pending.event)
            return
        send, message = pending.send, pending.send.message
        assert isinstance(message, PeerMessage)
        self.sends.append((pending.sender, pending.node, message))
        there = pending.node in self.live
        fate = self.fates(pending.sender, pending.node, message) if there else Fate.FAILS
        if fate is Fate.LOST:
            return
        if fate is Fate.FAILS:
            failed = SendFailed(target=send.target, key=send.key, reason="as the test wants it")
            self.feed(pending.sender, failed)
            return
        for _ in range(2 if fate is Fate.TWICE else 1):
            self.feed(pending.node, pending.event)
        sent = Sent(target=send.target, key=send.key, model_bytes=message.model_bytes)
        self.feed(pending.sender, sent)

    def _cancel(self, i: int, hit: Callable[[Send], bool]) -> None:
        kept = []
        for pending in self.pool:
            if pending.sender == i and pending.send is not None and hit(pending.send):
                assert isinstance(pending.send.message, PeerMessage)
                self.cancelled.append((i, pending.node, pending.send.message))
            else:
                kept.append(pending)
        self.pool = kept

    def _fire(self) -> bool:
        """The earliest timer, but for the ends of the runs."""
        due = [
            (at, i, key)
            for i in sorted(self.live)
            for key, at in self.timers[i].items()
            if at < ENDLESS
        ]
        if not due:
            return False
        at, i, key = min(due)
        self.now = max(self.now, at)
        del self.timers[i][key]
        self.feed(i, TimerFired(key=key))
        return True

    def _open(self) -> None:
        """Open sharing once all that live wait for it, in one round."""
        if set(self._offered) < self.live or not self.live:
            return
        rounds = set(self._offered.values())
        assert len(rounds) == 1, f"offers of different rounds: {self._offered}"
        (round_,) = rounds
        self._offered.clear()
        for i in sorted(self.live):
            near = [j for j in self.near[i] if frozenset((i, j)) not in self.cut]
            peers = tuple(name(j) for j in near if j in self.live)
            opened = ShareOpened(round=round_, attempt=1, peers=peers)
            self.pool.append(_Pending(i, opened))
