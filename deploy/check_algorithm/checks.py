"""What must hold of every algorithm, and what to do where it does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from deploy.check_algorithm.case import CALM, Broken, Case, Faults
from deploy.check_algorithm.digest import digest, digests_elsewhere
from deploy.check_algorithm.network import Network
from deploy.check_algorithm.subject import Subject, plain
from node.algorithms import configure
from node.core.ids import NodeId
from node.errors import ConfigError
from node.sim.snapshot import NotStorable, dump, load
from node.units import MILLISECOND

ROUNDS: Final = 12
_MUST_FALL_TO: Final = 0.5
"""Of the loss at the start: training alone brings it to a tenth."""
_FEW: Final = 4
_SLOW: Final = 10


class Outcome(Enum):
    """How a check ended."""

    PASS = "pass"
    FAIL = "FAIL"
    SKIPPED = "-"
    """It does not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one check, over all seeds.

    Args:
        seen: what was found.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    outcome: Outcome
    seen: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is checked, and how much."""

    subject: Subject
    case: Case
    nodes: int
    seeds: Sequence[int]

    @property
    def last(self) -> NodeId:
        """The node to which things happen; never the hub of a star."""
        return tuple(self.case.overlay)[-1]


class Skip(Exception):
    """The check does not apply; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold.

    Args:
        run: for one seed; returns what it saw, raises Broken or Skip.
        remedy: what to do if it does not hold.
        seeds_max: of so many seeds at most; None: of all.
    """

    name: str
    run: Callable[[Setting, int], str]
    remedy: str
    seeds_max: int | None = None


def check_all(setting: Setting) -> list[Result]:
    """Run every check."""
    return [result(check, setting) for check in CHECKS]


def result(check: Check, setting: Setting) -> Result:
    """Run one check with each seed, until it fails with one."""
    seen = ""
    for seed in setting.seeds[: check.seeds_max]:
        try:
            seen = check.run(setting, seed)
        except Skip as reason:
            return Result(name=check.name, outcome=Outcome.SKIPPED, seen=str(reason))
        except Broken as broken:
            return Result(
                name=check.name, outcome=Outcome.FAIL, seen=str(broken), remedy=check.remedy
            )
    return Result(name=check.name, outcome=Outcome.PASS, seen=seen)


# The checks --------------------------------------------------------------------------------------


def _options(setting: Setting, seed: int) -> str:
    kind = setting.subject.kind
    params = getattr(kind.Config, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise Broken(f"{kind.__name__}.Config is no frozen dataclass")
    config = setting.subject.config
    try:
        again = configure(kind, json.loads(json.dumps(plain(config))))
    except (TypeError, ValueError, ConfigError) as error:
        raise Broken(f"its options do not survive a plan: {error}") from error
    if again != config:
        raise Broken(f"{config} became {again} on its way through a plan")
    count = len(dataclasses.fields(config))
    return f"{count} option{'s' * (count != 1)}"


def _clean(setting: Setting, seed: int) -> str:
    """Nothing goes wrong: rounds end, and what is learnt gets better."""
    network = _ran(setting, seed)
    left = network.loss_left
    if left > _MUST_FALL_TO:
        raise Broken(
            f"after {ROUNDS} rounds the loss is {left:.2f} of what it was (seed {seed}); training"
            " alone brings it to a tenth or less"
        )
    if not network.sent:
        return f"loss down to {left:.3f}, but it never sent anything"
    each = network.bytes / sum(network.rounds().values()) / network.toy.initial.nbytes
    return (
        f"loss down to {left:.3f}, models {network.apart:.2f} as far apart as without exchange,"
        f" {each:.2g} models sent a round"
    )


def _with(faults: Faults) -> Callable[[Setting, int], str]:
    """Rounds end and the loss falls in spite of these."""

    def check(setting: Setting, seed: int) -> str:
        network = _ran(setting, seed, faults)
        left = network.loss_left
        if left > _MUST_FALL_TO:
            raise Broken(
                f"after {ROUNDS} rounds the loss is {left:.2f} of what it was (seed {seed})"
            )
        return f"loss down to {left:.3f}"

    return check


def _vanishing(setting: Setting, seed: int) -> str:
    if not _ran(setting, seed).datagrams:
        raise Skip("it sends no datagrams")
    return _with(Faults(vanish=0.3))(setting, seed)


def _leaves_and_comes_back(setting: Setting, seed: int) -> str:
    network = Network(setting.case, seed=seed)
    network.run(_FEW)
    network.go(setting.last)
    network.run(2 * _FEW)
    network.come(setting.last)
    network.run(ROUNDS + _FEW)
    network.end()
    return f"the others went on, and it ended {network.rounds()[setting.last]} rounds"


def _newcomer(setting: Setting, seed: int) -> str:
    network = Network(setting.case, seed=seed, absent=[setting.last])
    network.run(_FEW)
    network.come(setting.last)
    network.run(ROUNDS)
    network.end()
    return f"it ended {network.rounds()[setting.last]} rounds"


def _slow_node(setting: Setting, seed: int) -> str:
    network = Network(setting.case, seed=seed, faults=Faults(slow=_SLOW))
    fast = [name for name in network.there if name != setting.last]
    network.run(ROUNDS, nodes=fast)
    slow = network.rounds()[setting.last]
    network.run(max(1, slow), nodes=[setting.last])
    network.end()
    how = "they wait for it" if slow > ROUNDS // 2 else "they do not wait for it"
    return f"{slow} rounds of a node {_SLOW} times slower in {ROUNDS} of the others: {how}"


def _neighbours(setting: Setting, seed: int) -> str:
    try:
        network = _ran(setting, seed)
    except Broken as broken:
        if "is not a neighbour" in str(broken):
            raise
        raise Skip("it did not get that far") from broken
    return f"{sum(network.sent.values())} messages"


def _nonsense(setting: Setting, seed: int) -> str:
    """Whatever comes, it goes on, and its model stays finite."""
    network = _ran(setting, seed, Faults(nonsense=0.4))
    if not network.sent:
        raise Skip("it sends nothing")
    refused = sum(len(network.records(name, "refused")) for name in network.there)
    return f"it went on; {refused} messages were refused aloud"


def _same_again(setting: Setting, seed: int) -> str:
    one, other = digest(setting.case, seed), digest(setting.case, seed)
    if one != other:
        raise Broken(
            f"two runs with seed {seed} differ: it uses randomness, time or state of its own"
        )
    found = digests_elsewhere(
        setting.subject, nodes=setting.nodes, mode=setting.case.mode, seed=seed
    )
    if len({one, *found.values()}) > 1:
        raise Broken(
            f"runs with seed {seed} differ with PYTHONHASHSEED: something hangs on the order of a"
            " set, or on hash()"
        )
    return "same seed, same run; also with another PYTHONHASHSEED"


def _storable(setting: Setting, seed: int) -> str:
    network = Network(setting.case, seed=seed)
    network.run(2)
    algorithm, modules = network.algorithm(setting.last), (setting.subject.package,)
    try:
        stored = dump(algorithm, name="algorithm", modules=modules)
        load(stored, where="the checkpoint", modules=modules)
    except NotStorable as error:
        raise Broken(str(error)) from error
    return f"{len(stored)} bytes"


def _ran(setting: Setting, seed: int, faults: Faults = CALM) -> Network:
    network = Network(setting.case, seed=seed, faults=faults)
    network.run(ROUNDS)
    network.end()
    return network


CHECKS: Final = (
    Check(
        name="options",
        run=_options,
        seeds_max=1,
        remedy="make Config a frozen dataclass of numbers, texts, flags and enums, with defaults",
    ),
    Check(
        name="clean run",
        run=_clean,
        remedy="each handler must lead to the next ctx.train or to a timer; call ctx.end_round once"
        " a round, and ctx.set_parameters with what was trained and averaged",
    ),
    Check(
        name="neighbours only",
        run=_neighbours,
        remedy="choose recipients from ctx.peers",
    ),
    Check(
        name="loss, reliable",
        run=_with(Faults(held_up=0.1)),
        remedy="a message may come a second late: nothing may rest on its coming in time",
    ),
    Check(
        name="connections that break",
        run=_with(Faults(broken=0.1)),
        remedy="what is waited for may never come: handle on_send_failed and on_peer, or set a"
        " timer",
    ),
    Check(
        name="loss, datagrams",
        run=_vanishing,
        remedy="nobody is told of a lost datagram: set a timer, or send it as Delivery.RELIABLE",
    ),
    Check(
        name="reordering",
        run=_with(Faults(overtake_ns=300 * MILLISECOND)),
        remedy="compare message.round; do not count on an order",
    ),
    Check(
        name="duplicates",
        run=_with(Faults(twice=0.3)),
        remedy="keep what came under its sender (and round), so that a second one changes nothing",
    ),
    Check(
        name="nonsense",
        run=_nonsense,
        remedy="check kind, part and fields of what comes before using it; refuse with"
        " ctx.record('refused', {'sender': ..., 'reason': ...})",
    ),
    Check(
        name="a node leaves and is back",
        run=_leaves_and_comes_back,
        remedy="do not wait for a peer that is LOST (on_peer); one that is CONNECTED again may be a"
        " new process at an earlier round; on_start may come again",
    ),
    Check(
        name="a newcomer",
        run=_newcomer,
        remedy="a neighbour may be LOST before the start; on_start may begin at any ctx.round",
    ),
    Check(
        name="a slow node",
        run=_slow_node,
        remedy="nodes may be at very different rounds: bound what is kept, and what is waited for",
    ),
    Check(
        name="determinism",
        run=_same_again,
        seeds_max=1,
        remedy="draw from ctx.rng(purpose), take the time from ctx.now, sort sets before iterating",
    ),
    Check(
        name="checkpoints",
        run=_storable,
        seeds_max=1,
        remedy="keep plain state: numbers, texts, arrays, lists, dicts and objects of these; no"
        " lambdas, files or locks",
    ),
)
"""In the order in which they are told."""
