"""A machine that is broken on purpose is caught, by the invariant that is meant to.

Without this, seeds that find nothing would prove nothing.
"""

from __future__ import annotations

import pytest

from tests.simulation.holds import ALL
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.simulate import play


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_machine_is_caught(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutated(name):
        for seed in mutation.seeds:
            violations = play(seed).violations
            if violations:
                _, invariant, text = violations[0]
                assert invariant in (mutation.invariant, *mutation.also), text
                return
    pytest.fail(f"no seed of {mutation.seeds} notices: {mutation.says}")


def test_each_invariant_has_a_mutation() -> None:
    caught = {mutation.invariant for mutation in MUTATIONS.values()}
    assert caught == {invariant.name for invariant in ALL}


def test_a_mutation_is_over_afterwards() -> None:
    name = "start-without-the-last-report"
    with mutated(name):
        assert play(0).violations
    assert not play(0).violations
