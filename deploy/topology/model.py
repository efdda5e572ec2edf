"""What people write in a topology file, as frozen pydantic models (docs/topology.md).

This module knows keys, types, units and defaults; `settings.py` those of what is run. What several
keys mean together is checked in `checks.py` and computed in `expand.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from deploy.topology.quantities import (
    NAME_PATTERN,
    Chance,
    Count,
    Delay,
    Duration,
    Loss,
    Memory,
    Moment,
    Name,
    Positive,
    Queue,
    Rate,
    Seed,
    Share,
    checked_name,
)
from deploy.topology.settings import Algorithm, Deadlines, Signaling, Stop, Strict, Training
from node.config import LinkPolicy, Mode

SHORTHAND_GROUP: Final = "n"
"""`nodes: 3` is a group of this name."""
EXPERIMENT_PATTERN: Final = "[a-z0-9][a-z0-9_-]{0,39}"

ShapeName = Literal[
    "ring", "line", "star", "full", "grid", "tree", "random-regular", "small-world", "scale-free"
]
OverlayShape = Literal["network", ShapeName]


# Nodes ------------------------------------------------------------------------------------------


class BurstLoss(Strict):
    """Loss in bursts: a good and a bad state, one step a packet (Gilbert-Elliott)."""

    enter: Chance
    """Probability to go from the good to the bad state."""
    leave: Chance
    """Probability to come back; a burst is 1/leave packets long on average."""
    bad: Share = 1.0
    """Packets lost in the bad state; default 100%."""
    good: Loss = 0.0
    """Packets lost in the good state; default 0%."""


class Slots(Strict):
    """Packets leave in batches, as from a radio that has its turn now and then."""

    least: Delay
    """Shortest pause between two batches."""
    most: Delay
    """Longest pause between two batches."""


class LinkOptions(Strict):
    """One direction of a link. A key that is not given is taken from the more general place."""

    rate: Rate = None
    """How fast, such as `10mbit`, or `unlimited` (the default)."""
    delay: Delay = 0
    """One-way delay; default 0ms."""
    jitter: Delay = 0
    """Standard deviation of a normal distribution around `delay`; default 0ms."""
    loss: Loss = 0.0
    """Packets lost at random; default 0%."""
    burst: BurstLoss | None = None
    """Packets lost in bursts, on top of `loss`."""
    duplicate: Loss = 0.0
    """Packets that arrive twice; default 0%."""
    corrupt: Loss = 0.0
    """Packets in which a bit is flipped; default 0%."""
    reorder: Loss = 0.0
    """Packets that skip the delay and overtake those that wait; default 0%."""
    order: Literal["keep", "free"] = "keep"
    """free: packets overtake each other where the jitter has it so; default keep."""
    queue: Queue | None = None
    """What the link buffers before it drops; default 100 ms or a round trip, whichever is more."""
    slot: Slots | None = None
    """Packets leave in batches."""

    def given(self) -> dict[str, Any]:
        """What the file says here, without defaults."""
        return {k: getattr(self, k) for k in LinkOptions.model_fields if k in self.model_fields_set}

    def over(self, base: LinkOptions) -> LinkOptions:
        """These options where given, those of `base` elsewhere."""
        return LinkOptions.model_construct(**{**base.given(), **self.given()})


class NodeLink(LinkOptions):
    """How a node's own links differ from `network.link`; `up` and `down` for one direction only."""

    up: LinkOptions = LinkOptions()
    """From the node into the network."""
    down: LinkOptions = LinkOptions()
    """From the network to the node."""


class Compute(Strict):
    """How long a training step takes."""

    step: Duration | None = None
    """A step takes at least this long; default: as long as it takes."""
    trace: Annotated[str, Field(min_length=1)] | None = None
    """Instead of `step`: a text file of durations, relative to the topology file. A step takes the
    first in a node's first training job, the second in the next, and from the top again."""
    speed: Positive = 1.0
    """0.5 makes every step take twice as long."""


class Group(Strict):
    """One node, or several alike. An integer is short for `replicas`."""

    replicas: Count | None = None
    """Nodes `<name>-0`, `<name>-1`, ...; without it, one node called `<name>`."""
    cpus: Positive | None = None
    """Cores that a container may use, such as 0.5; default: all."""
    memory: Memory | None = None
    """Memory that a container may use, such as `512MiB`; default: all."""
    compute: Compute = Compute()
    """How long a training step takes."""
    link: NodeLink = NodeLink()
    """How this node's links differ from `network.link`."""
    forwards: Annotated[bool, Field(strict=True)] = False
    """A router, too: paths between others may lead through this node."""
    share: Annotated[bool, Field(strict=True)] = False
    """All replicas together have one instance of each link of the group, behind a bridge of their
    own, instead of one each."""
    standby: Annotated[bool, Field(strict=True)] = False
    """Not there from the start: an event `join`, or `deploy add`, starts it."""


