"""The verb `check-algorithm`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import yaml

from deploy.check_algorithm.checks import Outcome, Result, Setting, check_all
from deploy.check_algorithm.subject import subject
from node.config import Mode
from node.errors import ConfigError

_STYLES: Final = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.SKIPPED: "dim"}


def check_algorithm(
    name: str,
    *,
    mode: str | None,
    nodes: int,
    seeds: int,
    sets: Sequence[str],
    as_json: bool,
) -> int:
    """Check an algorithm and print how it did; 1 where a check fails.

    Raises:
        ConfigError: there is no such algorithm, option or mode.
    """
    what = subject(name, dict(map(_option, sets)))
    modes = what.kind.MODES if mode is None else (Mode(mode),)
    if not set(modes) <= set(what.kind.MODES):
        allowed = ", ".join(each.value for each in what.kind.MODES)
        raise ConfigError(
            f"{name} does not run in mode {mode}", where="--mode", remedy=f"{allowed}"
        )
    told: list[dict[str, Any]] = []
    failed = False
    for each in modes:
        overlay, case = what.case(nodes=nodes, mode=each)
        setting = Setting(subject=what, case=case, nodes=nodes, seeds=range(1, seeds + 1))
        results = check_all(setting)
        failed = failed or any(result.outcome is Outcome.FAIL for result in results)
        told.append({"mode": each.value, "overlay": overlay, "checks": list(map(_plain, results))})
        if not as_json:
            _print(f"{name}, {each.value}, {nodes} nodes in {overlay}", results)
    if as_json:
        found = {"algorithm": name, "nodes": nodes, "seeds": seeds, "passed": not failed}
        sys.stdout.write(json.dumps({**found, "modes": told}, indent=2) + "\n")
    return int(failed)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no option", where="--set", remedy="write OPTION=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{value!r} is no value", where=f"--set {key}") from error


def _plain(result: Result) -> dict[str, Any]:
    return {
        "check": result.name,
        "outcome": result.outcome.name.lower(),
        "seen": result.seen,
        "remedy": result.remedy or None,
    }


def _print(title: str, results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if os.isatty(1) else 140, highlight=False)
    table = Table(title=title, title_justify="left")
    for heading in ("check", "", "seen"):
        table.add_column(heading)
    for result in results:
        outcome = Text(result.outcome.value, style=_STYLES[result.outcome])
        seen = result.seen + (f"\nto do: {result.remedy}" if result.remedy else "")
        table.add_row(result.name, outcome, Text(seen))
    console.print(table)
