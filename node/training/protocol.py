"""What the node process and the trainer process say to each other. Pure: no torch, no I/O.

The trainer reads requests from its standard input and writes answers to its standard output: one
line each, the kind, a space, canonical JSON, a newline. Parameters do not travel in them: both ends
map one memfd of three float32 vectors (`Slot`), which the node process creates empty and hands
down, and the trainer sizes as soon as it knows its model.

    node process                          trainer process
      Assignment  ------------------------>  loads data and model, initial vector to slot OUT
                  <------------------------  Ready
      slot IN, TrainRequest  ------------->  one at a time
                  <------------------------  Working now and then, slot OUT, TrainAnswer
      slot EVAL, EvaluateRequest  -------->  one at a time, beside the training
                  <------------------------  EvaluateAnswer
                  <------------------------  Fault instead of any answer
      closes the pipe  ------------------->  exits

A worker of the simulator's pool has the same entry and the same life, other memory (`bank.Bank`),
and does one thing after the other:

    simulator                             worker
      Enlistment  ------------------------>  loads data and model
                  <------------------------  Enlisted
      models into slots, TrainWork or
        EvaluateWork, a few at a time  --->
                  <------------------------  Working now and then, models into slots, WorkDone
      Measure  --------------------------->
                  <------------------------  Measured
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol, TypeAlias

from node.config import ComputeConfig, TrainingConfig, from_json, to_json
from node.core.parts import Layout, Vector
from node.units import Nanos


class Slot(IntEnum):
    """Position of a vector in the shared memory."""

    IN = 0
    OUT = 1
    EVAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a trainer is told. `node` None: it only evaluates and gets no training samples.

    Args:
        node: names the node's stream of minibatches.
        index, nodes: its share of the partition.
        seed: the run's.
        parent: process id that the trainer must not outlive.
    """

    node: str | None
    index: int
    nodes: int
    seed: int
    parent: int
    training: TrainingConfig
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShape:
    """One tensor of the model, in the order of the flat vector."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The trainer is up; its initial vector lies in slot OUT.

    Args:
        samples: training samples of this node.
        label_counts: how many of them have each label.
        test_samples: size of the test set.
    """

    tensors: tuple[TensorShape, ...]
    samples: int
    label_counts: tuple[int, ...]
    test_samples: int

    @property
    def layout(self) -> Layout:
        return Layout.of({tensor.name: tensor.shape for tensor in self.tensors})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """`since`: see `Trainer.train`."""

    job: int
    steps: int
    since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """Sent about once a second by a job that is still on: silence means that it hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAnswer:
    """Times in seconds; see `TrainResult`."""

    job: int
    steps: int
    loss: float
    compute_s: float
    padded_s: float
    late_s: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateAnswer:
    round: int
    accuracy: float
    loss: float
    seconds: float


class FaultKind(StrEnum):
    """Whose fault: picks the class of `node.errors` that the node process raises."""

    CONFIG = "config"
    ENVIRONMENT = "environment"
    DIVERGED = "diverged"


class Stage(StrEnum):
    """Which request a fault answers."""

    SETUP = "setup"
    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong with one request. Defects of the trainer are no faults: it ends with a
    traceback on its standard error."""

    stage: Stage
    kind: FaultKind
    message: str
    where: str | None = None
    remedy: str | None = None