def _group(value: object) -> object:
    """A group's shorthands: nothing is one node, a number is replicas."""
    if value is None:
        return {}
    return {"replicas": value} if isinstance(value, int) else value


def _nodes(value: object) -> object:
    return {SHORTHAND_GROUP: {"replicas": value}} if isinstance(value, int) else value


def spelled_out(nodes: object) -> object:
    """The value of `nodes` without its shorthands, so that single keys can be set in it."""
    groups = _nodes(nodes)
    return {k: _group(v) for k, v in groups.items()} if isinstance(groups, dict) else groups


GroupEntry = Annotated[Group, BeforeValidator(_group, json_schema_input_type=Group | Count | None)]
Groups = Annotated[
    dict[Name, GroupEntry],
    Field(min_length=1),
    BeforeValidator(_nodes, json_schema_input_type=dict[Name, GroupEntry] | Count),
]


# Network and overlay ----------------------------------------------------------------------------


class ShapeOptions(Strict):
    """A graph by name. Nodes stand in name order (n-2 before n-10)."""

    degree: Count | None = None
    """random-regular, small-world: neighbours of a node. scale-free: links of a newcomer."""
    rewire: Share | None = None
    """small-world: share of the ring's links that are rewired at random; default 10%."""
    branching: Count | None = None
    """tree: children of a node; default 2."""
    columns: Count | None = None
    """grid: nodes in a row; default: as square as can be."""
    seed: Seed | None = None
    """Of a random shape; default: the file's `seed`."""


class LinkEntry(LinkOptions):
    """One link, or, where an end names a group, one for each of its nodes."""

    source: Name = Field(alias="from")
    """A node, a group or a bridge."""
    target: Name = Field(alias="to")
    """A node, a group or a bridge."""
    back: LinkOptions = LinkOptions()
    """How the way back (`to` -> `from`) differs."""
    oneway: Annotated[bool, Field(strict=True)] = False
    """No way back."""


class Network(ShapeOptions):
    """What is connected to what: a `shape`, or `bridges` and `links`. Only bridges forward."""

    shape: ShapeName | None = None
    """star: a switch in the middle, a link to it for each node. All others: direct links."""
    link: LinkOptions = LinkOptions()
    """What every link is like unless something more special says otherwise."""
    bridges: tuple[Name, ...] = ()
    """Switches: forward between their links, hold no node."""
    links: tuple[LinkEntry, ...] = ()
    """Links between nodes and bridges."""
    metric: Literal["hop", "latency"] = "hop"
    """Which path is the shortest; ties go to fewer hops, then to the first in name order."""


class Overlay(ShapeOptions):
    """Who exchanges with whom. Text is short for `shape`."""

    shape: OverlayShape | None = None
    """network (the default): all pairs that have a path, which on direct links means neighbours."""
    center: Name | None = None
    """star: the node in the middle; default the first in name order."""
    edges: tuple[Annotated[tuple[Name, Name], Field(strict=False)], ...] = ()
    """Pairs of nodes or groups, instead of a shape."""


def _overlay(value: object) -> object:
    return {"shape": value} if isinstance(value, str) else value


OverlayEntry = Annotated[
    Overlay, BeforeValidator(_overlay, json_schema_input_type=Overlay | OverlayShape)
]


# Events -----------------------------------------------------------------------------------------

Ends = tuple[Name, Name]
NODE_ACTIONS: Final = ("join", "leave", "crash", "pause", "resume", "restart", "return")


def _affected(value: object) -> Ends | str:
    ends = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(ends) > 2 or not all(isinstance(name, str) for name in ends) or value in ([], ()):
        raise ValueError("expected a name, or a link by its two ends, such as [a, b]")
    names = [checked_name(str(name)) for name in ends]
    if isinstance(value, str):
        return names[0]
    if len(names) == 1:
        raise ValueError(f"expected two names, such as [{names[0]}, b], or one without brackets")
    return names[0], names[1]


_NAME_SCHEMA: Final = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "title": "name"}
Affected = Annotated[
    Ends | str,
    PlainValidator(_affected),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": _NAME_SCHEMA, "minItems": 2, "maxItems": 2},
                _NAME_SCHEMA,
            ]
        }
    ),
]
"""A link by its two ends, or everything that hangs on a bridge, a node or a group."""


