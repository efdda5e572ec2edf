"""Run benchmarks and print their figures: `scripts/bench [NAME ...] [--json]`.

`links` stands for all whose names begin with `links-`.

Each module beside this one offers `BENCHES`: name -> function that returns `Row`s. Absolute times
depend on the machine; what is claimed are the ratios to a plain baseline of the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from rows import Bench, Row  # noqa: E402


def discover() -> dict[str, Bench]:
    """Every benchmark by name."""
    benches: dict[str, Bench] = {}
    for path in sorted(HERE.glob("*.py")):
        module = importlib.import_module(path.stem) if path.stem[0] != "_" else None
        benches.update(getattr(module, "BENCHES", {}))
    return benches


def table(rows: list[Row]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | measured | asked for | holds |", "|---|---|---|---|"]
    for row in rows:
        holds = "" if row.holds is None else "yes" if row.holds else "**no**"
        lines.append(f"| {row.figure} | {row.value:.4g} {row.unit} | {row.target} | {holds} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    benches = discover()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(benches))
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    wanted: list[str] = []
    for asked in options.names:
        found = [name for name in benches if name == asked or name.startswith(f"{asked}-")]
        if not found:
            parser.error(f"no benchmark named {asked}; there are: {', '.join(benches)}")
        wanted += found
    results: dict[str, list[Row]] = {}
    failed = []
    for name in wanted or benches:
        begin = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            results[name] = benches[name]()
        except Exception as error:  # one benchmark that breaks must not lose the others' figures
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    if options.json:
        plain = {name: [dataclasses.asdict(row) for row in rows] for name, rows in results.items()}
        print(json.dumps({"benchmarks": plain, "failed": failed}, indent=2))
    else:
        print(f"{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        for name, rows in results.items():
            print(f"\n### {name}\n\n{table(rows)}")
    missed = [row for rows in results.values() for row in rows if row.holds is False]
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
