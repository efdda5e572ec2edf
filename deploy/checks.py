"""Whether a run can be trusted (pure): valid, invalid or unknown, with reasons that name names.

Every check looks at the whole history and yields what it found wrong. A check that throws proves
nothing either way: the run is then at best `unknown`, never `valid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from deploy import interventions, signaling
from deploy.history import History, as_float, as_int, describe_exit, last, of_kind, started_at
from deploy.plan import BackendKind
from deploy.summary import ended_rounds
from node.config import Emulator, LinkPolicy

_BYTES_SLACK: Final = 256 * 1024
"""For each ordered pair: what may be on its way between two nodes' last words."""
_STOPPED: Final = "stopped from outside"
"""What members say when `deploy` ends them."""
_OF_AGENT: Final = frozenset({"link"})
"""Records that the link agent writes into its node's file: a process of its own, whose lines may
stand behind later ones of the node's."""
_NAMES_MAX: Final = 8
"""As many members or links are named in one reason."""
_START_SKEW_S: Final = 0.25
"""Between the moments at which two nodes' run clocks stood at zero."""


class Judgement(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


_GRAVEST_FIRST: Final = (Judgement.INVALID, Judgement.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that speaks against a run; `who` is the member or link that it is about, if any."""

    judgement: Judgement
    reason: str
    who: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of all checks."""

    judgement: Judgement
    reasons: tuple[str, ...] = ()
    exit_status: int = 0
    """Of `deploy`: see `_status`."""
    remarks: tuple[str, ...] = ()
    """What else is worth knowing: what was done on purpose. It does not speak against a run."""

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.judgement.value,
            "reasons": list(self.reasons),
            "exit_status": self.exit_status,
            "remarks": list(self.remarks),
        }


Check = Callable[[History], Iterator[Finding]]


def judge(history: History, checks: Sequence[Check] | None = None) -> Verdict:
    """All checks' findings as one verdict; the gravest first."""
    findings: list[Finding] = []
    for check in CHECKS if checks is None else checks:
        try:
            findings.extend(check(history))
        except Exception as error:  # whatever a record holds, the verdict must come
            findings.append(
                _unknown(f"check {check.__name__} failed: {type(error).__name__}: {error}")
            )
    judgement = next((j for j in _GRAVEST_FIRST if any(f.judgement is j for f in findings)), None)
    remarks = _remarks(history)
    if judgement is None:
        return Verdict(judgement=Judgement.VALID, remarks=remarks)
    return Verdict(
        judgement=judgement,
        reasons=_reasons(findings),
        exit_status=_status(history),
        remarks=remarks,
    )


def _remarks(history: History) -> tuple[str, ...]:
    try:
        return (*interventions.remarks(history), *signaling.remarks(history))
    except Exception as error:  # as above
        return (f"what was done on purpose cannot be told: {type(error).__name__}: {error}",)


def _reasons(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What was found, the gravest first; what is true of several is said once."""
    groups: dict[tuple[int, str], list[str | None]] = {}
    for finding in findings:
        key = (_GRAVEST_FIRST.index(finding.judgement), finding.reason)
        groups.setdefault(key, []).append(finding.who)
    told = []
    for (_, reason), whos in sorted(groups.items(), key=lambda group: group[0][0]):
        names = [who for who in dict.fromkeys(whos) if who is not None]
        if len(names) > _NAMES_MAX:
            names[_NAMES_MAX:] = [f"and {len(names) - _NAMES_MAX} more"]
        told.append(f"{', '.join(names)}: {reason}" if names else reason)
    return tuple(told)


def _status(history: History) -> int:
    """The exit status of a run that is not valid: 1, or what kept it from starting.

    A member that finds its configuration wrong ends with 2, one whose machine lacks something with
    3: what `deploy` itself would say, had it known before.
    """
    if started_at(history.coordinator) is not None or history.ending.interrupted is not None:
        return 1
    told = {state.exit_status for state in history.ending.members.values()}
    return next((status for status in (3, 2) if status in told), 1)


def _invalid(reason: str, who: str | None = None) -> Finding:
    return Finding(judgement=Judgement.INVALID, reason=reason, who=who)


def _unknown(reason: str, who: str | None = None) -> Finding:
    return Finding(judgement=Judgement.UNKNOWN, reason=reason, who=who)


# The checks --------------------------------------------------------------------------------------


def interruption(history: History) -> Iterator[Finding]:
    """The run was left to end by itself."""
    if history.ending.interrupted is not None:
        yield _invalid(history.ending.interrupted)


def problems(history: History) -> Iterator[Finding]:
    """`deploy` itself met nothing amiss."""
    for problem in history.ending.problems:
        yield _invalid(problem)


def errors(history: History) -> Iterator[Finding]:
    """Nobody recorded an error, and the coordinator came to its end."""
    finish = last(history.coordinator, "finish")
    told = tuple(f"{name}: " for name in signaling.expelled(history))  # see `connections`
    if finish.get("error"):
        for part in str(finish["error"]).split("; "):
            if not (_STOPPED in part and history.ending.interrupted) and not part.startswith(told):
                yield _invalid(part)
    elif not finish and history.ending.interrupted is None:
        yield _invalid("its records stop before the run's end", "coordinator")
    gone, asked_to_go = signaling.expelled(history), interventions.asked_to_go(history)
    for name, events in {"coordinator": history.coordinator, **history.nodes}.items():
        for event in of_kind(events, "error"):
            message = str(event.get("message"))
            ours = _STOPPED in message and (history.ending.interrupted or name in asked_to_go)
            if not ours and message not in str(finish.get("error") or "") and name not in gone:
                yield _invalid("; ".join(map(str.strip, message.splitlines())), name)


def members(history: History) -> Iterator[Finding]:
    """Every member was started, ended by itself, and said that all was well."""
    ending, on_purpose = history.ending, _excused(history)
    for name in ("coordinator", *history.nodes):
        if name in on_purpose:
            continue
        state = ending.members.get(name)
        if state is None:
            if ending.interrupted is None:
                yield _invalid("it was never started, or was removed by somebody else", name)
            continue
        if ending.interrupted is not None:
            continue
        if name in ending.stopped and started_at(history.coordinator) is None:
            continue  # `deploy` ended it early, because of those that had ended
        if name in ending.stopped:
            status = ending.stopped[name]
            yield _invalid(f"it had not ended when the run was over ({status}): stopped", name)
        elif state.exit_status is None:
            yield _unknown(f"nobody saw it end ({state.error or state.status})", name)
        elif state.exit_status != 0:
            told = of_kind(history.nodes.get(name, history.coordinator), "error")
            words = "" if told else ending.last_words.get(name, "")
            yield _invalid(describe_exit(state) + (f": {words}" if words else ""), name)
    for name in ending.killed:
        if name not in on_purpose:
            yield _invalid("it did not stop when asked to, and was killed", name)


def ends(history: History) -> Iterator[Finding]:
    """All nodes ended at the same stop condition, and it holds."""
    if history.ending.interrupted is not None or started_at(history.coordinator) is None:
        return
    reason = last(history.coordinator, "stop").get("reason")
    if reason is None:
        yield _invalid("the run has no end: no stop condition was reached")
        return
    reached = {
        str(event["member"]): str(event.get("reason"))
        for event in of_kind(history.coordinator, "member")
        if event.get("state") == "done"
    }
    if len(set(reached.values())) > 1:
        listed = ", ".join(f"{name} at {why}" for name, why in sorted(reached.items()))
        yield _invalid(f"the nodes ended at different stop conditions: {listed}")
    stop = history.plan.coordinator.stop
    if reason not in ("rounds", "time", "accuracy"):
        if len(set(reached.values())) <= 1:
            yield _invalid(f"the run ended for another reason than its stop conditions: {reason}")
    elif reason == "rounds":
        on_purpose = _excused(history)
        for name, events in history.nodes.items():
            if (rounds := ended_rounds(events)) < (stop.rounds or 0) and name not in on_purpose:
                yield _invalid(f"{rounds} rounds of {stop.rounds}", name)


def _excused(history: History) -> set[str]:
    """The nodes that have no part at the end, or of which `connections` says why."""
    return {*interventions.excused(history), *signaling.expelled(history)}


def connections(history: History) -> Iterator[Finding]:
    """No connection was given up and no peer expelled, but where that was asked for."""
    for edge in signaling.dropped(history):
        if not edge.planned:
            back = "" if edge.restored is None else f", and back in round {edge.restored}"
            tries = f"{edge.attempts} attempt{'s' if edge.attempts != 1 else ''}"
            pair = " - ".join(edge.peers)
            yield _invalid(f"not connected in round {edge.round} after {tries}{back}", pair)
    for name, peer in signaling.expelled(history).items():
        if not peer.planned:
            yield _invalid(f"expelled: {peer.reason}", name)


def learning(history: History) -> Iterator[Finding]:
    """Every node ended a round and was evaluated, unless it was to send load instead."""
    if all(node.config.load is not None for node in history.plan.nodes):
        return
    if started_at(history.coordinator) is None:
        if history.ending.interrupted is None:
            yield _invalid("the run ended before training began")
        return
    on_purpose = _excused(history)
    for name, events in history.nodes.items():
        if name in on_purpose:
            continue
        if not of_kind(events, "evaluation"):
            yield _invalid("no evaluation", name)
        elif not ended_rounds(events):
            yield _invalid("no round was ended", name)


def links(history: History) -> Iterator[Finding]:
    """Every ordered pair was measured and is what was asked for; in virtual time there is nothing
    to measure, but it is on record what was asked for."""
    if history.plan.backend is BackendKind.SIM:
        emulator = (history.links or {}).get("emulator")
        if emulator != Emulator.MODEL.value:
            yield _invalid(f"links.json is of emulator {emulator}, not of the model")
        return
    expected = {(str(p.source), str(p.target)) for p in history.plan.coordinator.pairs}
    policy = history.plan.coordinator.policy
    if history.ending.interrupted is not None and history.links is None:
        return
    if policy is LinkPolicy.OFF:
        yield _unknown("the links were not measured (links: off)")
        return
    if history.links is None:
        if expected and started_at(history.coordinator) is not None:
            yield _invalid("links.json is missing: the links were not measured")
        return
    told: Mapping[tuple[str, str], Mapping[str, Any]] = {
        (str(pair["from"]), str(pair["to"])): pair for pair in history.links["pairs"]
    }
    for pair in sorted(expected):
        name = f"link {pair[0]} to {pair[1]}"
        report = told.get(pair)
        if report is None or (report.get("ok") is None and not report.get("why")):
            yield _unknown("not measured", name)
        elif report.get("ok") is None:
            yield _unknown(str(report["why"]), name)
        elif report["ok"] is not True:
            yield _invalid(f"not as asked: {report.get('why') or 'see links.json'}", name)


def traffic(history: History) -> Iterator[Finding]:
    """Bytes add up: what was acknowledged had arrived, what arrived had been sent.

    Counters of different nodes end at slightly different moments, hence the slack.
    """
    if history.ending.interrupted is not None or history.ending.stopped:
        return
    counts = {name: last(events, "bytes") for name, events in history.nodes.items()}
    for name, count in counts.items():
        # Not `model_sent`: what was handed to the transport last may not have left yet.
        wire, there = as_float(count.get("wire_tx")), as_float(count.get("model_delivered"))
        if wire is not None and there is not None and wire < there:
            yield _invalid(
                f"{name}: {wire:.0f} bytes left its interface, fewer than the {there:.0f} of model"
                " that its peers acknowledged"
            )
    if _excused(history) or not interventions.unbroken(history):
        return  # what was counted last is not all that was done
    totals = {
        key: sum(as_int(count.get(key), 0) for count in counts.values())
        for key in ("model_sent", "model_received", "model_delivered")
    }
    slack = _BYTES_SLACK * history.plan.coordinator.candidates
    for more, less, what in (
        ("model_sent", "model_received", "arrived than were sent"),
        ("model_received", "model_delivered", "were acknowledged than arrived"),
    ):
        if totals[less] > totals[more] + slack:
            yield _invalid(f"more model bytes {what}: {totals[less]}, not {totals[more]}")


def changes(history: History) -> Iterator[Finding]:
    """Every change of links was made in time by every node that it concerns; so was what was
    planned for nodes."""
    if history.ending.interrupted is None:
        for name, why in (*interventions.failures(history), *interventions.unapplied(history)):
            yield _invalid(why, name)


def lines(history: History) -> Iterator[Finding]:
    """Every line of every record file is a whole event."""
    for member, count in history.garbled.items():
        what = "a line" if count == 1 else f"{count} lines"
        yield _unknown(f"{what} of its records cannot be read", member)


def clock(history: History) -> Iterator[Finding]:
    """The run clocks started together and never went back."""
    starts: dict[str, float] = {}
    for name, events in history.nodes.items():
        before = 0.0
        for event in events:
            t, wall = as_float(event.get("t")), as_float(event.get("wall"))
            if t is None or event.get("kind") in _OF_AGENT:
                continue
            if t < before:
                yield _invalid(f"its run clock went back from {before:.3f} s to {t:.3f} s", name)
                break
            before = t
            if wall is not None:
                starts.setdefault(name, wall - t)
    if starts:
        first, latest = min(starts, key=starts.__getitem__), max(starts, key=starts.__getitem__)
        skew = starts[latest] - starts[first]
        if skew > _START_SKEW_S:
            yield _invalid(f"its run clock started {skew:.2f} s after that of {first}", latest)


CHECKS: Final[tuple[Check, ...]] = (
    interruption,
    problems,
    errors,
    members,
    ends,
    connections,
    learning,
    links,
    traffic,
    changes,
    lines,
    clock,
)
