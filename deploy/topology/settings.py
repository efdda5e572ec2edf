"""What is run, as people write it: algorithm, data, rounds, when to stop, how long to wait (pure).

The parts of a topology file that are not about the network; see `model.py` for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

from deploy.topology.presets import PRESETS
from deploy.topology.quantities import (
    Accuracy,
    Chance,
    Count,
    Duration,
    NotNegative,
    Positive,
    Size,
)
from node import algorithms, config
from node.config import Pacing, TrainingConfig, Unreachable
from node.training import catalog
from node.units import SECOND


class Strict(BaseModel):
    """A mapping in the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


def _one_of(names: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    """A check that a text is one of the names known when it is asked."""

    def check(text: str) -> str:
        if text not in (known := names()):
            expected = ", ".join(map(repr, known))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return text

    return check


class Algorithm(Strict):
    """The algorithm and its options, which are the fields of its `Config`."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, AfterValidator(_one_of(algorithms.names))]
    """A name that `deploy schema` lists."""
    pacing: Pacing = Pacing.SEQUENTIAL
    """sequential: one message at a time, in queue order; parallel: one at a time to each peer."""

    @property
    def options(self) -> dict[str, Any]:
        """What the file sets of the algorithm's own options."""
        return dict(self.model_extra or {})


class Partition(Strict):
    """How the training samples are dealt out to the nodes."""

    kind: Literal["iid", "shards", "dirichlet", "user"] = "iid"
    """iid: evenly. shards: sorted by label, cut, dealt. dirichlet: label shares drawn per node.
    user: all samples of some users; a node is tested on its own users' alone."""
    shards: Count = 2
    """shards: pieces that a node gets."""
    alpha: Positive = 0.5
    """dirichlet: concentration; small is skewed."""


def _model(name: str) -> str:
    """A model of ours, or a user's own."""
    known = _one_of(lambda: (*catalog.MODELS, "module:function"))
    return name if catalog.OWN_MODEL.fullmatch(name) else known(name)


class Training(Strict):
    """What is learnt, and how."""

    preset: Annotated[str, AfterValidator(_one_of(lambda: tuple(PRESETS)))] | None = None
    """A published set-up: what stands here for keys that the file leaves out."""
    dataset: Annotated[str, AfterValidator(_one_of(lambda: catalog.DATASETS))] = "digits"
    """Name of a data set."""
    model: Annotated[str, AfterValidator(_model)] = "mlp"
    """Name of a model, or a function of your own, module:function."""
    batch_size: Count = 16
    """Samples in a training step."""
    learning_rate: Positive = 0.1
    """Step size of SGD."""
    momentum: NotNegative = 0.0
    """Of SGD."""
    weight_decay: NotNegative = 0.0
    """Of SGD."""
    partition: Partition = Partition()
    """How the training samples are dealt out."""
    data_dir: str | None = None
    """Folder (or file) of a data set that is not embedded; relative to the topology file."""
    context: Count = TrainingConfig().context
    """text: characters of a piece."""
    evaluate_every: Count = 1
    """Rounds between two evaluations on the test set."""
    test_samples: Count | None = None
    """As many samples of the test set are evaluated, the same for all nodes; default all."""
    message_size: Size | None = None
    """In virtual time a whole model counts for so many bytes on the links; default what it has."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """What the preset says, under what the file says."""
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS[preset], **given} if preset in PRESETS else given


class Stop(Strict):
    """When the run ends: at the first of these. At least one is given."""

    rounds: Count | None = None
    """Every node has ended this many rounds."""
    time: Duration = 600 * SECOND
    """On the run clock, which starts after the links are measured; default 10min."""
    accuracy: Accuracy | None = None
    """Mean test accuracy of the nodes, such as `95%`."""


_ROUNDS: Final = config.RoundsConfig()


class Signaling(Strict):
    """Barriers among peers: see docs/signaling.md."""

    max_connection_retry: Annotated[int, Field(strict=True, ge=0, le=1000)] = (
        _ROUNDS.max_connection_retry
    )
    """Attempts at a barrier's connections after the first one."""
    connection_timeout: Duration = _ROUNDS.connection_timeout_ns
    """For all connections of one attempt; default 5s."""
    unreachable: Unreachable | None = None
    """What is given up when connections cannot be set up. edges: these connections; peers: the
    fewest nodes that explain them, which leave. Default: peers where the overlay connects all with
    all, else edges."""
    min_participants: Count | None = None
    """With fewer nodes a barrier waits; default 2."""
    quorum: Chance = _ROUNDS.quorum
    """Share of those expected that is enough for a round once `gather` is over; default 50%."""
    gather: Duration = _ROUNDS.gather_ns
    """From the first node that is ready in a round to doing without the others; default 1min."""
    share: Duration = _ROUNDS.share_ns
    """From the start of sharing to aggregating what has arrived; default 1min."""
    sync: Duration = _ROUNDS.sync_ns
    """A node that serves the model to a newcomer is replaced when nothing arrives for so long;
    default 10s."""


_WAITS: Final = config.Deadlines()


class Deadlines(Strict):
    """How long to wait for what."""

    join: Duration = _WAITS.join_ns
    """Until every node has said hello; default 90s."""
    links: Duration = _WAITS.links_ns
    """For measuring all links, three tries included; default 2min."""
    ready: Duration = _WAITS.ready_ns
    """Until every node is ready to train; default 2min."""
    stop: Duration = _WAITS.stop_ns
    """Until every node has left after the end; default 20s."""
    heartbeat: Duration = _WAITS.heartbeat_ns
    """Between two signs of life of a node; default 500ms."""
    lease: Duration = _WAITS.lease_ns
    """A node silent for this long counts as lost; default 10s."""
    peer: Duration = _WAITS.peer_ns
    """A peer out of reach for this long fails what is queued to it; default 10s."""
    coordinator: Duration = _WAITS.coordinator_ns
    """A node that cannot reach the coordinator for this long ends; default 1min."""
