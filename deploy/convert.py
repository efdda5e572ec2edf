"""`deploy convert`: a topology from one format to another, checked by reading it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.loading import load_and_warn
from deploy.results import writing
from deploy.topology import Topology, formats, parse_topology
from deploy.topology.formats.kollaps_writer import to_kollaps
from deploy.topology.formats.yaml_writer import to_yaml
from deploy.topology.problems import TopologyErrors
from node.errors import ConfigError

IMAGE: Final = "app:latest"
"""Of services in Kollaps files: a place for the user's own."""


def convert(
    source: Path, target: Path | None, *, sets: Sequence[str], image: str | None, force: bool
) -> int:
    """Write `source` as `target`, in the format of its suffix; without a target print YAML.

    Raises:
        ConfigError: the source is wrong, the target is there already, or its format cannot say it.
    """
    kind = formats.YAML if target is None else _kind(target)
    if target is not None:
        _check_target(source, target, force=force)
    topology = load_and_warn(source, overrides=sets)
    if kind is formats.KOLLAPS:
        text, warnings = to_kollaps(topology, image=image or IMAGE, source=source.name)
    else:
        text, warnings = _yaml(topology, source, target)
    for warning in warnings:
        sys.stderr.write(f"warning: {target or source}: {warning}\n")
    if target is None:
        sys.stdout.write(text)
        return 0
    with writing(target):
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    sys.stdout.write(
        f"{target}: {kind.name}: {len(topology.nodes)} nodes,"
        f" {len(topology.network.links)} directed links, {len(topology.timeline)} steps\n"
    )
    return 0


def _kind(target: Path) -> formats.Format:
    kinds = {suffix: kind for kind in (formats.YAML, formats.KOLLAPS) for suffix in kind.suffixes}
    if (kind := kinds.get(target.suffix.lower())) is None:
        raise ConfigError(
            f"cannot write files that end with {target.suffix or 'nothing'!r}",
            where=str(target),
            remedy=f"the endings of what can be written: {', '.join(kinds)}",
        )
    return kind


def _check_target(source: Path, target: Path, *, force: bool) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError("this is the file to read from, too", where=str(target))
    if target.is_dir():
        raise ConfigError("is a folder", where=str(target), remedy="name a file in it")
    if target.exists() and not force:
        raise ConfigError(
            "is there already", where=str(target), remedy="take another name, or --force"
        )


def _yaml(topology: Topology, source: Path, target: Path | None) -> tuple[str, list[str]]:
    """The text, which reads back to the same topology, and what to know of it."""
    text = to_yaml(topology.file, source=source.name)
    path = target or source.with_suffix(".yaml")
    try:
        again = parse_topology(text.encode(), path=path)
    except TopologyErrors as errors:
        raise ConfigError(
            f"as YAML it could not be read: {errors.problems[0].message}", where=str(source)
        ) from errors
    if again.file != topology.file:
        raise ConfigError("as YAML it would not be the same", where=str(source))
    warnings: list[str] = []
    if path.parent.resolve() != source.parent.resolve():
        named = {"training.data_dir": topology.file.training.data_dir}
        for group, entry in topology.file.nodes.items():
            named[f"nodes.{group}.compute.trace"] = entry.compute.trace
        warnings += [
            f"{key}: {name!r} counts from the folder of the file"
            for key, name in named.items()
            if name is not None
        ]
    return text, warnings
