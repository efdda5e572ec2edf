"""The documentation is followed literally."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from node import algorithms
from node.config import StopConfig
from node.core.effects import Send
from node.core.events import Received, Started, Trained
from node.core.ids import NodeId
from node.core.parts import Layout
from node.core.peer import Peer, PeerSetting
from node.errors import ConfigError
from node.units import SECOND

ROOT = Path(__file__).parents[2]


class FoundPoint:
    """An entry point as an installed package would have it."""

    def __init__(self, name: str, target: type) -> None:
        self.name = name
        self._target = target

    def load(self) -> type:
        return self._target


def test_the_algorithm_of_the_guide_works(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs/adding-an-algorithm.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    module = types.ModuleType("gossip_of_the_guide")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "adding-an-algorithm.md", "exec"), module.__dict__)
    point = FoundPoint("gossip", module.Gossip)
    monkeypatch.setattr(algorithms, "entry_points", lambda group: [point])

    assert algorithms.names() == ("divshare", "gossip")
    with pytest.raises(ConfigError, match="did you mean 'local_steps'"):
        algorithms.make("gossip", {"local_step": 3})
    names = (NodeId("a"), NodeId("b"))
    peers = [
        Peer(
            setting=PeerSetting(
                me=me,
                peers=tuple(name for name in names if name != me),
                members=2,
                seed=1,
                layout=Layout.of({"w": (3,)}),
                stop=StopConfig(time_ns=SECOND),
            ),
            algorithm=algorithms.make("gossip", {"local_steps": 3}),
            initial=np.zeros(3, dtype=np.float32),
        )
        for me in names
    ]
    for peer in peers:
        peer.step(Started(), now=0)
    two = np.full(3, 2, dtype=np.float32)
    effects = peers[0].step(Trained(job=1, parameters=two, loss=1, steps=3), now=1)
    (sent,) = (effect for effect in effects if isinstance(effect, Send))
    peers[1].step(Received(sender=names[0], message=sent.message), now=2)
    four = np.full(3, 4, dtype=np.float32)
    peers[1].step(Trained(job=1, parameters=four, loss=1, steps=3), now=3)
    assert peers[1].parameters.tolist() == [3, 3, 3]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, f"{page.name} points to {missing}"
