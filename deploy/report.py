"""A run's end for people: tables on the terminal, and a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from deploy.history import Event, as_float, of_kind
from deploy.live import percent, size
from deploy.membership import PRESENT, Spell, parts
from deploy.plan import plan_from_json
from deploy.records import read_events
from deploy.results import RunFolder, writing
from node.config import Emulator
from node.errors import ConfigError, EnvironmentFault, PeerbedError
from node.units import format_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_VERDICT_STYLES: Final = {"valid": "bold green", "invalid": "bold red", "unknown": "bold yellow"}
_ROWS_MAX: Final = 40
"""Of a table of nodes or pairs; those that are not as asked are always the first to be in it."""
_FORMATS: Final = (".png", ".svg", ".pdf")


def run_json(folder: RunFolder, *, verdict: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All that a script wants to know of a run, in one object."""
    return {
        "run": folder.run_id,
        "topology": folder.topology,
        "path": str(folder.path),
        "state": folder.state().value,
        **(verdict or folder.verdict or {"verdict": None, "reasons": []}),
        "summary": folder.summary,
        "links": folder.read_json(folder.links_file),
        "verify": folder.read_json(folder.verify_file),
        "manifest": folder.manifest,
    }


def print_run(folder: RunFolder, *, verdict: Mapping[str, Any] | None = None) -> None:
    """Print nodes, links, totals and the verdict of a run."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    summary, trained = folder.summary, folder.manifest.get("purpose") != "verify"
    if trained and summary is not None and summary.get("duration_s") is not None:
        console.print(_nodes(summary))
    links = folder.read_json(folder.links_file)
    if links is not None and links.get("pairs"):
        console.print(_links(links))
    for line in _totals(summary or {}) if trained else ():
        console.print(line, markup=False)
    if (verified := folder.read_json(folder.verify_file)) is not None:
        from deploy.verify.tables import tables

        for part in tables(verified):
            console.print(part, markup=False)
    judged = verdict or folder.verdict or {"verdict": folder.state().value, "reasons": []}
    word = str(judged["verdict"])
    style = _VERDICT_STYLES.get(word, "bold")
    console.print(Text(f"{folder.topology}/{folder.run_id}: ").append(word, style=style))
    for reason in judged.get("reasons", []):
        console.print("  - " + str(reason).replace("\n", "\n  "), markup=False)
    for remark in judged.get("remarks", []):
        console.print(f"  note: {remark}", markup=False)
    console.print(str(folder.path), markup=False, soft_wrap=True)


def _nodes(summary: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("node")
    for heading in ("rounds", "accuracy", "loss", "model bytes", "wire bytes", "cancelled"):
        table.add_column(heading, justify="right")
    table.add_column("ended at")
    nodes = summary.get("nodes") or {}
    shown = nodes
    if len(nodes) > _ROWS_MAX:
        first = sorted(nodes, key=lambda name: _worth_seeing(nodes[name]))[:_ROWS_MAX]
        shown = {name: nodes[name] for name in nodes if name in set(first)}
        table.caption = f"{len(shown)} of {len(nodes)} nodes: those that are gone, then the worst"
    for name, node in shown.items():
        counts = node.get("bytes") or {}
        loss = as_float(node.get("loss"))
        table.add_row(
            name,
            str(node.get("rounds", "-")),
            percent(as_float(node.get("accuracy"))),
            "-" if loss is None else f"{loss:.3f}",
            *(size(counts.get(key)) for key in ("model", "wire", "cancelled")),
            _end(node),
        )
    return table


def _worth_seeing(node: Mapping[str, Any]) -> tuple[bool, float]:
    """What sorts a node to the front of a table that has no room for all."""
    accuracy = as_float(node.get("accuracy"))
    return node.get("state", PRESENT) == PRESENT, -1.0 if accuracy is None else accuracy


def _end(node: Mapping[str, Any]) -> str:
    """The stop condition at which a node ended, or what became of it before."""
    state = node.get("state", PRESENT)
    if state == PRESENT:
        return str(node.get("stop") or "-")
    return f"{state}: {node['reason']}" if node.get("reason") else str(state)


def _links(links: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"links ({links.get('emulator')}): asked / measured", title_justify="left")
    table.add_column("from")
    table.add_column("to")
    for heading in ("rate", "goodput", "round trip asked", "measured", "loss"):
        table.add_column(heading, justify="right")
    table.add_column("as asked")
    by_pair = {(p.get("from"), p.get("to")): p for p in links["pairs"]}
    shown = by_pair
    if len(by_pair) > _ROWS_MAX:
        worst = sorted(by_pair, key=lambda ends: by_pair[ends].get("ok") is not False)[:_ROWS_MAX]
        shown = {ends: by_pair[ends] for ends in by_pair if ends in set(worst)}
        fine = sum(pair.get("ok") is True for pair in by_pair.values())
        computed = links.get("emulator") == Emulator.MODEL.value
        words = "computed as asked" if computed else f"{fine} are as asked"
        table.caption = f"{len(shown)} of {len(by_pair)} pairs; {words}"
    for (source, target), pair in shown.items():
        asked, measured = pair.get("asked") or {}, pair.get("measured") or {}
        back = (by_pair.get((target, source), pair).get("asked")) or {}
        delays = [as_float(direction.get("delay_ms")) for direction in (asked, back)]
        table.add_row(
            str(source),
            str(target),
            _rate(asked.get("rate_bps")),
            _rate(measured.get("goodput_bps")),
            _milliseconds(sum(delay or 0.0 for delay in delays)),
            _milliseconds(measured.get("rtt_ms")),
            f"{percent(as_float(asked.get('loss')))} / {percent(as_float(measured.get('loss')))}",
            _as_asked(pair),
            style="red" if pair.get("ok") is False else None,
        )
    return table


def _as_asked(pair: Mapping[str, Any]) -> str:
    why = pair.get("why")
    return "yes" if pair.get("ok") is True else str(why or "not measured")


def _rate(value: object) -> str:
    rate = as_float(value)
    return "-" if rate is None else format_rate(round(rate, -4 if rate > 1e6 else 0).__int__())


def _milliseconds(value: object) -> str:
    number = as_float(value)
    return "-" if number is None else f"{number:.2f} ms"


def _totals(summary: Mapping[str, Any]) -> list[str]:
    """The run as a whole, in a few lines."""
    if summary.get("duration_s") is None:
        return []
    accuracy, counts = summary.get("accuracy") or {}, summary.get("bytes") or {}
    times = {
        f"{float(target):.0%}": f"{seconds:.1f} s"
        for target, seconds in (summary.get("time_to_accuracy") or {}).items()
        if seconds is not None
    }
    merged = accuracy.get("merged")
    duration = as_float(summary.get("duration_s"))
    lines = [
        f"accuracy {percent(accuracy.get('mean'))} mean, {percent(accuracy.get('min'))} to"
        f" {percent(accuracy.get('max'))}"
        + (f", {percent(merged)} of the merged model" if merged is not None else "")
        + ("" if duration is None else f"; {duration:.1f} s of training"),
        f"{size(counts.get('model'))} of model sent, {size(counts.get('cancelled'))} cancelled,"
        f" {size(counts.get('wire'))} on the wire",
    ]
    lines += [told for told in (_spreading(summary), _trainers(summary)) if told]
    if told := _barriers(summary.get("signaling") or {}):
        lines.append(told)
    if times:
        reached = ", ".join(f"{target} after {after}" for target, after in times.items())
        lines.append(f"mean accuracy reached {reached}")
    return lines


def _spreading(summary: Mapping[str, Any]) -> str:
    """How far the models are apart in the end, and how old and whole what came was."""
    distance = as_float((summary.get("consensus") or {}).get("distance"))
    age = as_float((summary.get("staleness") or {}).get("mean"))
    coverage = as_float((summary.get("coverage") or {}).get("mean"))
    told = (
        None if distance is None else f"models {distance:.3g} apart (consensus distance)",
        None if age is None else f"what was averaged in was {age:.1f} rounds old",
        None if coverage is None else f"of {percent(coverage)} of the parameters",
    )
    return ", ".join(part for part in told if part)


def _trainers(summary: Mapping[str, Any]) -> str:
    """For how long trainers waited, as a share of the run."""
    idle, duration = summary.get("idle_s") or {}, as_float(summary.get("duration_s"))
    mean, longest = as_float(idle.get("mean")), as_float(idle.get("max"))
    if mean is None or longest is None or not duration:
        return ""
    return f"trainers idle for {percent(mean / duration)} of the time, {longest:.1f} s at most"


def _barriers(signaling: Mapping[str, Any]) -> str:
    """What the barriers took, where there was more than one, or one had to be tried again."""
    if signaling.get("rounds", 0) < 2 and not signaling.get("retries"):
        return ""
    syncs = sum(sync.get("state") == "done" for sync in signaling.get("syncs") or ())
    dropped = len(signaling.get("dropped_edges") or ())
    return (
        f"{signaling['rounds']} barriers ({signaling.get('mode')}), {signaling['retries']} retries,"
        f" {dropped} connections given up, {syncs} model syncs"
    )


# The picture -------------------------------------------------------------------------------------


def plot_run(folder: RunFolder, path: Path) -> None:
    """Draw a run: test accuracy over time of each node and the mean, and model bytes sent."""
    check_picture(path)
    try:
        plan = plan_from_json(folder.plan_file.read_text())
    except (OSError, PeerbedError):
        raise ConfigError("this run has no plan to draw", where=str(folder.path)) from None
    nodes = {str(n.name): read_events(folder.node_file(str(n.name)))[0] for n in plan.nodes}
    told, standby = read_events(folder.coordinator_file)[0], plan.coordinator.standby
    spells = {n: p.spells for n, p in parts(told, nodes=nodes, standby=standby).items()}
    pyplot = pictures()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    _draw_accuracy(left, nodes, spells)
    _draw_bytes(right, nodes)
    figure.suptitle(f"{folder.topology}: {_caption(folder)}", fontsize=11)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def check_picture(path: Path) -> None:
    """Raise ConfigError where a file's name is not that of a picture."""
    if path.suffix not in _FORMATS:
        raise ConfigError(
            f"cannot draw a {path.suffix or 'file without ending'}",
            where=str(path),
            remedy=f"end its name in {', '.join(_FORMATS)}",
        )


