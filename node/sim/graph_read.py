"""The objects of a graph, made anew (pure): see `node.sim.snapshot`.

First everything that can be made empty; then what cannot, as it is needed, and the attributes and
entries of objects and lists; last sets and dicts, whose keys are hashed and so must be whole, and
generators, whose states are dicts.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np

from node.sim.kinds import BIT_GENERATORS, BUILTINS, allowed, find, slots

_ABSENT: Final = object()
_HASHING: Final = {"set": 1, "dict": 1, "ordered": 1, "counter": 1, "defaultdict": 2}
"""Kinds that are filled last, and where in their records the entries begin."""


class Unknown(Exception):
    """The graph names what is not there, or is not allowed."""


class GraphReader:
    """Makes one graph.

    Args:
        graph: what `GraphWriter.graph` returned.
        blobs: the pieces of memory.
        modules: whose classes and functions may be in it.
    """

    def __init__(self, graph: Any, blobs: memoryview, *, modules: tuple[str, ...]) -> None:
        self._records: list[list[Any]] = graph["objects"]
        self._root = graph["root"]
        self._blobs = blobs
        self._modules = modules
        self._names = [self._named(name) for name in graph["names"]]
        self._shapes = [self._shape(kind, tuple(names)) for kind, *names in graph["shapes"]]
        self._made: list[Any] = [_ABSENT] * len(self._records)
        self._filled = bytearray(len(self._records))
        self._texts: dict[str, str] = {}
        self._empty: dict[str, Callable[..., Any]] = {
            "list": lambda *_: [],
            "set": lambda *_: set(),
            "dict": lambda *_: {},
            "ordered": lambda *_: OrderedDict(),
            "counter": lambda *_: Counter(),
            "deque": lambda maxlen, *_: deque(maxlen=maxlen),
            "defaultdict": lambda factory, *_: defaultdict(self._value(factory)),
            "object": lambda shape, *_: object.__new__(self._shapes[shape][0]),
        }
        """Kinds that are made empty, and filled when all objects are there."""
        self._whole: dict[str, Callable[..., Any]] = {
            "tuple": lambda *entries: tuple(map(self._value, entries)),
            "named tuple": self._named_tuple,
            "frozenset": self._frozenset,
            "int": lambda text: int(text, 16),
            "bytes": lambda offset, size: bytes(self._blobs[offset : offset + size]),
            "bytearray": lambda offset, size: bytearray(self._blobs[offset : offset + size]),
            "array": self._array,
            "memory": self._memory,
            "scalar": self._scalar,
            "generator": lambda bits: np.random.Generator(self._value(bits)),
            "bits": self._bit_generator,
            "seeds": self._seeds,
            "enum": lambda kind, name: self._names[kind].__members__[name],
            "named": lambda name: self._names[name],
            "method": self._method,
        }
        """Kinds that are made with all that is in them."""

    def root(self) -> Any:
        """Raises Unknown, or what Python raises where the graph makes no sense."""
        for number, (kind, *rest) in enumerate(self._records):
            if kind in self._empty:
                self._made[number] = self._empty[kind](*rest)
        for number, (kind, *_) in enumerate(self._records):
            if kind not in _HASHING:
                self._object(number)
                self._fill(number)
        for number, (kind, *_) in enumerate(self._records):
            if kind in _HASHING:
                self._fill_hashing(number)
        for number, (kind, *rest) in enumerate(self._records):
            if kind == "bits":
                self._made[number].state = self._value(rest[1])
        return self._value(self._root)

    # --- names

    def _named(self, name: str) -> Any:
        module, _, path = name.partition(":")
        if not module:
            return BUILTINS[path]
        if not allowed(module, self._modules):
            raise Unknown(f"{module}.{path}: only of {', '.join(self._modules)} it may be")
        try:
            found = find(module, path)
        except ImportError as error:
            raise Unknown(f"there is no {module}: {error}") from error
        if not isinstance(found, type | types.FunctionType):
            raise Unknown(f"there is no {path} in {module}")
        return found

    def _shape(self, kind: int, names: tuple[str, ...]) -> tuple[type, tuple[str, ...], int]:
        """A class, names of attributes in their order, and how many of them are in slots."""
        cls = self._names[kind]
        own = set(slots(cls))
        loose = [name for name in names if name not in own]
        lost = loose if cls.__dictoffset__ == 0 else []
        if is_dataclass(cls):
            known, left_out = {f.name for f in fields(cls)}, getattr(cls, "TRANSIENT", ())
            lost += sorted((own or known) & known - set(names) - set(left_out))
        if lost:
            raise Unknown(f"attributes of {cls.__qualname__} have changed: {', '.join(lost)}")
        return cls, names, len(names) - len(loose)

    # --- values

    def _value(self, value: Any) -> Any:
        if type(value) is list:
            return self._object(value[0])
        if type(value) is str:
            return self._texts.setdefault(value, value)
        return value

    def _object(self, number: int) -> Any:
        made = self._made[number]
        if made is _ABSENT:
            kind, *rest = self._records[number]
            made = self._made[number] = self._whole[kind](*rest)
        return made

    def _fill(self, number: int) -> None:
        """Attributes and entries of what was made empty; once."""
        if self._filled[number]:
            return
        self._filled[number] = True
        target, record = self._made[number], self._records[number]
        match record[0]:
            case "list":
                target.extend(map(self._value, record[1:]))
            case "deque":
                target.extend(map(self._value, record[2:]))
            case "object":
                _, names, in_slots = self._shapes[record[1]]
                values = list(map(self._value, record[2:]))
                for name, value in zip(names[:in_slots], values, strict=False):
                    object.__setattr__(target, name, value)
                if in_slots < len(names):
                    loose = zip(names[in_slots:], values[in_slots:], strict=True)
                    target.__dict__.update(loose)

    def _fill_hashing(self, number: int) -> None:
        target, record = self._made[number], self._records[number]
        entries = map(self._value, record[_HASHING[record[0]] :])
        if record[0] == "set":
            target.update(entries)
        else:
            for key in entries:
                target[key] = next(entries)

    def _frozenset(self, *entries: Any) -> frozenset[Any]:
        for entry in entries:
            self._complete(entry)
        return frozenset(map(self._value, entries))

    def _complete(self, value: Any) -> None:
        """Fill what the hash of a value depends on."""
        if type(value) is not list or self._filled[value[0]]:
            return
        made = self._object(value[0])
        self._fill(value[0])
        by_identity = type(made).__hash__ is object.__hash__  # type: ignore[comparison-overlap]
        if not by_identity:
            for inner in self._records[value[0]][1:]:
                self._complete(inner)

    def _named_tuple(self, kind: int, *entries: Any) -> Any:
        return tuple.__new__(self._names[kind], map(self._value, entries))

    def _method(self, target: Any, name: str) -> types.MethodType:
        owner = self._value(target)
        function = inspect.getattr_static(type(owner), name, None)
        if not isinstance(function, types.FunctionType):
            raise Unknown(f"{type(owner).__qualname__} has no method {name!r}")
        return types.MethodType(function, owner)

    # --- NumPy

    def _memory(self, offset: int, size: int) -> Any:
        memory = np.empty(size, dtype=np.uint8)
        memory[:] = np.frombuffer(self._blobs[offset : offset + size], dtype=np.uint8)
        return memory

    def _array(self, memory: Any, dtype: str, place: list[Any]) -> Any:
        shape, strides, offset, writeable = place
        array: np.ndarray[Any, Any] = np.ndarray(
            tuple(shape), dtype, buffer=self._value(memory), offset=offset, strides=tuple(strides)
        )
        array.flags.writeable = writeable
        return array

    def _scalar(self, dtype: str, text: str) -> Any:
        return np.frombuffer(bytes.fromhex(text), dtype=dtype)[0]

    def _bit_generator(self, name: str, state: Any, seeds: Any) -> Any:
        del state  # a dict, which has no entries yet
        return BIT_GENERATORS[name](self._value(seeds))

    def _seeds(self, entropy: Any, spawn_key: Any, pool_size: int, children: int) -> Any:
        return np.random.SeedSequence(
            self._value(entropy),
            spawn_key=self._value(spawn_key),
            pool_size=pool_size,
            n_children_spawned=children,
        )