class Device(StrEnum):
    """What a simulation trains on."""

    AUTO = "auto"
    """A GPU if torch finds one, else the CPU."""
    CPU = "cpu"
    """A pool of processes, each with one thread and one model at a time."""
    CUDA = "cuda"
    """One process that trains many models in one call (`batched`) on a GPU."""
    BATCHED = "batched"
    """The same on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlistment:
    """All that a worker of the simulator's pool is told. It works for any of the nodes.

    Args:
        nodes: how many there are; a node is named by its place among them.
        parent: process id that the worker must not outlive.
    """

    nodes: int
    seed: int
    parent: int
    training: TrainingConfig
    device: Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlisted:
    """The worker is up; the initial vector lies in the first model of its `bank.Bank`.

    Args:
        device: never AUTO.
        slots: jobs that it can be given at a time.
    """

    tensors: tuple[TensorShape, ...]
    device: Device
    slots: int

    @property
    def layout(self) -> Layout:
        return Layout.of({tensor.name: tensor.shape for tensor in self.tensors})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainWork:
    """Train the models in these slots, each on the batches beside it; results replace them."""

    slots: tuple[int, ...]
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateWork:
    """Evaluate the models in these slots, each on the test samples of the node at the same place
    in `nodes`; None: everybody's."""

    slots: tuple[int, ...]
    nodes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Find out how long a step takes on one CPU core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one job. `fault`: why it has no result."""

    loss: float = 0.0
    accuracy: float = 0.0
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDone:
    """Answers `TrainWork` and `EvaluateWork`, in the order in which they were given.

    Args:
        outcomes: one for each slot.
        cpu_s: CPU time that it took.
    """

    outcomes: tuple[Outcome, ...]
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Median wall time of a step."""

    step_ns: Nanos


Request: TypeAlias = TrainRequest | EvaluateRequest
Answer: TypeAlias = Ready | Working | TrainAnswer | EvaluateAnswer | Fault
Work: TypeAlias = TrainWork | EvaluateWork | Measure
Report: TypeAlias = Enlisted | Working | WorkDone | Measured | Fault
Message: TypeAlias = Assignment | Request | Answer | Enlistment | Work | Report

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Assignment,
        Ready,
        TrainRequest,
        EvaluateRequest,
        Working,
        TrainAnswer,
        EvaluateAnswer,
        Fault,
        Enlistment,
        Enlisted,
        TrainWork,
        EvaluateWork,
        Measure,
        WorkDone,
        Measured,
    )
}


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return f"{type(message).__name__} {to_json(message)}\n".encode()


def decode(line: bytes) -> Message:
    """Read a line back.

    Raises:
        ValueError: not a line of this protocol.
        ConfigError: a field that is missing, extra or of a wrong type.
    """
    kind, _, text = line.decode().partition(" ")
    if kind not in _KINDS:
        raise ValueError(f"not a line of the trainer protocol: {line[:200]!r}")
    message: Message = from_json(_KINDS[kind], text)
    return message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """A finished training job.

    Args:
        parameters: the new model, read-only, owned by the receiver.
        loss: mean over the job's steps, each before its update.
        compute_s: wall seconds that the computing took.
        padded_s: seconds waited in addition, so that the job lasted as long as modelled.
        late_s: seconds by which the computing took longer than modelled: above zero, the machine
            is too slow for the compute time that the run asks for.
        ended: when the job was over as modelled, or in fact where that was later; monotonic s.
    """

    job: int
    parameters: Vector
    loss: float
    steps: int
    compute_s: float
    padded_s: float
    late_s: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """A model's share of right answers on the test set and its mean loss there.

    Args:
        seconds: wall time of the evaluation itself.
    """

    round: int
    accuracy: float
    loss: float
    seconds: float


class Trainer(Protocol):
    """What the runtime needs of a trainer: `client.TrainerProcess`, `synthetic.SyntheticTrainer`.

    `train` is called for one job at a time, `evaluate` at any time beside it.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def initial(self) -> Vector:
        """The model that every node starts from; read-only."""

    @property
    def samples(self) -> int: ...

    @property
    def label_counts(self) -> tuple[int, ...]: ...

    async def train(
        self, *, job: int, steps: int, parameters: Vector, since: float | None = None
    ) -> TrainResult:
        """Run a job of some steps from `parameters`.

        Args:
            since: when the job begins as modelled, monotonic s: what the node did between that and
                this call is part of the time that was asked for. None, or where no time was asked
                for: when it begins in fact.
        """

    async def evaluate(self, *, round: int, parameters: Vector) -> EvalResult | None:  # noqa: A002
        """None: not done, because too many newer ones were asked for meanwhile."""

    async def close(self) -> None: ...
