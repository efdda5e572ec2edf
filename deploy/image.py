"""The image that every node runs from: build it when something in it changed, else reuse it.

What goes into it is gathered first (`gather`: files, pins, the host's wheel of PyTorch, its package
index and CAs), and hashed together with the base. An image of that hash is reused. Compose files,
containers and runs are not this module's business, and it installs nothing on the host but,
through scripts/base-image, the base image.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from queue import Empty, Queue
from threading import Thread, Timer
from typing import IO
from urllib.parse import unquote, urlsplit

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.images import Image

from node.errors import EnvironmentFault

REPOSITORY = "peerbed-node"
REGISTRY_BASE = "python:3.11-slim-bookworm"
FALLBACK_BASE = "peerbed-base:bookworm"

_PYTHON_TAG = "cp311"  # the Python of both bases, as wheels name it
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Go's names of them, and Python's
_CA_FOLDER = Path("/usr/local/share/ca-certificates")
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_PULL_SILENCE_S = 20  # a registry that cannot be reached is often silence, not an error
_BUILD_SILENCE_S = 1800  # one pip install may be quiet for as long as it downloads
_BASE_DEADLINE_S = 1200
_KEPT = 3  # images of earlier sources that stay, to switch between branches quickly
_BUILDING_S = 3600  # a nameless image younger than this may belong to a build that still runs
_TAIL = 20  # lines of output that a failure shows

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeImage:
    """An image that is there.

    Attributes:
        tag: repository and content hash; Compose files name this one.
        image_id: the engine's digest of it, for the run's manifest.
        built: whether it was built just now.
        seconds: how long that, or finding it, took.
    """

    tag: str
    image_id: str
    built: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that goes into an image but its base. Contents are read once, so hash and build agree."""

    files: Mapping[str, bytes]
    pins: tuple[str, ...]
    version: str
    arguments: Mapping[str, str]
    wheel: Path | None = None
    ca_bundle: Path | None = None

    def digest(self, base_id: str) -> str:
        """Twelve hexadecimal digits that change when the image would.

        Neither the CAs nor where packages come from change what a pinned package holds. The index
        of PyTorch does: it decides between a build for processors and one for graphics cards.
        """
        digest = hashlib.sha256()
        parts: list[tuple[str, bytes]] = [
            *((name, data) for name, data in self.files.items() if name != "pyproject.toml"),
            ("pins", "\n".join(self.pins).encode()),
            ("base", base_id.encode()),
            ("wheel", self.wheel.name.encode() if self.wheel else b""),
            ("torch-index", self.arguments.get("TORCH_INDEX", "").encode()),
        ]
        for name, data in sorted(parts):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()[:12]

    def write_context(self, stream: IO[bytes]) -> None:
        """Write the build context as a tar archive that depends on nothing but the contents."""
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, data in sorted(self.files.items()):
                _add(archive, name, io.BytesIO(data), len(data))
            for folder, path in (("wheels", self.wheel), ("certs", self.ca_bundle)):
                if path:
                    name = "ca.crt" if folder == "certs" else path.name
                    with path.open("rb") as source:
                        _add(archive, f"{folder}/{name}", source, path.stat().st_size)


