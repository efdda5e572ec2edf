"""Epidemic Learning: a new random graph in each synchronous round.

Source: de Vos, Farhadkhani, Guerraoui, Kermarrec, Pires and Sharma, "Epidemic Learning: Boosting
Decentralized Learning with Randomized Communication" (NeurIPS 2023, arXiv 2310.01972), Algorithm 1.
In each round

1. train `local_steps` mini-batch steps;
2. `local` (EL-Local): send the model to `degree` (s) distinct peers, uniformly drawn; how many come
   in is random. `oracle` (EL-Oracle): the round's graph is random and s-regular;
3. take the mean of the own model and all that came.

Who sends to whom is the same draw everywhere, from the run's seed, the round and (`local`) the
sender: so a receiver knows whom to wait for, without a message to each of n - 1 nodes that nothing
will come (which is our choice; the published code sends them). The draw is over those that take
part in the round, and needs an overlay that connects all with all. The nodes of a round know the
same participants then, unless single connections are given up (`signaling: {unreachable: edges}`).
For that the draw walks through one order of all nodes, over the gaps of those that are not there:
who sees one peer less differs from the others in a choice or two. What it sends is dropped where it
is not expected (`unexpected`), and what is expected of it and never comes is `missing` at the
deadline. A peer that leaves in the middle of a round is not waited for, and its place stays empty.

EL-Oracle's graph is one s-regular graph (node p of a random order is joined to p +- 1, ...,
p +- s/2), randomly relabelled, and not uniform among all s-regular graphs. The expected decrease of
the consensus distance, on which the paper's analysis rests, is that of any s-regular graph that is
randomly relabelled: E |x' - mean|^2 = (n - 1 - s) / ((s + 1) (n - 1)) |x - mean|^2. Where s and n
are odd no s-regular graph exists, and it is of degree s - 1; with s = 1 it is a matching, which
leaves one node out, and in which all pairs change where one node is seen less.

EL-Oracle's mixing is doubly stochastic, EL-Local's only row-stochastic. A message that does not
come leaves its weight with the own model in the former, and is not counted in the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from node.algorithms.averaging import weighted_mix
from node.algorithms.common import usual_degree
from node.algorithms.rounds import Rounds, needs_all_with_all, whole_models
from node.core.algorithm import Context, Share
from node.core.effects import Value
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Vector, Whole, take
from node.core.rng import stream

_KIND: Final = "model"


class Variant(StrEnum):
    """Who draws: each sender for itself, or one oracle for all."""

    LOCAL = "local"
    ORACLE = "oracle"


class Epidemic(Rounds):
    """See the module; `Config` holds the options."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Rounds.Config):
        """Options under `algorithm:`.

        Args:
            local_steps: mini-batch steps a round.
            variant: see `Variant`.
            degree: recipients of a model (s); default ceil(log2(nodes)), as in the paper.
        """

        variant: Variant = Variant.LOCAL
        degree: int | None = None

        def __post_init__(self) -> None:
            Rounds.Config.__post_init__(self)
            if self.degree is not None and self.degree < 1:
                raise ValueError(f"degree must be at least 1, not {self.degree}")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._expected = 0

    @classmethod
    def check_overlay(cls, config: Any, overlay: Mapping[NodeId, tuple[NodeId, ...]]) -> None:
        needs_all_with_all("epidemic", overlay)

    def on_share(self, ctx: Context, peers: tuple[NodeId, ...]) -> Share:
        degree = self.config.degree or usual_degree(ctx.members)
        everyone = tuple(sorted((ctx.me, *ctx.peers)))
        present = tuple(sorted((ctx.me, *peers)))
        draw = _oracle if self.config.variant is Variant.ORACLE else _local
        targets, sources = draw(ctx.seed, ctx.round, everyone, present, degree)[ctx.me]
        message = PeerMessage(
            kind=_KIND, round=ctx.round, part=take(self.model, Whole(), ctx.layout)
        )
        self._expected = len(sources)
        return Share(messages=dict.fromkeys(targets, message), expected=frozenset(sources))

    def mix(
        self, ctx: Context, received: Mapping[NodeId, PeerMessage], peers: tuple[NodeId, ...]
    ) -> tuple[Vector, Mapping[str, Value]]:
        models = whole_models(ctx, received, kind=_KIND)
        oracle = self.config.variant is Variant.ORACLE
        weight = 1 / (1 + (self._expected if oracle else len(models)))
        mixed = weighted_mix(self.model, [(weight, model) for model in models])
        return mixed, {"models": len(models), "own_weight": 1 - weight * len(models)}


_Draw = Mapping[NodeId, tuple[tuple[NodeId, ...], tuple[NodeId, ...]]]
"""For each node: to whom it sends, and who sends to it."""


# All nodes of one process ask for the same few draws.
@lru_cache(maxsize=8)
def _local(
    seed: int, round_: int, everyone: tuple[NodeId, ...], present: tuple[NodeId, ...], degree: int
) -> _Draw:
    """Each node sends to the first `degree` others that are present, in a random order of all."""
    here = set(present)
    targets: dict[NodeId, list[NodeId]] = {node: [] for node in present}
    sources: dict[NodeId, list[NodeId]] = {node: [] for node in present}
    degree = min(degree, len(present) - 1)
    for sender in present:
        for i in stream(seed, "epidemic", round_, sender).permutation(len(everyone)):
            if len(targets[sender]) == degree:
                break
            target = everyone[i]
            if target != sender and target in here:
                targets[sender].append(target)
                sources[target].append(sender)
    return {node: (tuple(targets[node]), tuple(sources[node])) for node in present}


@lru_cache(maxsize=8)
def _oracle(
    seed: int, round_: int, everyone: tuple[NodeId, ...], present: tuple[NodeId, ...], degree: int
) -> _Draw:
    """Those present in a random order, in a circle, each joined to the nearest `degree`."""
    here = set(present)
    order = stream(seed, "epidemic", round_).permutation(len(everyone))
    circle = [everyone[i] for i in order if everyone[i] in here]
    # Pairs of an odd number: the last one is left out.
    alone = circle[-1:] if degree == 1 < len(circle) and len(circle) % 2 else []
    count = len(circle) - len(alone)
    if degree >= count - 1:
        steps = list(range(1, count))
    else:
        steps = [step for d in range(1, degree // 2 + 1) for step in (d, count - d)]
        if degree % 2 and count % 2 == 0:
            steps.append(count // 2)
    joined = {
        node: tuple(sorted(circle[(p + step) % count] for step in steps))
        for p, node in enumerate(circle[:count])
    }
    joined.update(dict.fromkeys(alone, ()))
    return {node: (others, others) for node, others in joined.items()}
