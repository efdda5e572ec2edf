"""The parts of deploy/image.py that need no engine: what goes in, and what its hash depends on."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest
from docker.errors import APIError

from deploy import image
from node.errors import EnvironmentFault

TORCH = "torch==2.13.0"
WHEEL = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
PYPROJECT = """
[project]
version = "1.2.3+local"
dependencies = ["numpy==2.4.6"]
[project.optional-dependencies]
train = ["torch==2.13.0"]
dev = ["pytest==1"]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in small, on a host whose pip has no settings."""
    monkeypatch.setattr(image, "pip_settings", lambda environ: {})
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "LICENSE").write_text("MIT\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "node" / "core").mkdir(parents=True)
    (tmp_path / "node" / "__init__.py").write_text("")
    (tmp_path / "node" / "core" / "peer.py").write_text("ROUND = 1\n")
    return tmp_path


def gather(root: Path) -> image.Recipe:
    return image.gather(root, machine="x86_64", environ={})


def digest(root: Path) -> str:
    return gather(root).digest("sha256:base")


# The hash ----------------------------------------------------------------------------------------


def test_the_hash_is_stable(root: Path) -> None:
    first = digest(root)
    assert len(first) == 12
    assert digest(root) == first


def add_module(root: Path) -> None:
    (root / "node" / "new.py").touch()


def change_pin(root: Path) -> None:
    (root / "pyproject.toml").write_text(PYPROJECT.replace("2.4.6", "2.4.7"))


@pytest.mark.parametrize(
    "change",
    [
        add_module,
        change_pin,
        lambda root: (root / "node" / "core" / "peer.py").write_text("ROUND = 2\n"),
        lambda root: (root / "node" / "core" / "peer.py").rename(root / "node" / "peer.py"),
        lambda root: (root / "Dockerfile").write_text("FROM scratch AS other\n"),
    ],
    ids=["new module", "pin", "changed module", "moved module", "Dockerfile"],
)
def test_the_hash_follows_what_is_in_the_image(
    root: Path, change: Callable[[Path], object]
) -> None:
    before = digest(root)
    change(root)
    assert digest(root) != before


def test_the_hash_ignores_what_is_not_in_the_image(root: Path) -> None:
    before = digest(root)
    (root / "pyproject.toml").write_text(PYPROJECT.replace("pytest==1", "pytest==2"))
    (root / "README.md").write_text("words\n")
    (root / "deploy").mkdir()
    (root / "deploy" / "cli.py").write_text("")
    cache = root / "node" / "__pycache__"
    cache.mkdir()
    (cache / "peer.cpython-311.pyc").write_bytes(b"\0")
    assert digest(root) == before


def test_the_hash_follows_base_wheel_and_index_but_not_the_cas(root: Path, tmp_path: Path) -> None:
    recipe = replace(gather(root), wheel=None, ca_bundle=None, arguments={})
    plain = recipe.digest("sha256:base")
    assert recipe.digest("sha256:other") != plain
    assert replace(recipe, wheel=tmp_path / WHEEL).digest("sha256:base") != plain
    indexed = replace(recipe, arguments={"TORCH_INDEX": "https://example.org/cpu"})
    assert indexed.digest("sha256:base") != plain
    proxied = replace(recipe, arguments={"HTTP_PROXY": "http://proxy.example.org:3128"})
    assert proxied.digest("sha256:base") == plain
    assert replace(recipe, ca_bundle=tmp_path / "ca.crt").digest("sha256:base") == plain


# The context -------------------------------------------------------------------------------------


def test_the_context_holds_what_the_dockerfile_copies(root: Path, tmp_path: Path) -> None:
    wheel, bundle = tmp_path / WHEEL, tmp_path / "site.pem"
    wheel.write_bytes(b"wheel")
    bundle.write_bytes(b"certificates")
    stream = io.BytesIO()
    replace(gather(root), wheel=wheel, ca_bundle=bundle).write_context(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        members = archive.getmembers()
        bundled = archive.extractfile("certs/ca.crt")
        assert bundled is not None
        assert bundled.read() == b"certificates"
    assert sorted(member.name for member in members) == [
        "Dockerfile",
        "LICENSE",
        "certs/ca.crt",
        "node/__init__.py",
        "node/core/peer.py",
        "pyproject.toml",
        f"wheels/{WHEEL}",
    ]
    assert {(m.uid, m.gid, m.mtime, m.mode) for m in members} == {(0, 0, 0, 0o644)}


def test_pins_come_from_the_project_and_the_version_fits_a_tag(root: Path) -> None:
    recipe = gather(root)
    assert recipe.pins == ("numpy==2.4.6", "torch==2.13.0")
    assert recipe.version == "1.2.3-local"


def test_outside_a_checkout_the_error_names_what_is_missing(root: Path) -> None:
    (root / "Dockerfile").unlink()
    with pytest.raises(EnvironmentFault, match="Dockerfile is missing") as caught:
        gather(root)
    assert caught.value.remedy


# The host's pip, wheels, CAs and proxies ---------------------------------------------------------


def test_pip_settings_are_read_from_all_places_in_pips_order() -> None:
    listing = (
        ":env:.find-links='/opt/wheels'\n"
        "global.cert='/etc/ca.pem'\n"
        "global.find-links='/srv/a\\n/opt/wheels'\n"
        "download.find-links='/not/for/install'\n"
        'global.index-url="https://it\'s.example.org"\n'
        "nonsense\n"
    )
    assert image.parse_pip_config(listing) == {
        "find-links": ["/opt/wheels", "/srv/a"],
        "cert": ["/etc/ca.pem"],
        "index-url": ["https://it's.example.org"],
    }


def test_pip_itself_is_asked() -> None:
    settings = image.pip_settings({"PATH": "/usr/bin:/bin", "PIP_FIND_LINKS": "/srv/b /srv/c"})
    assert settings["find-links"][:2] == ["/srv/b", "/srv/c"]


def test_only_folders_count_among_find_links(tmp_path: Path) -> None:
    spaced = tmp_path / "with space"
    spaced.mkdir()
    links = ["https://example.org/wheels", f"{tmp_path}/absent", spaced.as_uri(), str(tmp_path)]
    assert image.link_folders({"find-links": links}) == [spaced, tmp_path]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        (WHEEL, True),
        ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", True),
        ("torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.13.01+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", False),
    ],
)
def test_a_wheel_must_fit_pin_python_and_machine(tmp_path: Path, name: str, *, fits: bool) -> None:
    (tmp_path / name).touch()
    found = image.find_wheel([tmp_path], pins=["numpy==2.4.6", TORCH], machine="x86_64")
    assert found == (tmp_path / name if fits else None)


def test_without_a_pin_of_torch_no_wheel_fits(tmp_path: Path) -> None:
    (tmp_path / WHEEL).touch()
    assert image.find_wheel([tmp_path], pins=["numpy==2.4.6"], machine="x86_64") is None


def test_the_ca_bundle_is_the_named_one_or_the_systems_where_a_site_adds_cas(
    tmp_path: Path,
) -> None:
    site, system, named = tmp_path / "site", tmp_path / "system.pem", tmp_path / "named.pem"
    site.mkdir()
    system.touch()
    named.touch()

    def find(environ: dict[str, str], cert: str | None = None) -> Path | None:
        settings = {"cert": [cert]} if cert else {}
        return image.find_ca_bundle(environ, settings, site_folder=site, system_bundle=system)

    assert find({}) is None
    assert find({"SSL_CERT_FILE": str(named)}) == named
    assert find({"PIP_CERT": str(tmp_path / "absent"), "REQUESTS_CA_BUNDLE": str(named)}) == named
    assert find({}, cert=str(named)) == named
    (site / "own.crt").touch()
    assert find({}) == system


def test_only_addresses_that_a_container_reaches_become_build_arguments() -> None:
    environ = {
        "https_proxy": "http://proxy.example.org:3128",
        "HTTP_PROXY": "http://127.0.0.1:3128",
        "NO_PROXY": "example.org",
        "PEERBED_TORCH_INDEX": "https://example.org/cpu",
    }
    settings = {
        "index-url": ["http://localhost/simple"],
        "extra-index-url": ["file:///opt/simple", "https://a.example.org", "http://b.example.org"],
    }
    assert image.build_arguments(environ, settings) == {
        "HTTPS_PROXY": "http://proxy.example.org:3128",
        "NO_PROXY": "example.org",
        "TORCH_INDEX": "https://example.org/cpu",
        "PIP_EXTRA_INDEX_URL": "https://a.example.org http://b.example.org",
    }
    assert image.build_arguments({"NO_PROXY": "example.org"}, {}) == {}


# The fallback base -------------------------------------------------------------------------------


def base_script(root: Path, body: str) -> None:
    script = root / "scripts" / "base-image"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def test_lines_of_the_base_script_are_passed_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    base_script(root, "echo '==> one' >&2; echo two")
    lines: list[str] = []
    image._make_base(root, lines.append)
    assert lines == ["one", "two"]


def test_a_base_that_cannot_be_made_is_an_error_with_the_scripts_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    base_script(root, "echo 'error: no mirror'; exit 3")
    with pytest.raises(EnvironmentFault, match="error: no mirror") as caught:
        image._make_base(root, lambda line: None)
    assert caught.value.where == "scripts/base-image"


def test_a_base_script_that_hangs_is_ended_with_its_children(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(image, "_BASE_DEADLINE_S", 0.2)
    base_script(root, "sleep 60; echo never")
    with pytest.raises(EnvironmentFault):
        image._make_base(root, lambda line: None)


def test_without_root_the_remedy_names_both_ways(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFault) as caught:
        image._make_base(root, lambda line: None)
    assert image.REGISTRY_BASE in str(caught.value.remedy)
    assert "scripts/base-image" in str(caught.value.remedy)


# What is swept -----------------------------------------------------------------------------------


class Shelf:
    """Stands for the engine's images: lists by label, removes by name or id."""

    def __init__(self) -> None:
        self.shelf: dict[str, list[SimpleNamespace]] = {"node": [], "pins": [], "packages": []}
        self.removed: list[str] = []
        self.in_use: set[str] = set()

    def add(self, kind: str, name: str, *, hours: float, tags: tuple[str, ...] = ()) -> Any:
        created = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        entry = SimpleNamespace(id=name, short_id=name, tags=list(tags), attrs={"Created": created})
        self.shelf[kind].append(entry)
        return entry

    def list(self, *, filters: dict[str, str]) -> list[SimpleNamespace]:
        return list(self.shelf[filters["label"].removeprefix("peerbed.image=")])

    def remove(self, name: str) -> None:
        if name in self.in_use:
            raise APIError("in use", response=cast("Any", SimpleNamespace(status_code=409)))
        self.removed.append(name)