def _add(archive: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    """Add a file without owner and date."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, source)


def ensure_image(
    client: docker.DockerClient, *, root: Path, force: bool = False, report: Report
) -> NodeImage:
    """Return the image of the sources under `root`, building it unless it is there.

    Args:
        client: the engine.
        root: the repository root: Dockerfile, pyproject.toml, `node`.
        force: build from the first step on, whatever is there already.
        report: takes one line for each step.

    Raises:
        EnvironmentFault: the base cannot be had, or the build fails.
    """
    started = time.monotonic()
    machine = str(client.version()["Arch"])
    recipe = gather(root, machine=_MACHINES.get(machine, machine), environ=os.environ)
    base = _find_base(client, root=root, force=force, report=report)
    tag = f"{REPOSITORY}:{recipe.digest(str(base.id))}"
    image = None if force else _get(client, tag)
    built = image is None
    if image is None:
        report(f"building {tag} on {base.tags[0] if base.tags else base.short_id}")
        _build(client, recipe, base=base, tag=tag, force=force, report=report)
        image = client.images.get(tag)
    image.tag(REPOSITORY, recipe.version)
    if built:
        _sweep(client, keep=image, report=report)
    return NodeImage(
        tag=tag, image_id=str(image.id), built=built, seconds=time.monotonic() - started
    )


# What goes in ------------------------------------------------------------------------------------


def gather(root: Path, *, machine: str, environ: Mapping[str, str]) -> Recipe:
    """Read what the image of `root` is made of, on an engine for `machine` (`x86_64`, ...)."""
    try:
        files = {name: (root / name).read_bytes() for name in _context_names(root)}
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"{error.filename} is missing, which the node image is made from",
            where=str(root),
            remedy="run deploy from a checkout of peerbed, installed with: pip install -e .",
        ) from None
    project = tomllib.loads(files["pyproject.toml"].decode())["project"]
    pins = (*project["dependencies"], *project["optional-dependencies"]["train"])
    settings = pip_settings(environ)
    return Recipe(
        files=files,
        pins=pins,
        version=project["version"].replace("+", "-"),  # an image's tag has no "+"
        arguments=build_arguments(environ, settings),
        wheel=find_wheel(link_folders(settings), pins=pins, machine=machine),
        ca_bundle=find_ca_bundle(environ, settings),
    )


def _context_names(root: Path) -> Iterator[str]:
    """The files that the Dockerfile copies; .dockerignore says the same for `docker build`."""
    yield from ("Dockerfile", "LICENSE", "pyproject.toml")
    for path in sorted((root / "node").rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts:
            yield path.relative_to(root).as_posix()


def pip_settings(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """What pip is told on this host, by its own account: values of each setting, first one first.

    Without pip it is what the environment says.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    answer = subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, check=False, timeout=60
    )
    if answer.returncode == 0:
        return parse_pip_config(answer.stdout)
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value.split()
        for name, value in environ.items()
        if name.startswith("PIP_")
    }


def parse_pip_config(listing: str) -> dict[str, list[str]]:
    """Read `pip config list`: lines such as `global.find-links='/opt/wheels /srv/wheels'`."""
    settings: dict[str, list[str]] = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(?:global|install|:env:)\.([\w-]+)=('.*'|\".*\")", line)
        if match:
            values = settings.setdefault(match[1], [])
            values += [v for v in str(ast.literal_eval(match[2])).split() if v not in values]
    return settings


def link_folders(settings: Mapping[str, Sequence[str]]) -> list[Path]:
    """The folders, not pages, among pip's find-links."""
    folders = []
    for place in settings.get("find-links", ()):
        parts = urlsplit(place)
        if parts.scheme in ("", "file"):
            folders.append(Path(unquote(parts.path)).expanduser())
    return [folder for folder in folders if folder.is_dir()]


def find_wheel(folders: Iterable[Path], *, pins: Iterable[str], machine: str) -> Path | None:
    """The wheel of the pinned PyTorch for processors, where the host has one that fits the base."""
    version = next((p.removeprefix("torch==") for p in pins if p.startswith("torch==")), None)
    if version is None:
        return None
    name = re.compile(
        rf"torch-{re.escape(version)}\+cpu-{_PYTHON_TAG}-{_PYTHON_TAG}-\w*linux\w*_{machine}\.whl"
    )
    found = (path for folder in folders for path in sorted(folder.iterdir()))
    return next((path for path in found if name.fullmatch(path.name)), None)


