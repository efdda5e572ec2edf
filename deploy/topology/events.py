"""From the file's `events:` to the explicit timeline (pure).

    entries -> moments (flapping and churn unrolled) -> in order of time -> steps

Simultaneous moments are one step; in it they stand in the order of the file. What is drawn comes
from a random stream of its own for each entry, so that an entry more leaves the others as they are.
What an entry gets wrong is collected, not raised, so that all of it can be said at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from deploy.topology.lives import Lives
from deploy.topology.model import NODE_ACTIONS, Event, LinkOptions, TopologyFile
from deploy.topology.names import EventError, Names
from deploy.topology.network import Network, natural
from deploy.topology.problems import Loc
from deploy.topology.timeline import (
    Action,
    Heal,
    LinkDown,
    LinkUp,
    NodeAction,
    Partition,
    SetLink,
    Step,
)
from deploy.topology.words import link_text, options_text, parts_text
from node.core.rng import stream
from node.units import MILLISECOND, Nanos

MAX_MOMENTS: Final = 20_000
MAX_ACTIONS: Final = 500_000
"""Of one timeline, the second counting each direction of each link; whoever needs more has mistaken
a unit, or a group."""

ACTIONS: Final = ("link", "down", "up", "partition", "heal", *NODE_ACTIONS, "flap", "churn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """Something that an entry gets wrong, at `loc` in the file."""

    loc: Loc
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What one entry does at one time.

    Args:
        index, event: the entry.
        actions: on links; None: they are for nodes, and depend on what those have been through.
    """

    at_ns: Nanos
    index: int
    event: Event
    actions: tuple[Action, ...] | None
    what: str = ""


@dataclass(slots=True)
class Unrolled:
    """The timeline of a file, and what is wrong with its entries."""

    steps: tuple[Step, ...] = ()
    wrong: list[Wrong] = field(default_factory=list)


def timeline(file: TopologyFile, network: Network) -> tuple[Step, ...]:
    """The steps of a file in which nothing is wrong.

    Raises:
        EventError: something is wrong after all.
    """
    unrolled = unroll(file, network)
    for wrong in unrolled.wrong:
        raise EventError(wrong.message, wrong.hint)
    return unrolled.steps


def unroll(file: TopologyFile, network: Network) -> Unrolled:
    """The steps of a file, in order of time; entries that are wrong are left out and told."""
    names, unrolled = Names(file, network), Unrolled()
    moments: list[_Moment] = []
    links = 0
    for index, event in enumerate(file.events):
        try:
            for moment in _moments(index, event, names=names, file=file):
                moments.append(moment)
                links += len(moment.actions or ())
                if len(moments) > MAX_MOMENTS or links > MAX_ACTIONS:
                    unrolled.wrong.append(_wrong(index, event, _too_many(len(moments))))
                    return unrolled
        except EventError as error:
            unrolled.wrong.append(_wrong(index, event, error))
    moments.sort(key=lambda moment: (moment.at_ns, moment.index))  # stable: as they were made
    unrolled.steps = tuple(_steps(moments, unrolled, Lives(names, file)))
    return unrolled


def actions(event: Event, file: TopologyFile, network: Network) -> tuple[Action, ...]:
    """What one entry does at its time, whatever was before: for changes that are made by hand.

    Raises:
        EventError: a name in it means nothing in this network.
    """
    names = Names(file, network)
    moment = next(iter(_moments(0, event, names=names, file=file)))
    if moment.actions is not None:
        return moment.actions
    verb = action_of(event)
    return tuple(NodeAction(node=node, verb=verb) for node in names.nodes(event.of(verb)))


def action_of(event: Event) -> str:
    """The one action that an entry gives."""
    return next(name for name in ACTIONS if name in event.given())


def _wrong(index: int, event: Event, error: EventError) -> Wrong:
    return Wrong(
        loc=("events", index, action_of(event), *error.loc), message=error.message, hint=error.hint
    )


def _steps(moments: Iterable[_Moment], unrolled: Unrolled, lives: Lives) -> Iterator[Step]:
    at: Nanos | None = None
    done: list[Action] = []
    what: list[str] = []
    for moment in moments:
        if at is not None and moment.at_ns != at and what:
            yield Step(at_ns=at, actions=tuple(done), what=tuple(what))
            done, what = [], []
        at = moment.at_ns
        try:
            made, words = _performed(moment, lives)
        except EventError as error:
            unrolled.wrong.append(_wrong(moment.index, moment.event, error))
            continue
        done += made
        if words not in what:
            what.append(words)
    if at is not None and what:
        yield Step(at_ns=at, actions=tuple(done), what=tuple(what))


def _performed(moment: _Moment, lives: Lives) -> tuple[Sequence[Action], str]:
    """The actions of a moment, and the words, now that all before it has happened."""
    if moment.actions is not None:
        lives.links(moment.event, moment.actions, at_ns=moment.at_ns)
        return moment.actions, moment.what
    verb = action_of(moment.event)
    chosen, words = lives.nodes(moment.event, verb, at_ns=moment.at_ns)
    return [NodeAction(node=node, verb=verb) for node in chosen], words


# One entry ---------------------------------------------------------------------------------------


def _too_many(moments: int) -> EventError:
    hint = "a longer `every`, or a shorter time from `from` to `until`"
    if moments > MAX_MOMENTS:
        return EventError(f"more than {MAX_MOMENTS:,} times at which something happens", hint)
    return EventError(f"more than {MAX_ACTIONS:,} links that go down or up, all in all", hint)