def pictures() -> ModuleType:
    """`matplotlib.pyplot`, without a screen. Raises EnvironmentFault."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise EnvironmentFault(
            "Python's matplotlib package is missing", remedy="pip install 'peerbed[deploy]'"
        ) from error
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _caption(folder: RunFolder) -> str:
    manifest = folder.manifest
    words = (manifest.get("algorithm"), f"{manifest.get('nodes')} nodes", manifest.get("backend"))
    return ", ".join(str(word) for word in words if word)


def _draw_accuracy(
    axes: Axes, nodes: Mapping[str, Sequence[Event]], spells: Mapping[str, Sequence[Spell]]
) -> None:
    from deploy.curves import evaluations, mean_over_time

    few = len(nodes) <= 8
    for name, events in nodes.items():
        points = evaluations(events)
        label, width = (name, 1.2) if few else (None, 0.6)
        axes.plot(*columns(points), label=label, linewidth=width, alpha=0.7, drawstyle="steps-post")
    axes.plot(
        *columns(mean_over_time(nodes, spells)),
        label="mean",
        color="black",
        linewidth=2,
        drawstyle="steps-post",
    )
    axes.set(xlabel="seconds of training", ylabel="test accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)


def _draw_bytes(axes: Axes, nodes: Mapping[str, Sequence[Event]]) -> None:
    for name, events in nodes.items():
        points = [
            (t, model / 1e6)
            for event in of_kind(events, "bytes")
            if (t := as_float(event.get("t"))) is not None
            and (model := as_float(event.get("model_sent"))) is not None
        ]
        axes.plot(*columns(points), label=name if len(nodes) <= 8 else None)
    axes.set(xlabel="seconds of training", ylabel="model sent, MB")
    axes.grid(alpha=0.3)
    if 0 < len(nodes) <= 8:
        axes.legend(loc="upper left", fontsize=8)


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as matplotlib wants them."""
    return [x for x, _ in points], [y for _, y in points]
