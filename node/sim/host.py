"""One life of a node in a simulation: its member and peer machine, and what they want.

    mesh     --Received, Sent, SendFailed, PeerChanged--> Peer --Send, DropQueued, Train--> mesh,
    trainers --Trained, Evaluated---------------------->       --Evaluate-------------> trainers
    line     --Received, PeerChanged--> Member --BeginRun, OpenShare, ConnectEdges--> peer and mesh

The same as `node.runtime.node_runner` and `local_run` do in a container, at virtual cost: a
training job takes what `compute` says, an evaluation `EVALUATION_NS`, all else nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node import __version__
from node.config import Emulator, NodeConfig, RoundsConfig
from node.core.effects import (
    AdoptModel,
    BeginRun,
    ConnectEdges,
    DropFromShare,
    DropQueued,
    Effect,
    EndRun,
    Evaluate,
    Finish,
    KeepConnected,
    Offer,
    OpenShare,
    PrepareRun,
    Record,
    Send,
    ShareOver,
    SitOut,
    SkipShare,
    TakeSnapshot,
    Train,
)
from node.core.events import (
    EdgeSettled,
    Evaluated,
    Event,
    Failed,
    ModelSnapshot,
    PeerChange,
    PeerChanged,
    Prepared,
    Progress,
    Received,
    RunEnded,
    SendFailed,
    Sent,
    Started,
    StopRequested,
)
from node.core.handover import to_member, to_peer
from node.core.ids import COORDINATOR, NodeId
from node.core.member import Member
from node.core.messages import PeerMessage
from node.core.model_sync import KINDS
from node.core.outbox import Priority
from node.core.parts import Vector
from node.core.peer import PeerSetting, Phase
from node.core.signals import Hello
from node.errors import EnvironmentFault
from node.sim.compute import lasts
from node.sim.jobs import Jobs
from node.sim.mesh import Mesh
from node.sim.process import Driver, Process
from node.sim.trace import SUFFIX, Life, Traced
from node.units import MILLISECOND, SECOND, Nanos

if TYPE_CHECKING:
    from node.sim.world import World

EVALUATION_NS: Final[Nanos] = 20 * MILLISECOND
"""From a snapshot to the record of what it is worth. An evaluation takes nothing from the training
beside it, as on a machine with a core to spare."""
_SYNC: Final = "\0sync"
"""Begins the keys of model sync in the send queue, as in `node.runtime.local_run`."""


class NodeHost(Process):
    """See the module; `start` begins this life."""

    def __init__(self, world: World, config: NodeConfig, *, incarnation: int) -> None:
        super().__init__(world, config.name)
        self.config = config
        self.incarnation = incarnation
        self._places = world.network.places
        self._near = bytearray(len(self._places))
        """1 for each neighbour, by place: a thousand sets of a thousand names would be 33 MB."""
        for name in config.neighbours:
            self._near[self._places[name]] = 1
        self._member = Driver(
            Member(
                hello=Hello(emulator=Emulator.MODEL.value, applied="{}"),
                deadlines=config.deadlines,
                rounds=config.rounds,
            ),
            process=self,
            perform=self._for_member,
            on_defect=self._member_defect,
        )
        life = Life(
            setting=_setting(world, config),
            algorithm=config.algorithm.name,
            options=config.algorithm.options,
            initial=world.trainers.initial,
        )
        self.machine = life.peer()
        self._peer = Driver(
            Traced(self.machine, life=life, write=self._trace) if config.trace else self.machine,
            process=self,
            perform=self._for_peer,
            on_defect=self.defect,
        )
        rounds = config.rounds or RoundsConfig()
        self.mesh = Mesh(
            network=world.network,
            host=self,
            me=config.name,
            pacing=config.algorithm.pacing,
            deadlines=config.deadlines,
            connection_timeout_ns=rounds.connection_timeout_ns,
            unheard=self.machine.unheard,
        )
        self._line = world.lines[config.name]
        self.jobs = Jobs(world, config.name, done=self._done, fail=self.fail)
        self._newest: tuple[int, float | None, float | None] = (-1, None, None)
        """Round, accuracy and loss of the newest evaluation."""
        self._told: tuple[int, Phase | None, object] = (-1, None, None)
        """What the member machine knows of the run here: round, phase, evaluation."""
        self._begun = False
        self._outside = False
        """The run is under way without this node, which may take part later."""
        self._over = False

    # --- its life

    def start(self, *, former_start: Nanos | None) -> None:
        """Come to life.

        Args:
            former_start: when the run began, if a former life of this node took part in it.
        """
        trainers = self.world.trainers
        trainers.restarted(self.name)
        self.record(
            "process",
            {
                "incarnation": self.incarnation,
                "version": __version__,
                "emulator": Emulator.MODEL.value,
            },
        )
        if former_start is not None:
            self._sit_out(former_start)
        trainer = {
            "parameters": trainers.layout.size,
            "samples": trainers.samples(self.name),
            "label_counts": list(trainers.label_counts(self.name)),
        }
        self.record("trainer", trainer)
        self._member.feed(Started())
        self._line.open(self)

    def leave(self) -> None:
        """As SIGTERM does: say goodbye, and end."""
        self.wake()
        self._member.feed(StopRequested(reason="asked to leave"))

    def crash(self) -> None:
        """As SIGKILL does."""
        self._end(137)

    @property
    def takes_part(self) -> bool:
        """Whether it has a model of the run by now."""
        return self._begun and not self.gone

    @property
    def final(self) -> Vector | None:
        """The model that it has stored at its end; None where the run never began here."""
        return self.machine.parameters if self._begun and self._over else None

    def tick(self) -> None:
        """To be called every now and then."""
        if self.asleep is None:
            if self.began is not None and self.queue.now >= self.began and not self._over:
                self._record_bytes()
            self.flush_refusals()

    def _end(self, status: int) -> None:
        """This life is over."""
        if self.gone:
            return
        self.status, self.asleep = status, None
        self._member.close()
        self._peer.close()
        self.mesh.close()
        self._line.close()
        self.jobs.give_up()

    def failed(self, reason: str) -> None:
        """The run here is over, with what there is of it."""
        self._peer.feed(Failed(reason=reason))
        self._run_over("failed", reason)

    def _member_defect(self, error: Exception) -> None:
        self.defect(error)
        self._end(1)

    # --- events

    def tell(self, event: Event) -> None:
        """To the member machine."""
        self._member.feed(event)

    def from_mesh(self, event: Event) -> None:
        """The peer machine knows only neighbours; the member machine hears who is there, and has
        model sync with anybody."""
        match event:
            case Received():
                self._received(event)
                return
            case Sent(target=about, key=key) | SendFailed(target=about, key=key):
                if key.startswith(_SYNC):
                    return  # who misses it asks again
            case PeerChanged(peer=about, change=change):
                self.record("peer", {"peer": about, "change": change.value})
                self._member.feed(event)
            case EdgeSettled():
                self._member.feed(event)
                return
            case _:
                raise TypeError(f"the mesh says {event}")
        if self._near[self._places[about]]:
            self._feed(event)

    def _received(self, event: Received) -> None:
        message = event.message
        if isinstance(message, PeerMessage) and message.kind in KINDS:
            self._member.feed(event)
        elif not self._near[self._places[event.sender]]:
            self._refuse(event.sender, "a message from one who is no neighbour")
        elif not self._outside:  # of a run in which this node has no part yet
            self._feed(event)

    def _feed(self, event: Event) -> None:
        self._peer.feed(event)
        self._report()

    def _report(self) -> None:
        """Tell the member machine how far the run is, where that is news."""
        machine = self.machine
        round_, phase, newest = self._told
        if machine.round == round_ and machine.phase is phase and self._newest == newest:
            return
        if self._outside:
            return
        self._told = (machine.round, machine.phase, self._newest)
        _, accuracy, loss = self._newest
        self._member.feed(
            Progress(
                phase=machine.phase.value,
                round=machine.round,
                accuracy=accuracy,
                loss=loss,
                model_bytes=self.mesh.traffic.model_sent,
            )
        )

    # --- what the member machine wants

    def _for_member(self, effect: Effect) -> None:
        match effect:
            case Send(message=PeerMessage(), key=key):
                self.mesh.send(_background(effect, key), priority=Priority.BACKGROUND)
            case Send(message=message):
                assert not isinstance(message, PeerMessage)
                self._line.from_member(message)
            case Record(kind="refused", fields=fields):
                self.refuse(str(fields.get("sender", COORDINATOR)), str(fields["reason"]))
            case Record(kind=kind, fields=fields):
                self.record(kind, fields)
            case ConnectEdges():
                self.mesh.connect_edges(effect)
            case KeepConnected(peer=peer):
                self.mesh.keep(peer)
            case OpenShare() | SkipShare() | DropFromShare() | AdoptModel():
                self._feed(to_peer(effect))
            case TakeSnapshot(sync=sync):
                held, model = self.machine.aggregated
                self.tell(ModelSnapshot(sync=sync, held=held, parameters=model))
            case PrepareRun():
                self.mesh.connect(self.config.neighbours)
                self.tell(Prepared(size=self.world.trainers.layout.size))
            case BeginRun(at_wall_ns=at):
                self._set_clock(at)
                self._outside = False
                self.queue.at(max(self.queue.now, at), self._started, at)
            case SitOut(at_wall_ns=at):
                self._sit_out(at)
            case EndRun(reason=reason):
                self._stop(reason)
            case Finish(reason=reason, error=error):
                self._finish(reason, error)
            case _:
                raise TypeError(f"the member machine wants {effect}")

    def _set_clock(self, at: Nanos) -> None:
        if self.began is None:
            self.began = self._peer.zero = at
            # What connecting cost is not the run's.
            self.mesh.traffic.reset()

    def _sit_out(self, at: Nanos) -> None:
        """The run began at this time: answer peers, and take no part until it begins here."""
        self._set_clock(at)
        self._outside = True

    def _started(self, at: Nanos) -> None:
        if self._over or self._begun or self.gone:
            return
        self._begun = True
        self.record("start", {"at_wall": at / SECOND})
        for name in self.config.neighbours:
            if not self.mesh.stream_up(name):
                # Never connected, as far as this life knows: nothing is queued for it.
                self._feed(PeerChanged(peer=name, change=PeerChange.LOST))
        self._feed(Started())

    def _stop(self, reason: str) -> None:
        """End the run here; RunEnded is told when it has ended and is stored."""
        self.record("stop", {"reason": reason})
        if self._over:
            self.tell(RunEnded(reason=reason, round=self.machine.round))
        else:
            self._feed(StopRequested(reason=reason))

    def _finish(self, reason: str, error: str | None) -> None:
        self.flush_refusals()
        self._record_bytes()
        self.record("finish", {"reason": reason, "round": self.machine.round, "error": error})
        self._end(0 if error is None else 1)

    # --- what the peer machine wants

    def _for_peer(self, effect: Effect) -> None:
        match effect:
            case Send():
                self.mesh.send(effect)
            case DropQueued():
                self.mesh.drop(effect)
            case Train():
                took = lasts(
                    self.config.compute,
                    job=effect.job,
                    steps=effect.steps,
                    measured_step_ns=self.world.measured_step_ns,
                )
                self.jobs.hand_in(effect, took)
            case Evaluate():
                self.jobs.hand_in(effect, EVALUATION_NS)
            case Record(kind="evaluation", fields=fields):
                took_s = EVALUATION_NS / SECOND
                self.record("evaluation", {**fields, "seconds": took_s})
                self.world.evaluated()
            case Record(kind="refused", fields=fields):
                self._refuse(NodeId(str(fields["sender"])), str(fields["reason"]))
            case Record(kind=kind, fields=fields):
                self.record(kind, fields)
            case Offer() | ShareOver():
                self.tell(to_member(effect))
            case Finish():
                self._finished(effect)
            case _:
                raise TypeError(f"the peer machine wants {effect}")

    def _done(self, event: Event) -> None:
        """A job is done."""
        if isinstance(event, Evaluated) and event.round >= self._newest[0]:
            self._newest = (event.round, event.accuracy, event.loss)
        self._feed(event)

    def _finished(self, finish: Finish) -> None:
        """The machine is done: store the model, unless it is the initial one, then tell."""
        assert finish.parameters is not None
        error = finish.error
        if self._begun:
            model = finish.parameters.astype("<f4", copy=False).tobytes()
            try:
                self.world.records.store(f"nodes/{self.name}.f32", model)
            except EnvironmentFault as fault:
                error = error or str(fault)
            self._record_bytes()
            for fields in self.mesh.traffic.latency_records():
                self.record("latency", fields)
        self._run_over(finish.reason, error)

    def _run_over(self, reason: str, error: str | None) -> None:
        if self._over:
            return
        self._over = True
        if error is not None:
            self.tell(Failed(reason=error))
        self.tell(RunEnded(reason=reason, round=self.machine.round))

    # --- records

    def _trace(self, frame: bytes) -> None:
        self.world.records.append(f"nodes/{self.name}{SUFFIX}", frame)

    def _record_bytes(self) -> None:
        queued, wire = self.mesh.queued_model_bytes(), self.mesh.wire()
        self.record("bytes", self.mesh.traffic.record(queued=queued, wire=wire))

    def _refuse(self, peer: NodeId, reason: str) -> None:
        self.mesh.refused(peer, reason)
        self.refuse(peer, reason)


def _setting(world: World, config: NodeConfig) -> PeerSetting:
    rounds = config.rounds or RoundsConfig()
    return PeerSetting(
        me=config.name,
        peers=config.neighbours,
        members=len(world.coordinator_config.members),
        seed=config.seed,
        layout=world.trainers.layout,
        stop=config.stop,
        evaluate_every=config.training.evaluate_every,
        mode=rounds.mode,
        share_ns=rounds.share_ns,
        samples=world.trainers.samples(config.name),
        batch_size=config.training.batch_size,
    )


def _background(effect: Send, key: str) -> Send:
    """A message of model sync, behind those of the algorithm."""
    return Send(target=effect.target, message=effect.message, key=_SYNC + key)
