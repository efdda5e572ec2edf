"""Members and edges as the coordinator counts and finds them, against a look at all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.core.ids import NodeId
from node.core.standings import Overlay, Standing, Standings

NAMES = [NodeId(f"n-{i}") for i in range(6)]
MEMBER = st.sampled_from(NAMES)
STANDING = st.builds(Standing, round=st.integers(0, 4), ready=st.booleans())


@given(st.lists(st.tuples(MEMBER, STANDING | st.none()), max_size=40))
def test_counts_are_those_of_a_look_at_all_members(
    events: list[tuple[NodeId, Standing | None]],
) -> None:
    """None: the member leaves."""
    standings, plain = Standings(), dict[NodeId, Standing]()
    for member, standing in events:
        if standing is not None:
            standings[member] = plain[member] = standing
        else:
            assert standings.pop(member, None) == plain.pop(member, None)
        assert dict(standings) == plain
        assert standings.newest == max((each.round for each in plain.values()), default=-1)
        for round_ in range(6):
            here = [each for each in plain.values() if each.round == round_]
            assert standings.count(round_) == (len(here), sum(each.ready for each in here))


@given(st.sets(st.tuples(MEMBER, MEMBER).filter(lambda pair: pair[0] != pair[1])), st.data())
def test_edges_of_a_member_are_those_found_among_all(
    pairs: set[tuple[NodeId, NodeId]], data: st.DataObject
) -> None:
    overlay = Overlay(sorted(pairs))
    edges = {frozenset(pair) for pair in pairs}
    assert set(overlay.edges) == edges
    some = {edge for edge in sorted(edges, key=sorted) if data.draw(st.booleans())}
    for member in NAMES:
        assert set(overlay.of(member)) == {edge for edge in edges if member in edge}
        near = sorted(end for edge in some if member in edge for end in edge - {member})
        assert overlay.others(some, member) == tuple(near)
