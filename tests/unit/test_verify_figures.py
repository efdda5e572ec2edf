"""The pictures and tables of a verification, also of odd shapes: they are drawn, and readable."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from deploy.verify.figures import draw_network, draw_timeline
from deploy.verify.judge import KERNEL, document, judge_segments
from deploy.verify.readings import Throughput
from deploy.verify.tables import tables
from node.core.ids import NodeId
from tests.unit.test_verify_judge import EVENTS, EVERY, STAR, load_of, measured


def links(
    names: list[str], *, loss: float | None = None, ok: bool | None = True, step: int = 1
) -> dict[str, Any]:
    """links.json of every `step`-th pair."""
    pairs = [
        {
            "from": a,
            "to": b,
            "asked": {"rate_bps": 20_000_000, "delay_ms": 5.0, "jitter_ms": 0.0, "loss": loss or 0},
            "applied": None,
            "measured": {"rtt_ms": 10.1, "goodput_bps": 19.1e6, "loss": loss},
            "tolerance": {"rtt_ms": [8.9, 11.2], "goodput_bps": [18.5e6, 19.7e6], "loss": None},
            "ok": ok,
            "why": None if ok else "off",
        }
        for a, b in itertools.islice(itertools.permutations(names, 2), 0, None, step)
    ]
    return {"emulator": "nfqueue", "pairs": pairs}


def picture(path: Path) -> Any:
    """The pixels, as shares."""
    pixels = imread(path)
    assert np.std(pixels) > 0.05, "not blank"
    return pixels


@pytest.mark.parametrize("count", [1, 2, 3, 12, 64])
def test_a_heatmap_of_any_number_of_nodes(count: int, tmp_path: Path) -> None:
    names = [f"n-{i}" for i in range(count)]
    draw_network(
        tmp_path / "network.png", links=links(names, step=7 if count > 12 else 1), names=names
    )
    height, width, _ = picture(tmp_path / "network.png").shape
    assert 500 < width < 4000
    assert 500 < height < 4000


def test_loss_has_a_column_where_it_was_measured(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    draw_network(tmp_path / "without.png", links=links(names), names=names)
    draw_network(tmp_path / "with.png", links=links(names, loss=0.02), names=names)
    widths = [picture(tmp_path / f"{name}.png").shape[1] for name in ("without", "with")]
    assert widths[1] > 1.3 * widths[0]


def test_what_was_not_measured_or_has_no_bounds_is_left_blank(tmp_path: Path) -> None:
    names = ["a", "b"]
    content = links(names, ok=None)
    content["pairs"][0] |= {"measured": None, "tolerance": None, "asked": {"delay_ms": None}}
    content["pairs"][1] |= {"measured": {}, "tolerance": {"goodput_bps": [0, 0]}}
    draw_network(tmp_path / "network.png", links=content, names=names)
    draw_network(tmp_path / "none.png", links={"pairs": []}, names=names)
    picture(tmp_path / "none.png")


def reds(pixels: Any) -> int:
    """How many pixels are clearly red."""
    return int(((pixels[..., 0] > 0.6) & (pixels[..., 1] < 0.35) & (pixels[..., 2] < 0.35)).sum())


def test_pairs_that_are_off_are_framed(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for name, ok in (("fine", True), ("off", False)):
        draw_network(tmp_path / f"{name}.png", links=links(names, ok=ok), names=names)
    assert reds(picture(tmp_path / "off.png")) > 10 * reds(picture(tmp_path / "fine.png")) + 100


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (STAR, None),
        (STAR, 1),
        (STAR + EVENTS, None),
        (STAR.replace("nodes: 3", "nodes: 9") + EVENTS, None),
        (STAR.replace("rate: 20mbit, ", "").replace("nodes: 3", "nodes: 5"), None),
    ],
    ids=["one segment", "one flow", "events", "many flows", "many unlimited flows"],
)
def test_a_timeline_of_any_shape(text: str, pairs: int | None, tmp_path: Path) -> None:
    load = load_of(text, pairs=pairs)
    curves = Throughput(
        every_ns=EVERY,
        received={p: [25_000.0] * (load.time_ns // EVERY - 3) for p in load.sample.pairs},
    )
    segments = judge_segments(load, curves, emulator="nfqueue")
    path = tmp_path / "deep" / "timeline.png"
    draw_timeline(path, load=load, segments=segments, curves=curves, allowed=KERNEL, title="t/r")
    height, width, _ = picture(path).shape
    assert 300 < height < 2500
    assert 500 < width < 4000


def test_a_timeline_without_records(tmp_path: Path) -> None:
    load = load_of(STAR + EVENTS)
    curves = Throughput(every_ns=EVERY, received={})
    segments = judge_segments(load, curves, emulator="nfqueue")
    path = tmp_path / "timeline.png"
    draw_timeline(path, load=load, segments=segments, curves=curves, allowed=KERNEL, title="t/r")
    picture(path)


def printed(content: dict[str, Any]) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    for part in tables(json.loads(json.dumps(content))):
        console.print(part, markup=False)
    return console.export_text()


def test_tables_name_what_is_off() -> None:
    load = load_of(STAR + EVENTS)
    off = (NodeId("n-0"), NodeId("n-1"))
    curves = measured(load, lambda pair, number: 0.5 if (pair, number) == (off, 1) else 1.0)
    segments = judge_segments(load, curves, emulator="nfqueue")
    cpu = {"cores": 2, "busy": 0.5}
    text = printed(document(load, segments, (), emulator="nfqueue", notes=["a note"], cpu=cpu))
    (line,) = [line for line in text.splitlines() if "-50.0%" in line and "n-0 to n-1" in line]
    assert "expected" in line
    assert "a note" in text
    assert "2 cores were 50% busy" in text


def test_many_flows_are_the_worst_and_a_number() -> None:
    load = load_of(STAR.replace("nodes: 3", "nodes: 9"))
    off = load.sample.pairs[40]
    curves = measured(load, lambda pair, _: 0.5 if pair == off else 1.0)
    segments = judge_segments(load, curves, emulator="nfqueue")
    text = printed(document(load, segments, (), emulator="nfqueue"))
    assert f"{off[0]} to {off[1]}" in text
    assert "the worst 24 of 90, 87 of which are as expected" in text
    assert len(text.splitlines()) < 80