class Event(Strict):
    """One thing that happens `at` a time, or again and again between `from` and `until`.

    Times are on the run clock, which starts with the training. Exactly one of the actions is
    given: `link` (with `set`), `down`, `up`, `partition`, `heal`, `join`, `leave`, `crash`,
    `pause`, `resume`, `restart`, `return`; or, between two times, `flap` or `churn`.
    """

    at: Moment | None = None
    """When, such as `10s`."""
    since: Moment | None = Field(default=None, alias="from")
    """flap, churn: when it begins."""
    until: Moment | None = None
    """flap, churn: when it ends; all is up again then."""

    link: Ends | None = None
    """The link that `set` changes: both ways, as in `network.links`."""
    set: LinkOptions = LinkOptions()
    """link: what is different from now on; a key that is not given stays as it is."""
    back: LinkOptions = LinkOptions()
    """link: how the way back differs from `set`."""
    oneway: Annotated[bool, Field(strict=True)] = False
    """link, down, up: only from the first to the second end."""
    down: Affected | None = None
    """Takes a link away, or all links of a bridge, a node or the nodes of a group."""
    up: Affected | None = None
    """Brings back what `down` took away."""
    partition: tuple[tuple[Name, ...], ...] | None = None
    """Nodes and groups in several parts: no path leads from one to another. Nodes that are not
    named form a part of their own."""
    heal: Literal[True] | None = None
    """Ends the partition."""

    join: Name | None = None
    """A node (or a group) that was not there is started, comes into the network and takes part."""
    leave: Name | None = None
    """A node (or a group) goes in order."""
    crash: Name | None = None
    """A node (or a group) is killed."""
    pause: Name | None = None
    """All processes of a node (or a group) stand still."""
    resume: Name | None = None
    """Ends a pause."""
    restart: Name | None = None
    """A node (or a group) is killed and started again."""
    comeback: Name | None = Field(default=None, alias="return")
    """A node (or a group) that has left or crashed is started again and takes part."""
    count: Count | None = None
    """join to return, of a group: so many of its nodes, drawn at random; default: all."""

    flap: Affected | None = None
    """Goes down for `lasting` in every `every`."""
    churn: Name | None = None
    """In every `every`, a `share` of a group's nodes, drawn at random, is off the network for
    `lasting`."""
    every: Duration | None = None
    """flap, churn: the period."""
    lasting: Duration | None = Field(default=None, alias="for")
    """flap, churn: how long something is down; at most the period."""
    share: Share | None = None
    """churn: how many of the nodes."""
    random: Annotated[bool, Field(strict=True)] = False
    """flap: the times are drawn (exponential, with the same means)."""
    seed: Seed | None = None
    """flap, churn, count: of what is drawn; default: the file's `seed`."""

    def given(self) -> frozenset[str]:
        """The keys that the file gives, as it writes them."""
        return frozenset(EVENT_KEYS[field] for field in self.model_fields_set)

    def of(self, action: str) -> Any:
        """What an action is about; None where it is another's event."""
        return getattr(self, _EVENT_FIELDS[action])


EVENT_KEYS: Final = {name: field.alias or name for name, field in Event.model_fields.items()}
"""From a field to the key in the file; some keys are no names in Python."""
_EVENT_FIELDS: Final = {key: name for name, key in EVENT_KEYS.items()}


# The whole --------------------------------------------------------------------------------------


def _experiment(name: str) -> str:
    if not re.fullmatch(EXPERIMENT_PATTERN, name):
        raise ValueError(f"{name!r} is not a name: up to 40 of a-z, 0-9, - and _")
    return name


Experiment = Annotated[
    str,
    AfterValidator(_experiment),
    WithJsonSchema({"type": "string", "pattern": f"^{EXPERIMENT_PATTERN}$"}),
]


class TopologyFile(Strict):
    """A peerbed topology: nodes, network, who exchanges with whom, what is learnt, when to stop."""

    name: Experiment
    """Of the experiment, the folder under results/; default: the file's name."""
    seed: Seed = 1
    """Everything random is drawn from it."""
    nodes: Groups
    """Nodes and groups of nodes by name; a number is short for that many nodes `n-0`, `n-1`, ..."""
    network: Network
    """What is connected to what, and how fast."""
    overlay: OverlayEntry = Overlay()
    """Who exchanges with whom."""
    events: tuple[Event, ...] = ()
    """What happens to links and nodes while the run goes on."""
    algorithm: Algorithm
    """What they do."""
    training: Training = Training()
    """What they learn."""
    stop: Stop
    """When they stop."""
    mode: Mode | None = None
    """sync: a barrier before each round's sharing. async: one at the start, then only for the edges
    of nodes that come. Default: the algorithm's own."""
    signaling: Signaling = Signaling()
    """Barriers: when they open, and what becomes of connections that cannot be set up."""
    links: LinkPolicy = LinkPolicy.WARN
    """What a link that measures wrong does: strict stops before training, warn makes the verdict
    invalid, off does not measure."""
    deadlines: Deadlines = Deadlines()
    """How long to wait for what."""
    trace: tuple[Name, ...] = ()
    """Nodes and groups of which every event is stored, with its arrays, for `deploy replay`."""
