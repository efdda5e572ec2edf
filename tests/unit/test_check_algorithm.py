"""`deploy check-algorithm`: what is sound passes, what is broken fails where it is broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.__main__ import main
from deploy.check_algorithm.case import Faults
from deploy.check_algorithm.checks import CHECKS, Outcome, Result, Setting, check_all, result
from deploy.check_algorithm.network import Network
from deploy.check_algorithm.nonsense import variants
from deploy.check_algorithm.subject import subject
from deploy.check_algorithm.toy import LAYOUT, Toy
from node.algorithms import find, names
from node.config import Mode
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Whole, resolve, take
from node.errors import ConfigError
from node.wire.codec import decode_message, encode_message
from node.wire.frames import Identity
from tests.unit import broken_algorithms

HERE = broken_algorithms.__name__
NEEDED: dict[str, dict[str, Any]] = {"single-merge": {"rounds": 12}}
"""Options that have no default."""


def setting(name: str, *, seeds: int = 1, nodes: int = 6, **options: Any) -> Setting:
    what = subject(name, options)
    _, case = what.case(nodes=nodes, mode=what.kind.MODES[0])
    return Setting(subject=what, case=case, nodes=nodes, seeds=range(1, seeds + 1))


def checked(name: str, check: str, *, seeds: int = 3) -> Result:
    (found,) = [each for each in CHECKS if each.name == check]
    return result(found, setting(f"{HERE}:{name}", seeds=seeds))


@pytest.mark.parametrize("name", names())
def test_every_algorithm_here_passes(name: str) -> None:
    results = check_all(setting(name, **NEEDED.get(name, {})))
    assert [r for r in results if r.outcome is Outcome.FAIL] == []
    assert sum(r.outcome is Outcome.PASS for r in results) >= len(CHECKS) - 1


@pytest.mark.parametrize("name", ["Gossip", "Mean"])
def test_what_the_broken_ones_are_made_of_is_sound(name: str) -> None:
    results = check_all(setting(f"{HERE}:{name}", seeds=2))
    assert [r for r in results if r.outcome is Outcome.FAIL] == []


@pytest.mark.parametrize(
    ("name", "check", "seen"),
    [
        ("MutableOptions", "options", "no frozen dataclass"),
        ("OptionsThatChangeOnTheirWay", "options", "do not survive a plan"),
        ("TrainsOnce", "clean run", "goes no further"),
        ("NeverSetsTheModel", "clean run", "the loss is 1.00 of"),
        ("SumsInsteadOfAveraging", "clean run", "the loss is"),
        ("DividesByZero", "clean run", "not finite"),
        ("SendsPartsThatDoNotFit", "clean run", "refuses a message of n-"),
        ("SendsWhatHasNoEncoding", "clean run", "cannot be sent"),
        ("SendsToStrangers", "clean run", "is not a neighbour"),
        ("SendsToStrangers", "neighbours only", "is not a neighbour"),
        ("WantsEveryMessageFresh", "loss, reliable", "RuntimeError: a message of round"),
        ("WaitsForEveryone", "connections that break", "has set no timer"),
        ("WaitsForEveryone", "a node leaves and is back", "goes no further"),
        ("WaitsForADatagram", "loss, datagrams", "goes no further"),
        ("CountsOnOrder", "reordering", "went back to round"),
        ("CountsOnEachMessageOnce", "duplicates", "came twice"),
        ("BelievesWhatComes", "nonsense", "ValueError"),
        ("BelievesFields", "nonsense", "Error"),
        ("BeginsAtRoundZero", "a node leaves and is back", "the start is in round"),
        ("BeginsAtRoundZero", "a newcomer", "the start is in round"),
        ("WantsAllAtTheSameRound", "a slow node", "RuntimeError: n-"),
        ("DrawsFromItsOwnGenerator", "determinism", "of its own"),
        ("FollowsTheOrderOfASet", "determinism", "PYTHONHASHSEED"),
        ("KeepsALambda", "checkpoints", "lambda"),
        ("WantsAllOfTheRound", "a node leaves and is back", "KeyError"),
        ("BelievesTheRound", "nonsense", "a message without a part"),
    ],
)
def test_what_is_broken_fails_where_it_is_broken(name: str, check: str, seen: str) -> None:
    found = checked(name, check)
    assert found.outcome is Outcome.FAIL
    assert seen in found.seen
    assert found.remedy, "and it says what to do"


def test_a_failure_names_the_line_that_raised() -> None:
    found = checked("CountsOnOrder", "reordering")
    assert "broken_algorithms.py:" in found.seen
    assert "a message 'model' of n-" in found.seen
    assert "seed 1" in found.seen


def test_what_breaks_one_thing_passes_the_rest() -> None:
    """Or a failure would not say where to look."""
    results = check_all(setting(f"{HERE}:CountsOnEachMessageOnce"))
    failed = {each.name for each in results if each.outcome is Outcome.FAIL}
    assert failed <= {"duplicates", "nonsense", "a node leaves and is back"}
    assert "duplicates" in failed


# The network -------------------------------------------------------------------------------------


def test_training_alone_ends_at_the_nodes_own_points() -> None:
    names_ = [NodeId(f"n-{i}") for i in range(4)]
    toy = Toy.of(names_, seed=3)
    models = [toy.train(name, toy.initial, 200)[0] for name in names_]
    assert toy.apart(models) == pytest.approx(1, abs=1e-3)
    one, two = toy.train(names_[0], toy.initial, 2), toy.train(names_[0], toy.initial, 1)
    again, _ = toy.train(names_[0], two[0], 1)
    assert abs(one[0] - again).max() < 1e-5
    assert one[1] < two[1], "the mean loss falls with the steps"


@pytest.mark.parametrize(
    "faults",
    [Faults(), Faults(broken=0.3), Faults(twice=0.5, overtake_ns=10**9), Faults(nonsense=1.0)],
)
def test_a_run_is_its_seed(faults: Faults) -> None:
    case = setting("divshare").case

    def digest(seed: int) -> str:
        network = Network(case, seed=seed, faults=faults)
        network.run(4)
        return network.digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_nonsense_passes_the_codec_and_fits_the_model() -> None:
    """It has to come as far as the algorithm, or nothing was checked."""
    toy = Toy.of([NodeId("n-0")], seed=1)
    part = take(toy.initial, Whole(), LAYOUT)
    sound = PeerMessage(kind="model", round=3, part=part, fields={"degree": 2})
    me = Identity(session="s", member=NodeId("n-0"), incarnation=1)
    found = variants(sound, LAYOUT)
    assert len({words for words, _ in found}) == len(found) >= 10
    for _, odd in found:
        encoded = encode_message(odd, sender=me)
        read = decode_message(encoded.cut(0, encoded.size), sender=me)
        if read.part is not None:
            assert resolve(read.part.where, LAYOUT).size == read.part.values.size


# The command -------------------------------------------------------------------------------------


def test_the_exit_status_tells(capsys: pytest.CaptureFixture[str]) -> None:
    sound = ["check-algorithm", f"{HERE}:Gossip", "--seeds", "1", "--set", "local_steps=2"]
    assert main([*sound, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    assert told["modes"][0]["mode"] == "async"
    assert {check["outcome"] for check in told["modes"][0]["checks"]} == {"pass", "skipped"}
    assert main(["check-algorithm", f"{HERE}:TrainsOnce", "--seeds", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "to do:" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["divsharre"], "did you mean 'divshare'"),
        (["no.such.module:Thing"], "cannot load"),
        (["json:dumps"], "no subclass of Algorithm"),
        (["divshare", "--set", "omga=1"], "did you mean 'omega'"),
        (["divshare", "--set", "omega"], "OPTION=VALUE"),
        (["divshare", "--mode", "sync"], "does not run in mode sync"),
        (["fedavg", "--nodes", "1"], "--nodes"),
        (["single-merge"], "--set option=value"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-algorithm", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_overlay_that_does_not_fit_is_told() -> None:
    found = [
        subject(name, NEEDED.get(name, {})).case(nodes=5, mode=find(name).MODES[0])[0]
        for name in ("divshare", "fedavg", "single-merge")
    ]
    assert found == ["a ring", "a star", "everybody with everybody"]
    with pytest.raises(ConfigError, match=r"runs on none of .* it wants to be alone"):
        _ = subject(f"{HERE}:Hermit", {}).case(nodes=6, mode=Mode.ASYNC)