def find_ca_bundle(
    environ: Mapping[str, str],
    settings: Mapping[str, Sequence[str]],
    *,
    site_folder: Path = _CA_FOLDER,
    system_bundle: Path = _CA_BUNDLE,
) -> Path | None:
    """The CAs that this host trusts, where they are not simply the distribution's."""
    named = [environ.get(name, "") for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    named += settings.get("cert", ())[:1]
    if any(site_folder.rglob("*.crt")):
        named.append(str(system_bundle))
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def build_arguments(
    environ: Mapping[str, str], settings: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Package indexes and proxies that a build container can reach as well as the host can."""
    torch_index = environ.get("PEERBED_TORCH_INDEX", "").split()
    candidates: dict[str, Sequence[str]] = {
        "TORCH_INDEX": torch_index,
        "PIP_INDEX_URL": settings.get("index-url", ())[:1],
        "PIP_EXTRA_INDEX_URL": settings.get("extra-index-url", ()),
    }
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        candidates[name] = [environ.get(name) or environ.get(name.lower(), "")]
    usable = {name: " ".join(filter(_reachable, urls)) for name, urls in candidates.items()}
    arguments = {name: value for name, value in usable.items() if value}
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy")
    if no_proxy and {"HTTP_PROXY", "HTTPS_PROXY"} & arguments.keys():
        arguments["NO_PROXY"] = no_proxy
    return arguments


def _reachable(url: str) -> bool:
    """Whether an address means the same in a container: http(s), and not on the host's loopback."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in ("http", "https") and not re.match(r"localhost$|127\.|::1$", host)


# The base ----------------------------------------------------------------------------------------


def _get(client: docker.DockerClient, name: str) -> Image | None:
    try:
        return client.images.get(name)
    except ImageNotFound:
        return None


def _find_base(client: docker.DockerClient, *, root: Path, force: bool, report: Report) -> Image:
    """The base: what is here already, else the registry's, else one of Debian's packages.

    A machine that once had to make its own keeps using it, rather than wait for a registry each
    time; `force` asks again.
    """
    base = _get(client, REGISTRY_BASE)
    if base is None and not force:
        base = _get(client, FALLBACK_BASE)
    if base is None:
        report(f"pulling {REGISTRY_BASE}")
        why_not = _pull(client, REGISTRY_BASE)
        if why_not:
            report(f"{REGISTRY_BASE} cannot be pulled: {why_not}")
        base = _get(client, REGISTRY_BASE) or _get(client, FALLBACK_BASE)
    if base is None:
        _make_base(root, report)
        base = _get(client, FALLBACK_BASE)
    if base is None:
        raise EnvironmentFault(
            f"scripts/base-image ended well, but this engine has no {FALLBACK_BASE}",
            remedy="let DOCKER_HOST or the docker context name the same engine for both",
        )
    return base


def _pull(client: docker.DockerClient, name: str) -> str | None:
    """Pull an image; say why not where it cannot be had, or where the engine falls silent."""
    repository, _, tag = name.rpartition(":")
    words: Queue[str | None] = Queue()  # None: it ended

    def pull() -> None:
        try:
            for entry in client.api.pull(repository, tag=tag, stream=True, decode=True):
                words.put(str(entry.get("error", "")))
        except (DockerException, requests.RequestException) as error:
            words.put(_first_line(error))
        words.put(None)

    # A thread, because the SDK lets a pull wait for ever, and the engine waits for some 25 s.
    Thread(target=pull, name="pull", daemon=True).start()
    try:
        while (word := words.get(timeout=_PULL_SILENCE_S)) is not None:
            if word:
                return word
    except Empty:
        return f"not a word from the engine or the registry within {_PULL_SILENCE_S} s"
    return None


def _make_base(root: Path, report: Report) -> None:
    """Make the fallback base with scripts/base-image, passing its lines on."""
    remedy = f"make {REGISTRY_BASE} available to the engine, or as root: scripts/base-image"
    if os.geteuid() != 0:
        raise EnvironmentFault(
            f"neither {REGISTRY_BASE} can be pulled nor, without root, {FALLBACK_BASE} be made",
            remedy=remedy,
        )
    # A group of its own, so that the deadline ends debootstrap too; the script then cleans up.
    with subprocess.Popen(
        [str(root / "scripts" / "base-image")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        timer = Timer(_BASE_DEADLINE_S, os.killpg, (process.pid, signal.SIGTERM))
        timer.start()
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip())
                report(line.rstrip().removeprefix("==> "))
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            timer.cancel()
    if status != 0:
        raise EnvironmentFault(
            "the base image could not be made:\n" + "\n".join(tail),
            where="scripts/base-image",
            remedy=remedy,
        )


# The build ---------------------------------------------------------------------------------------


def _build(
    client: docker.DockerClient,
    recipe: Recipe,
    *,
    base: Image,
    tag: str,
    force: bool,
    report: Report,
) -> None:
    """Build with the engine's classic builder, which 20.10 and later have without a plugin."""
    if recipe.wheel is None and "TORCH_INDEX" not in recipe.arguments:
        report(
            "no CPU wheel of PyTorch among pip's find-links: PyPI's build may bring CUDA (several"
            " GB); PEERBED_TORCH_INDEX=URL names a better index"
        )
    output: deque[str] = deque(maxlen=_TAIL)
    step = "Step 0"
    try:
        with tempfile.TemporaryFile() as context:
            recipe.write_context(context)
            context.seek(0)
            entries = client.api.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                buildargs={**recipe.arguments, "BASE": str(base.id)},
                nocache=force,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=_BUILD_SILENCE_S,
            )
            for entry in entries:
                for line in _lines(entry):
                    output.append(line)
                    if line.startswith("Step "):
                        step = line.partition(" :")[0]
                        report(_shorten(line))
                if "error" in entry:
                    raise _build_failed(_first_line(entry["error"]), step, output)
    except (DockerException, requests.RequestException) as error:
        raise _build_failed(_first_line(error), step, output) from error


def _build_failed(why: str, step: str, output: Iterable[str]) -> EnvironmentFault:
    return EnvironmentFault(
        "\n".join([f"the node image could not be built: {why}", *(f"  | {o}" for o in output)]),
        where=f"Dockerfile, {step.lower()}",
        remedy="mend what these lines name (network, disk, package index), then: deploy build",
    )


def _lines(entry: Mapping[str, object]) -> list[str]:
    """The lines of one entry of the build's output, without terminal colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(entry.get("stream", "")))
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _shorten(line: str) -> str:
    """One line of at most 100 characters, its runs of spaces closed up."""
    line = " ".join(line.split())
    return line if len(line) <= 100 else line[:97] + "..."


def _first_line(error: object) -> str:
    explanation = error.explanation if isinstance(error, APIError) else None
    return _shorten(str(explanation or error).strip().partition("\n")[0])


def _sweep(client: docker.DockerClient, *, keep: Image, report: Report) -> None:
    """Remove images of ours that newer ones replaced, and that no container uses.

    Those are: nodes of earlier sources; what `force` or an interrupted build left without a name;
    and all but the newest of each stage of the Dockerfile (with the packages, 1 GB each).
    """
    nodes = _labelled(client, "node")
    named = [image for image in nodes if _names(image)]
    nameless = [image for image in nodes if not image.tags and _age_s(image) > _BUILDING_S]
    stages = [*_labelled(client, "pins")[1:], *_labelled(client, "packages")[1:]]
    old_stages = [image for image in stages if _age_s(image) > _BUILDING_S]
    for image in [*named[_KEPT:], *nameless, *old_stages]:
        if image.id == keep.id:
            continue
        try:
            for name in _names(image) or [str(image.id)]:
                client.images.remove(name)
        except NotFound:
            continue  # somebody else swept it
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # that is: a container uses it
                raise
        else:
            report(f"removed the older image {', '.join(_names(image)) or image.short_id}")


def _labelled(client: docker.DockerClient, kind: str) -> list[Image]:
    """Our images of this kind, the newest first."""
    images = client.images.list(filters={"label": f"peerbed.image={kind}"})
    return sorted(images, key=_age_s)


def _names(image: Image) -> list[str]:
    return [tag for tag in image.tags if tag.startswith(f"{REPOSITORY}:")]


def _age_s(image: Image) -> float:
    created = datetime.fromisoformat(str(image.attrs["Created"]))
    return (datetime.now(UTC) - created).total_seconds()