def _moments(index: int, event: Event, *, names: Names, file: TopologyFile) -> Iterable[_Moment]:
    verb = action_of(event)
    if verb in ("flap", "churn"):
        unrolling = _flap if verb == "flap" else _churn
        return unrolling(index, event, names=names, file=file)
    assert event.at is not None
    if verb in NODE_ACTIONS:
        names.nodes(event.of(verb))  # exist
        return [_Moment(at_ns=event.at, index=index, event=event, actions=None)]
    made, what = _link_actions(event, verb, names=names)
    return [_Moment(at_ns=event.at, index=index, event=event, actions=made, what=what)]


def _link_actions(event: Event, verb: str, *, names: Names) -> tuple[tuple[Action, ...], str]:
    """What one entry about links does, and the same in words."""
    match verb:
        case "link":
            return tuple(_set(event, names)), _set_text(event)
        case "down" | "up":
            affected = event.down if verb == "down" else event.up
            assert affected is not None
            made: list[Action] = []
            for source, target, by in names.affected(affected, oneway=event.oneway):
                kind = LinkDown if verb == "down" else LinkUp
                made.append(kind(source=source, target=target, by=by))
            return tuple(made), f"{link_text(affected, oneway=event.oneway)} {verb}"
        case "partition":
            assert event.partition is not None
            parts = names.parts(event.partition)
            return (Partition(parts=parts),), parts_text(event.partition)
    return (Heal(),), "heal"


def _set(event: Event, names: Names) -> Iterator[SetLink]:
    """Changes of one link; of one that a group shares, its members' own ends keep its rate."""
    assert event.link is not None
    back = event.back.over(event.set)
    for forward, (source, target) in names.link(event.link, oneway=event.oneway):
        options = event.set if forward else back
        yield SetLink(source=source, target=target, options=options)
        if "rate" in options.given():
            rate = LinkOptions.model_construct(rate=options.rate)
            for one, other in names.behind(source, target):
                yield SetLink(source=one, target=other, options=rate)


def _set_text(event: Event) -> str:
    assert event.link is not None
    text = f"{link_text(event.link, oneway=event.oneway)}: {options_text(event.set)}"
    back = options_text(event.back)
    return f"{text}, back {back}" if back else text


def _flap(index: int, event: Event, *, names: Names, file: TopologyFile) -> Iterator[_Moment]:
    """Down for `for` in every `every`, beginning with down; or, at random, up and down for
    exponential times of the same means, beginning with up."""
    assert event.flap is not None
    assert event.until is not None
    by = f"flap {index}"
    held = dict.fromkeys((a, b) for a, b, _ in names.affected(event.flap, oneway=event.oneway))
    down: tuple[Action, ...] = tuple(LinkDown(source=a, target=b, by=by) for a, b in held)
    up: tuple[Action, ...] = tuple(LinkUp(source=a, target=b, by=by) for a, b in held)
    text = link_text(event.flap, oneway=event.oneway)
    last: Nanos | None = None
    for begin, end in _spells(event, file):
        if last != begin:  # else it stays down
            if last is not None:
                yield _Moment(
                    at_ns=last, index=index, event=event, actions=up, what=f"{text} up (flap)"
                )
            yield _Moment(
                at_ns=begin, index=index, event=event, actions=down, what=f"{text} down (flap)"
            )
        last = end
    if last is not None:
        yield _Moment(at_ns=last, index=index, event=event, actions=up, what=f"{text} up (flap)")


def _spells(event: Event, file: TopologyFile) -> Iterator[tuple[Nanos, Nanos]]:
    """When something is down: (from, until), in order; at most one more than can be used."""
    assert event.since is not None
    assert event.until is not None
    assert event.every is not None
    assert event.lasting is not None
    if not event.random:
        at = event.since
        for _ in range(MAX_MOMENTS + 1):
            if at >= event.until:
                return
            yield at, min(at + event.lasting, event.until)
            at += event.every
        return
    seed = file.seed if event.seed is None else event.seed
    affected = event.flap if isinstance(event.flap, str) else "-".join(event.flap or ())
    draws = stream(seed, "faults", "flap", affected, event.since)

    def drawn(mean: Nanos) -> Nanos:
        """Whole milliseconds, which is as exact as it can be applied."""
        return max(1, round(float(draws.exponential(mean)) / MILLISECOND)) * MILLISECOND

    at = event.since
    for _ in range(MAX_MOMENTS + 1):
        at += drawn(event.every - event.lasting)
        if at >= event.until:
            return
        end = min(at + drawn(event.lasting), event.until)
        yield at, end
        at = end


def _churn(index: int, event: Event, *, names: Names, file: TopologyFile) -> Iterator[_Moment]:
    """In every period the links of some nodes of the group are down for `for`, from its start."""
    assert event.churn is not None
    assert event.share is not None
    assert event.since is not None
    every = names.nodes(event.churn)
    count = min(len(every), max(1, round(event.share * len(every))))
    seed = file.seed if event.seed is None else event.seed
    draws = stream(seed, "faults", "churn", event.churn, event.since)
    by = f"churn {index}"
    for begin, end in _spells(event, file):
        chosen = draws.choice(len(every), size=count, replace=False)
        gone = sorted((every[int(i)] for i in chosen), key=natural)
        for kind, at in ((LinkDown, begin), (LinkUp, end)):
            made: list[Action] = [
                kind(source=a, target=b, by=f"{by} {node}")
                for node in gone
                for a, b, _ in names.affected(node, oneway=False)
            ]
            word = "down" if kind is LinkDown else "up"
            what = f"{', '.join(gone)} {word} (churn of {event.churn})"
            yield _Moment(at_ns=at, index=index, event=event, actions=tuple(made), what=what)
