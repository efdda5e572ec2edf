"""netem's words for a path, what is read back of them, and what an emulator refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import (
    Burst,
    Emulator,
    LinkChange,
    LinksConfig,
    PathChange,
    PathSpec,
    PeerLink,
    Slot,
)
from node.core.ids import NodeId
from node.errors import ConfigError
from node.links.impair import check, loss_chain, netem_words, refusals
from node.links.read_netem import difference, in_force
from node.units import MILLISECOND

PATH = PathSpec(rate_bps=10_000_000, delay_ns=20 * MILLISECOND)
A, B = NodeId("a"), NodeId("b")


def words(path: PathSpec, before: PathSpec | None = None) -> str:
    """Behind the limit, which `sizes` is about."""
    return " ".join(netem_words(path, rtt_ns=0, before=before)[3:])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (PATH, "delay 20000us"),
        (replace(PATH, loss=0.015), "delay 20000us loss random 1.5%"),
        (
            replace(PATH, jitter_ns=3 * MILLISECOND),
            "delay 20000us 3000us distribution normal rate 100000000000bit",
        ),
        (
            replace(PATH, jitter_ns=3 * MILLISECOND, ordered=False),
            "delay 20000us 3000us distribution normal",
        ),
        (PathSpec(jitter_ns=500, ordered=False), "delay 1us 0.500us distribution normal"),
        (
            replace(PATH, burst=Burst(enter=0.01, leave=0.25)),
            "delay 20000us loss gemodel 1% 25% 100% 0%",
        ),
        (
            replace(PATH, loss=0.1, burst=Burst(enter=0.01, leave=0.2, bad=0.5, good=0.2)),
            "delay 20000us loss gemodel 1% 20% 55% 28%",
        ),
        (
            replace(PATH, duplicate=0.01, corrupt=0.001, reorder=0.25),
            "delay 20000us duplicate 1% corrupt 0.1% reorder 25%",
        ),
        (
            replace(PATH, slot=Slot(least_ns=MILLISECOND, most_ns=2 * MILLISECOND)),
            "delay 20000us slot 1000us 2000us",
        ),
    ],
)
def test_every_property_has_its_words(path: PathSpec, said: str) -> None:
    assert words(path) == said


def test_a_change_names_what_the_kernel_would_keep() -> None:
    whole = replace(
        PATH,
        jitter_ns=MILLISECOND,
        corrupt=0.1,
        reorder=0.1,
        slot=Slot(least_ns=MILLISECOND, most_ns=MILLISECOND),
    )
    assert words(PATH, whole) == "delay 20000us corrupt 0% reorder 0% rate 0bit slot 0us 0us"
    assert words(PATH, PATH) == "delay 20000us"


@given(st.floats(0, 1), st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0, 1), st.floats(0, 1))
def test_random_loss_and_bursts_make_one_chain_with_the_same_loss(
    loss: float, enter: float, leave: float, bad: float, good: float
) -> None:
    path = PathSpec(loss=loss, burst=Burst(enter=enter, leave=leave, bad=bad, good=good))
    chain = loss_chain(path)
    assert chain is not None
    assert chain.loss == pytest.approx(path.loss_rate, abs=1e-9)


def test_what_is_read_back_is_compared_property_by_property() -> None:
    path = replace(
        PATH,
        jitter_ns=3 * MILLISECOND,
        loss=0.1,
        burst=Burst(enter=0.01, leave=0.2, bad=0.5),
        duplicate=0.01,
        corrupt=0.002,
        reorder=0.25,
        slot=Slot(least_ns=MILLISECOND, most_ns=2 * MILLISECOND),
    )
    seen = {
        "limit": 100,
        "delay": {"delay": 0.02, "jitter": 0.003, "correlation": 0},
        "loss-gemodel": {"p": 0.01, "r": 0.2, "1-h": 0.55, "1-k": 0.1},
        "duplicate": {"duplicate": 0.01, "correlation": 0},
        "corrupt": {"corrupt": 0.002, "correlation": 0},
        "reorder": {"reorder": 0.25, "correlation": 0},
        "rate": {"rate": 12_500_000_000, "packetoverhead": 0},
        "slot": {"min-delay": 0.001, "max-delay": 0.002},
        "gap": 1,
    }
    assert difference(seen, path, limit=100) is None
    assert in_force(seen) == {
        "delay_ms": 20.0,
        "jitter_ms": 3.0,
        "loss": pytest.approx(path.loss_rate),
    }
    for group, key in (
        ("delay", "delay"),
        ("delay", "jitter"),
        ("loss-gemodel", "p"),
        ("loss-gemodel", "1-h"),
        ("duplicate", "duplicate"),
        ("corrupt", "corrupt"),
        ("reorder", "reorder"),
        ("rate", "rate"),
        ("slot", "min-delay"),
        ("slot", "max-delay"),
    ):
        other = {**seen, group: {**seen[group], key: 0.4}}  # type: ignore[dict-item]
        said = difference(other, path, limit=100)
        assert said is not None
        assert "asked was" in said
    assert difference(seen, path, limit=99) == "the limit is 100 packets, asked was 99"
    plain = {"limit": 5, "delay": {"delay": 0.02, "jitter": 0.0}, "gap": 0}
    assert difference(plain, PATH, limit=5) is None
    assert difference({**plain, "loss-random": {"loss": 0.01}}, PATH, limit=5) is not None


def test_each_emulator_says_what_it_cannot_do() -> None:
    slot = Slot(least_ns=MILLISECOND, most_ns=MILLISECOND)
    whole = replace(
        PATH,
        jitter_ns=MILLISECOND,
        ordered=False,
        loss=0.1,
        burst=Burst(enter=0.1, leave=0.5),
        duplicate=0.1,
        corrupt=0.1,
        reorder=0.1,
        slot=slot,
    )
    assert refusals(whole, Emulator.NETEM) == ()
    assert refusals(whole, Emulator.NFQUEUE) == ("`duplicate`", "`corrupt`", "`slot`")
    assert len(refusals(whole, Emulator.APPLICATION)) == 5
    assert refusals(PATH, Emulator.APPLICATION) == ()
    undelayed = PathSpec(reorder=0.1)
    for emulator in (Emulator.NETEM, Emulator.NFQUEUE, Emulator.AUTO):
        assert refusals(undelayed, emulator) == ("`reorder` on a path without a delay",)


def test_a_refusal_names_the_path_the_property_the_emulator_and_what_to_do() -> None:
    peer = PeerLink(name=B, host="10.0.0.2", port=7000, out=PATH, into=PATH)
    later = PathChange(name=B, out=PATH, into=replace(PATH, corrupt=0.1))
    links = LinksConfig(
        peers=(peer,), changes=(LinkChange(at_ns=0), LinkChange(at_ns=1, peers=(later,)))
    )
    check(links, Emulator.NETEM, me=A)
    check(links, Emulator.AUTO, me=A)
    with pytest.raises(ConfigError) as refused:
        check(links, Emulator.NFQUEUE, me=A)
    assert str(refused.value).splitlines() == [
        "the path from b to a: `corrupt` cannot be emulated by `nfqueue`",
        "  leave it out of the links, or use `--emulator netem` on a host that has it"
        " (`modprobe sch_netem`)",
    ]
