"""Who gets the model from whom."""

from __future__ import annotations

from typing import Any

from node.core.effects import Effect, Record, Send
from node.core.ids import NodeId
from node.core.signals import ModelSyncRequest, SignalModelProvider, SignalNewPeer, SyncDecline
from node.core.standings import Overlay
from node.core.syncs import Sources, Syncs

A, B, C, D, NEW, OTHER = (NodeId(name) for name in ("a", "b", "c", "d", "new", "other"))
HOLD = {A: 5, B: 5, C: 5}


def syncs() -> Syncs:
    return Syncs(overlay=Overlay([(NEW, C), (OTHER, B), (A, B)]))


def told(effects: list[Effect]) -> dict[NodeId, Any]:
    return {effect.target: effect.message for effect in effects if isinstance(effect, Send)}


def states(effects: list[Effect]) -> list[Any]:
    return [effect.fields["state"] for effect in effects if isinstance(effect, Record)]


def ask(some: Syncs, newcomer: NodeId = NEW, *, failed: int = 0, **options: Any) -> Any:
    providers = options.pop("providers", HOLD)
    request = ModelSyncRequest(failed=failed, reason="no progress")
    return some.request(
        newcomer,
        request,
        sources=Sources(providers=providers, hopeless=options.pop("hopeless", False)),
    )


def test_both_are_told_and_a_neighbour_comes_first() -> None:
    effects = ask(syncs())
    assert told(effects) == {
        NEW: SignalModelProvider(sync=1, provider=C),
        C: SignalNewPeer(sync=1, newcomer=NEW),
    }
    assert states(effects) == ["assigned"]


def test_a_request_that_comes_twice_is_answered_twice_and_changes_nothing() -> None:
    some = syncs()
    first = ask(some)
    assert told(ask(some)) == told(first)
    assert some.provider_of(NEW) == C


def test_one_that_did_not_deliver_is_replaced_and_taken_again_only_after_all_others() -> None:
    some = syncs()
    providers = [some.provider_of(NEW) for _ in (ask(some),)]
    for number in (1, 2, 3):
        effects = ask(some, failed=number)
        assert states(effects) == ["failed", "assigned"]
        providers.append(some.provider_of(NEW))
    assert sorted(map(str, providers[:3])) == [A, B, C]
    assert providers[3] == C


def test_a_report_of_an_older_failure_does_not_replace_the_new_provider() -> None:
    some = syncs()
    ask(some)
    ask(some, failed=1)
    provider = some.provider_of(NEW)
    ask(some, failed=1)
    assert some.provider_of(NEW) == provider


def test_two_newcomers_are_served_by_different_members() -> None:
    some = Syncs(overlay=Overlay([]))
    ask(some, NEW)
    ask(some, OTHER)
    assert some.provider_of(NEW) != some.provider_of(OTHER)


def test_a_provider_that_goes_is_replaced_at_once() -> None:
    some = syncs()
    ask(some)
    effects = some.gone(C, sources=Sources(providers={A: 5, B: 5}, hopeless=False))
    assert states(effects) == ["failed", "assigned"]
    assert told(effects)[NEW].provider == A
    assert told(effects)[NEW].sync == 2


def test_a_provider_without_a_model_is_replaced() -> None:
    some = syncs()
    ask(some)
    no = SyncDecline(sync=1, reason="nothing aggregated yet")
    assert some.decline(A, no, sources=Sources(providers=HOLD, hopeless=False)) == [], (
        "it was not asked"
    )
    effects = some.decline(C, no, sources=Sources(providers=HOLD, hopeless=False))
    assert told(effects)[NEW].provider in (A, B)


def test_with_nobody_to_ask_it_waits_unless_there_is_no_hope() -> None:
    some = syncs()
    assert ask(some, providers={}) == []
    effects = ask(some, providers={}, hopeless=True)
    assert told(effects) == {NEW: SignalModelProvider(sync=1, provider="")}
    assert states(effects) == ["none"]


def test_done_is_done_once() -> None:
    some = syncs()
    ask(some)
    assert states(some.done(NEW, 1, held=5)) == ["done"]
    assert some.done(NEW, 1, held=5) == []
    assert some.newcomers == frozenset()


def test_numbers_go_on_above_those_of_a_coordinator_before_us() -> None:
    effects = ask(Syncs(overlay=Overlay([]), first=1000))
    assert told(effects)[NEW].sync == 1000


def test_a_newcomer_is_not_its_own_provider() -> None:
    assert ask(syncs(), providers={NEW: 7}) == []