def sweep(shelf: Shelf, *, keep: Any) -> list[str]:
    lines: list[str] = []
    client = cast("docker.DockerClient", SimpleNamespace(images=shelf))
    image._sweep(client, keep=keep, report=lines.append)
    return lines


def test_the_sweep_keeps_the_newest_three_and_the_current() -> None:
    shelf = Shelf()
    tags = {age: (f"peerbed-node:{age}",) for age in range(1, 7)}
    shelf.add("node", "four", hours=4, tags=tags[4])
    for age in (1, 2, 3, 5):
        shelf.add("node", str(age), hours=age, tags=tags[age])
    current = shelf.add("node", "six", hours=6, tags=tags[6])
    lines = sweep(shelf, keep=current)
    assert shelf.removed == ["peerbed-node:4", "peerbed-node:5"]
    assert lines == [f"removed the older image {name}" for name in shelf.removed]


def test_the_sweep_leaves_what_a_container_uses_and_what_others_named() -> None:
    shelf = Shelf()
    current = shelf.add("node", "current", hours=0, tags=("peerbed-node:0",))
    for age in (1, 2, 3):
        shelf.add("node", str(age), hours=age, tags=(f"peerbed-node:{age}",))
    shelf.add("node", "mine", hours=9, tags=("somebody/copy:1",))
    shelf.in_use = {"peerbed-node:3"}
    assert sweep(shelf, keep=current) == []
    assert shelf.removed == []


def test_the_sweep_spares_nameless_images_that_a_running_build_may_need() -> None:
    shelf = Shelf()
    current = shelf.add("node", "current", hours=0, tags=("peerbed-node:0",))
    shelf.add("node", "young", hours=0.5)
    shelf.add("node", "old", hours=2)
    shelf.add("packages", "cache", hours=5)
    shelf.add("packages", "replaced", hours=6)
    shelf.add("pins", "pins", hours=5)
    sweep(shelf, keep=current)
    assert shelf.removed == ["old", "replaced"]
