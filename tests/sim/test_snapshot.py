"""Snapshots: what comes back is what was stored, shared as it was, and nothing else is let in."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.effects import Train
from node.errors import EnvironmentFault
from node.sim.snapshot import NotStorable, dump, load

HERE = __name__


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Way(enum.Flag):
    IN = 1
    OUT = 2


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    parts: frozenset[Any] = frozenset()


@dataclass(slots=True, eq=False)
class Slotted:
    one: Any = None
    two: Any = None


class Plain:
    def __init__(self) -> None:
        self.items: list[Any] = []
        self.later: Any = None

    def add(self, item: Any) -> None:
        self.items.append(item)


class Base:
    __slots__ = ("__hidden", "never")

    def __init__(self, hidden: Any) -> None:
        self.__hidden = hidden

    @property
    def hidden(self) -> Any:
        return self.__hidden


class Mixed(Base):
    def __init__(self, hidden: Any, loose: Any) -> None:
        super().__init__(hidden)
        self.loose = loose


class Keeps:
    TRANSIENT: ClassVar[tuple[str, ...]] = ("file",)

    def __init__(self, file: Any) -> None:
        self.file = file
        self.count = 1


class Greedy(list[int]):
    """A kind of list with attributes of its own."""


def shouted(text: str) -> str:
    return text.upper()


def again(value: Any) -> Any:
    return load(dump(value, modules=(HERE,)), where="test", modules=(HERE,))


# --- whatever is nested


def order(value: Any) -> str:
    """A text to sort by that is the same for the same value: sets have no order."""
    match value:
        case frozenset():
            return f"frozenset{sorted(map(order, value))}"
        case tuple():
            return f"{type(value).__name__}{[*map(order, value)]}"
        case Key(name=name, parts=parts):
            return f"Key{name!r}{order(parts)}"
    return f"{type(value).__name__}{value!r}"


class Twin:
    """Whether two graphs are the same: kinds, contents, order, and who is shared with whom."""

    def __init__(self) -> None:
        self._there: dict[int, int] = {}
        self._back: dict[int, int] = {}

    def check(self, a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, float):
            assert a == b or (math.isnan(a) and math.isnan(b))
            assert math.copysign(1, a) == math.copysign(1, b)
        elif isinstance(a, type(None) | bool | int | str | bytes | enum.Enum):
            assert a == b
        elif not isinstance(a, tuple | frozenset) or a:  # empty ones are one object everywhere
            met = id(a) in self._there
            assert self._there.setdefault(id(a), id(b)) == id(b)
            assert self._back.setdefault(id(b), id(a)) == id(a)
            if not met:
                self._contents(a, b)

    def _contents(self, a: Any, b: Any) -> None:
        match a:
            case np.ndarray():
                assert (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)
                assert a.tobytes() == b.tobytes()
                assert a.flags.writeable == b.flags.writeable
            case bytearray():
                assert a == b
            case set() | frozenset():
                for x, y in zip(sorted(a, key=order), sorted(b, key=order), strict=True):
                    self.check(x, y)
            case dict():
                self._all([*a.items()], [*b.items()])
            case list() | tuple() | deque():
                self._all(a, b)
                if isinstance(a, deque):
                    assert a.maxlen == b.maxlen
            case _:
                names = ("one", "two", "name", "parts") if not hasattr(a, "__dict__") else vars(a)
                held = [name for name in names if hasattr(a, name)]
                self._all([getattr(a, n) for n in held], [getattr(b, n) for n in held])

    def _all(self, a: Any, b: Any) -> None:
        for x, y in zip(a, b, strict=True):
            if isinstance(x, tuple) and isinstance(a, list) and len(x) == 2:
                self.check(x[0], y[0])  # an item of a dict, or a pair: made anew each time
                self.check(x[1], y[1])
            else:
                self.check(x, y)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**200)
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.sampled_from([Colour.RED, Colour.BLUE, Way.IN])
)
HASHABLE = st.recursive(
    SCALARS.filter(lambda value: value == value),
    lambda inner: (
        st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(Key, name=st.text(max_size=3), parts=st.frozensets(inner, max_size=2))
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=5,
)
ARRAYS = st.builds(
    lambda dtype, shape, frozen: _array(dtype, tuple(shape), frozen=frozen),
    st.sampled_from(["<f4", "<f8", ">i2", "<u8", "?", "<c16", "<M8[ns]", "<U3"]),
    st.lists(st.integers(min_value=0, max_value=3), max_size=3),
    st.booleans(),
)


def _array(dtype: str, shape: tuple[int, ...], *, frozen: bool) -> np.ndarray[Any, Any]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.arange(size, dtype=np.uint8)
    array = (raw % 2 == 1)[: math.prod(shape)] if dtype == "?" else raw.view(dtype)
    if dtype == "<U3":
        array = np.full(math.prod(shape), "xyz")
    array = array.reshape(shape).copy()
    array.flags.writeable = not frozen
    return array


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """Objects that refer to each other in any way, cycles included."""
    kinds: list[Callable[[], Any]] = [
        list, dict, OrderedDict, deque, Slotted, Plain, lambda: deque(maxlen=5)
    ]  # fmt: skip
    nodes = [draw(st.sampled_from(kinds))() for _ in range(draw(st.integers(1, 6)))]
    node = st.sampled_from(nodes)
    leaf = HASHABLE | ARRAYS | st.builds(set, st.sets(HASHABLE, max_size=3)) | st.builds(bytearray)
    entry = node | leaf | st.tuples(node, leaf, node) | st.builds(Pair, node, leaf)
    for target in nodes:
        entries = draw(st.lists(entry, max_size=4))
        match target:
            case list() | deque():
                target.extend(entries)
            case dict():
                target.update((draw(HASHABLE), value) for value in entries)
            case Slotted():
                target.one, target.two = (*entries, None, None)[:2]
            case Plain():
                target.items, target.later = entries, target.add
    return nodes


@given(graphs())
def test_any_graph_comes_back_as_it_was(graph: Any) -> None:
    Twin().check(graph, again(graph))


@given(graphs())
def test_storing_it_again_gives_the_same_bytes(graph: Any) -> None:
    """Nothing is left to chance: of sets, which have no order, the stored one stays."""
    once = dump(graph, modules=(HERE,))
    both = load(once, where="test", modules=(HERE,)), load(once, where="test", modules=(HERE,))
    assert dump(both[0], modules=(HERE,)) == dump(both[1], modules=(HERE,))


# --- kinds


def test_kinds_of_objects() -> None:
    value = Mixed(hidden=[1], loose={"a": 1.5})
    back = again([value, Way.OUT, Colour.BLUE, Pair(1, (2,)), Key("k"), shouted, Colour, int])
    assert (back[0].hidden, back[0].loose) == ([1], {"a": 1.5})
    assert not hasattr(back[0], "never")
    assert back[1] is Way.OUT
    assert back[2] is Colour.BLUE
    assert back[3] == Pair(1, (2,))
    assert type(back[3]) is Pair
    assert back[4] == Key("k")
    assert back[5:] == [shouted, Colour, int]


def test_collections_keep_their_kind_and_order() -> None:
    counts = Counter("banana")
    by_letter: defaultdict[str, list[int]] = defaultdict(list, z=[1], a=[2])
    back = again([counts, by_letter, OrderedDict(z=1, a=2), deque([1, 2], maxlen=2)])
    assert back == [counts, by_letter, OrderedDict(z=1, a=2), deque([1, 2], maxlen=2)]
    assert list(back[1]) == ["z", "a"]
    assert back[1]["new"] == []
    assert back[3].maxlen == 2


def test_a_bound_method_is_of_the_stored_object() -> None:
    value = Plain()
    value.later = value.add
    back = again(value)
    back.later(7)
    assert back.items == [7]
    assert value.items == []


def test_keys_that_are_objects_are_found_again() -> None:
    key = Key("k", frozenset({Key("inner"), ("t", Colour.RED)}))
    odd = Slotted(one=key)
    back = again({"by": {key: 1, odd: 2}, "all": {key, odd}, "key": key, "odd": odd})
    assert back["by"][back["key"]] == 1
    assert back["by"][back["odd"]] == 2
    assert back["key"] in back["all"]
    assert back["odd"] in back["all"]


def test_a_frozen_set_of_objects_that_know_it() -> None:
    one, two = Slotted(), Slotted()
    one.one = two.one = frozenset({one, two})
    back = again(one)
    assert back in back.one
    assert len(back.one) == 2


def test_transient_attributes_are_left_out() -> None:
    with threading.Lock() as _:
        back = again(Keeps(file=threading.Lock()))
    assert back.count == 1
    assert not hasattr(back, "file")


# --- NumPy


def test_views_stay_views() -> None:
    whole = np.arange(24, dtype=np.float32)
    part, grid = whole[3:9], whole.reshape(4, 6)
    back = again({"part": part, "grid": grid, "turned": grid.T[::-1, ::2], "whole": whole})
    back["whole"][3] = 99
    assert back["part"][0] == 99
    assert back["grid"][0, 3] == 99
    assert back["turned"][2, 0] == 99
    assert back["turned"].strides == grid.T[::-1, ::2].strides
    twice = again(back)
    twice["part"][0] = 5
    assert twice["whole"][3] == 5


def test_of_a_large_array_only_what_is_used_is_stored() -> None:
    pool = np.arange(1_000_000, dtype=np.float32)
    near, far = pool[500_000:500_010], pool[500_005:500_020:5]
    stored = dump([near, far])
    assert len(stored) < 1000
    back = load(stored, where="test")
    assert (back[0] == near).all()
    assert (back[1] == far).all()
    back[0][5] = -1
    assert back[1][0] == -1


def test_read_only_is_kept_for_each_view() -> None:
    whole = np.zeros(4)
    shown = whole[:]
    shown.flags.writeable = False
    back = again([whole, shown])
    back[0][1] = 3
    assert back[1][1] == 3
    with pytest.raises(ValueError, match="read-only"):
        back[1][0] = 1


def test_orders_of_memory() -> None:
    fortran = np.asfortranarray(np.arange(6).reshape(2, 3))
    back = again([fortran, np.float32(0.1), np.int64(-3), np.zeros((0, 3)), np.array(2.5)])
    assert back[0].flags.f_contiguous
    assert (back[0] == fortran).all()
    assert type(back[1]) is np.float32
    assert back[1] == np.float32(0.1)
    assert type(back[2]) is np.int64
    assert back[3].shape == (0, 3)
    assert back[4][()] == 2.5


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_go_on_where_they_were(kind: Any) -> None:
    rng = np.random.Generator(kind(7))
    rng.random(5)
    rng.integers(10, dtype=np.int32)  # half a word is kept for the next
    first, second = again([rng, rng])
    assert first is second
    expected = rng.integers(2**31, size=3, dtype=np.int32), rng.normal(size=9)
    came = first.integers(2**31, size=3, dtype=np.int32), first.normal(size=9)
    assert (expected[0] == came[0]).all()
    assert (expected[1] == came[1]).all()
    assert first.spawn(1)[0].random() == rng.spawn(1)[0].random()


# --- what is refused


@dataclass
class World:
    hosts: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (lambda: 1, "a lambda"),
        (threading.Lock(), "a _thread.lock; allowed are only things of node"),
        ((n for n in ()), "a builtins.generator; allowed"),
        ([].append, "a builtins.builtin_function_or_method; allowed"),
        (Greedy(), "a Greedy, which is a kind of <class 'list'>"),
        (Way.IN | Way.OUT, "has no name of its own"),
        (np.array([None]), "an array of object"),
        ("\ud800", "a text that is not Unicode"),
        (math.sqrt, "a builtins.builtin_function_or_method"),
        (json.dumps, "a json.dumps; allowed"),
        (ValueError("x"), "a builtins.ValueError; allowed"),
    ],
)
def test_what_cannot_be_stored_is_named_with_the_way_to_it(thing: Any, told: str) -> None:
    world = World(hosts={"n3": Slotted(one=[0, Pair({1: 2}, thing)])})
    with pytest.raises(NotStorable) as error:
        dump(world, name="world", modules=(HERE,))
    assert str(error.value).startswith("world.hosts['n3'].one[1].right")
    assert told in str(error.value)


def test_a_function_within_a_function_is_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(NotStorable, match=r"root\[0\]: .*<locals>.inner, which cannot be found"):
        dump([inner], modules=(HERE,))


def test_a_key_is_named() -> None:
    with pytest.raises(NotStorable, match=r"root\['k'\] key <function>: a lambda"):
        dump({"k": {(lambda: 1): 1}})


def test_modules_that_are_not_named_are_refused_both_ways() -> None:
    with pytest.raises(NotStorable, match=r"root: a tests\.sim\.test_snapshot\.Key; allowed"):
        dump(Key("k"))
    stored = dump(Key("k"), modules=(HERE,))
    with pytest.raises(EnvironmentFault, match=r"Key: only of node it may be"):
        load(stored, where="x")


# --- damaged and foreign files


def _resigned(data: bytes, change: Callable[[Any], None]) -> bytes:
    """The same file with another graph, as somebody who knows the format would make it."""
    line, _, rest = data.partition(b"\n")
    size = int(line.split()[3])
    graph = json.loads(rest[:size])
    change(graph)
    document = json.dumps(graph).encode()
    digest = hashlib.sha256(document).hexdigest().encode()
    return b"peerbed-snapshot 1 %s %d\n%s" % (digest, len(document), document)


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    stored = dump({"model": np.arange(50.0), "names": ["a", "b"], "n": 2**80})
    at = data.draw(st.integers(0, len(stored) - 1))
    broken = bytearray(stored)
    broken[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EnvironmentFault) as error:
        load(bytes(broken), where="run/checkpoints/000001.snapshot")
    assert error.value.where == "run/checkpoints/000001.snapshot"
    assert error.value.remedy


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"peerbed-snapshot 1 x", b"\x80\x04."])
def test_foreign_files_are_refused(data: bytes) -> None:
    with pytest.raises(EnvironmentFault, match="damaged, or no snapshot"):
        load(data, where="x")


def test_a_cut_file_is_refused() -> None:
    stored = dump(np.arange(1000))
    for size in (10, len(stored) // 2, len(stored) - 1):
        with pytest.raises(EnvironmentFault):
            load(stored[:size], where="x")


def test_another_version_is_refused() -> None:
    stored = dump([1]).replace(b"peerbed-snapshot 1", b"peerbed-snapshot 9", 1)
    with pytest.raises(EnvironmentFault, match="a snapshot of version 9, not 1"):
        load(stored, where="x")


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:Popen", "nodes:x"])
def test_nothing_else_can_be_named_in_a_file(name: str) -> None:
    stored = dump(Train(job=1, steps=1, parameters=np.zeros(0, np.float32)))
    evil = _resigned(stored, lambda graph: graph["names"].__setitem__(0, name))
    with pytest.raises(EnvironmentFault, match="only of node it may be"):
        load(evil, where="x")


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.__setitem__("root", [99]),
        lambda graph: graph["objects"].__setitem__(0, ["nonsense"]),
        lambda graph: graph["objects"].__setitem__(0, ["tuple", [0]]),
        lambda graph: graph["names"].__setitem__(0, "node.core.effects:Nothing"),
        lambda graph: graph["names"].__setitem__(0, "node.no.such:Thing"),
        lambda graph: graph["names"].__setitem__(0, ":eval"),
        lambda graph: graph.pop("shapes"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(change: Callable[[Any], None]) -> None:
    stored = dump(Train(job=1, steps=1, parameters=np.zeros(0, np.float32)))
    with pytest.raises(EnvironmentFault):
        load(_resigned(stored, change), where="x")


def test_a_class_that_has_changed_since_is_refused() -> None:
    stored = dump(Train(job=1, steps=1, parameters=np.zeros(1, np.float32)))

    def renamed(graph: Any) -> None:
        graph["shapes"][0][graph["shapes"][0].index("steps")] = "batches"

    with pytest.raises(EnvironmentFault, match="attributes of Train have changed: batches, steps"):
        load(_resigned(stored, renamed), where="x")
