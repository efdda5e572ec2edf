"""The rules of docs/architecture.md that a machine can check, as tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the foundation up: a module may import from its own layer and from those above it in this
# list. `node.core` needs no runtime, `deploy` may use all of `node`, and nothing imports `deploy`.
LAYERS = (
    ("node", "node.units", "node.errors"),
    ("node.core.ids",),
    ("node.config",),
    ("node.core",),
    ("node.algorithms",),
    ("node.wire",),
    ("node.links",),
    ("node.training",),
    ("node.metrics",),
    ("node.sim",),
    ("node.runtime",),
    ("node.__main__",),
    ("deploy",),
)

PURE = (
    "node.units",
    "node.errors",
    "node.typed_json",
    "node.config",
    "node.core",
    "node.algorithms",
    "node.links.delay",
    "node.links.read_netem",
    "node.links.estimate",
    "node.links.queue",
    "node.links.report",
    "node.links.schedule",
    "node.links.sharing",
    "node.links.tc_plan",
    "node.links.window",
    "node.links.usage_wire",
    "node.links.tree",
    "node.links.tc_change",
    "node.links.sizes",
    "node.links.orders",
    "node.links.impair",
    "node.links.rules",
    "node.links.pending",
    "node.links.exchange",
    "node.training.catalog",
    "node.training.partition",
    "node.packing",
    "node.sim.interfaces",
    "node.sim.queue",
    "node.sim.network",
    "node.sim.wire",
    "node.sim.fate",
    "node.sim.lane",
    "node.sim.pipe",
    "node.sim.outgoing",
    "node.sim.send_queue",
    "node.sim.meter",
    "node.sim.mesh",
    "node.sim.compute",
    "node.sim.coordinator",
    "node.sim.host",
    "node.sim.jobs",
    "node.sim.line",
    "node.sim.process",
    "node.sim.untrained",
    "node.sim.world",
    "node.sim.snapshot",
    "node.sim.kinds",
    "node.sim.graph_write",
    "node.sim.graph_read",
    "node.sim.trace",
    "node.sim.replay",
    "deploy.plan",
    "deploy.plan_links",
    "deploy.places",
    "deploy.sim_network",
    "deploy.paths",
    "deploy.topology",
    "deploy.render",
    "deploy.topology.formats",
    "deploy.addresses",
    "deploy.checks",
    "deploy.history",
    "deploy.progress",
    "deploy.summary",
    "deploy.curves",
    "deploy.compare.settings",
    "deploy.compare.metrics",
    "deploy.compare.analysis",
    "deploy.check_algorithm.case",
    "deploy.check_algorithm.toy",
    "deploy.check_algorithm.nonsense",
    "deploy.check_algorithm.network",
    "deploy.membership",
    "deploy.signaling",
    "deploy.verify.model",
    "deploy.verify.segments",
    "deploy.verify.prepare",
    "deploy.verify.readings",
    "deploy.verify.judge",
)
IMPURE_MODULES = {
    "asyncio", "grpc", "os", "random", "socket", "subprocess", "threading", "time", "torch",
    "multiprocessing", "select", "signal",
}  # fmt: skip
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 500
IMAGE_LACKS = {
    "click", "jinja2", "docker", "pydantic", "yaml", "networkx", "rich", "defusedxml", "matplotlib",
}  # fmt: skip


def sources() -> Iterator[tuple[str, Path]]:
    """Our own modules by dotted name; generated code is not ours to shape."""
    for package in ("node", "deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "generated" in path.parts:
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(sources())


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever it does so, with the line."""
    for entry in ast.walk(ast.parse(path.read_text())):
        if isinstance(entry, ast.Import):
            for alias in entry.names:
                yield alias.name, entry.lineno
        elif isinstance(entry, ast.ImportFrom):
            assert entry.level == 0, f"{path}:{entry.lineno}: relative import"
            module = entry.module or ""
            for alias in entry.names:
                whole = f"{module}.{alias.name}"
                yield (whole if whole in MODULES else module), entry.lineno


def layer(module: str) -> int:
    """The layer of the longest prefix that the list names."""
    best, depth = -1, -1
    for index, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and name.count(".") > depth:
                best, depth = index, name.count(".")
    return best


def within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    wrong = [
        f"line {line}: imports {name}"
        for name, line in imports(MODULES[module])
        if name.split(".")[0] in ("node", "deploy") and layer(name) > layer(module)
    ]
    assert not wrong, f"{module} must not import what stands below it in LAYERS: {wrong}"


@pytest.mark.parametrize("module", [m for m in MODULES if within(m, PURE)])
def test_pure_parts_do_no_io(module: str) -> None:
    wrong = [
        f"line {line}: {name}"
        for name, line in imports(MODULES[module])
        if name.split(".")[0] in IMPURE_MODULES
    ]
    assert not wrong, f"{module} is pure: {wrong}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("node")])
def test_the_image_needs_nothing_of_deploy(module: str) -> None:
    wrong = [
        f"line {line}: {name}"
        for name, line in imports(MODULES[module])
        if name.split(".")[0] in IMAGE_LACKS | {"deploy"}
    ]
    assert not wrong, f"the node image does not have these: {wrong}"


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if m.startswith("node") and not m.startswith("node.training")],
)
def test_only_the_trainer_imports_torch(module: str) -> None:
    wrong = [line for name, line in imports(MODULES[module]) if name.split(".")[0] == "torch"]
    assert not wrong, f"{module}: torch at lines {wrong}"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "node.wire.codec"])
def test_only_the_codec_imports_generated_code(module: str) -> None:
    wrong = [line for name, line in imports(MODULES[module]) if "generated" in name]
    assert not wrong, f"{module}: generated code at lines {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_pickles(module: str) -> None:
    names = {name.split(".")[0] for name, _ in imports(MODULES[module])}
    assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module: str) -> None:
    path = MODULES[module]
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} has {text.count(chr(10))} lines"
    for entry in ast.walk(ast.parse(text)):
        if isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef):
            assert entry.end_lineno is not None
            length = entry.end_lineno - entry.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{entry.lineno} {entry.name}: {length}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text())), MODULES[module]


def test_the_rules_can_fail() -> None:
    """The helpers above see what they should: a guard against a rule that checks nothing."""
    assert len(MODULES) > 15
    assert layer("deploy.cli") > layer("node.runtime.drive") > layer("node.core.peer")
    assert layer("node.core.peer") > layer("node.config") > layer("node.core.ids")
    found = {name for name, _ in imports(MODULES["node.core.peer"])}
    assert "node.core.parts" in found
