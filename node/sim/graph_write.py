"""An object graph as plain lists and pieces of memory (pure): see `node.sim.snapshot`."""

from __future__ import annotations

import enum
import inspect
import types
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np
from numpy.lib.array_utils import byte_bounds

from node.sim.kinds import BIT_GENERATORS, BUILTINS, DICTS, LISTS, allowed, find, slots

_VALUES: Final = frozenset({type(None), bool, float})
_SMALL: Final = 2**63
"""Integers below are written as JSON has them."""

Array = np.ndarray[Any, Any]


class NotStorable(ValueError):
    """Something in the graph cannot be stored; the message names the way to it."""


class _Memory:
    """The memory of an array that is nobody's view; of it, what arrays of the graph lie in."""

    def __init__(self, owner: Array) -> None:
        self._owner = owner
        self._used = byte_bounds(owner)[::-1]
        """From the first byte that an array lies in to the last."""
        self._places: list[tuple[int, list[Any]]] = []

    def place(self, array: Array) -> list[Any]:
        """Where in it an array lies: shape, strides, offset (once all is known), writeable."""
        low, high = byte_bounds(array)
        self._used = (min(low, self._used[0]), max(high, self._used[1]))
        place = [list(array.shape), list(array.strides), 0, array.flags.writeable]
        self._places.append((array.__array_interface__["data"][0], place))
        return place

    def content(self) -> bytes | None:
        """Its bytes in order, as far as they are used; None where it is not in one piece."""
        order = np.argsort([-stride for stride in self._owner.strides], kind="stable")
        straight = self._owner.transpose(order)
        if not straight.flags.c_contiguous:
            return None
        first, last = self._used
        for address, place in self._places:
            place[2] = address - first
        begin = byte_bounds(self._owner)[0]
        return straight.reshape(-1).view(np.uint8)[first - begin : last - begin].tobytes()


class GraphWriter:
    """Stores one graph. Every object gets a number when it is first met, and is written in turn.

    Args:
        name: of the root, for errors.
        modules: whose classes and functions may be in it.

    Attributes:
        blobs: pieces of memory, one behind the other, that records refer to.
    """

    def __init__(self, *, name: str, modules: tuple[str, ...]) -> None:
        self._root = name
        self._modules = modules
        self.blobs: list[bytes] = []
        self._blob_size = 0
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._met: list[tuple[int, str, Any]] = []
        """In which object each was first met, and as what: `.` attribute, `[` entry, `k` key."""
        self._at = -1
        """Number of the object that is being written."""
        self._names: dict[str, int] = {}
        self._shapes: dict[tuple[type, tuple[str, ...]], int] = {}
        self._slots: dict[type, tuple[str, ...]] = {}
        self._memories: dict[int, _Memory] = {}
        self._writers: dict[type, Callable[[Any], list[Any]]] = {
            **dict.fromkeys(LISTS, self._list),
            **dict.fromkeys(DICTS, self._dict),
            deque: self._deque,
            defaultdict: self._defaultdict,
            int: self._int,
            bytes: self._bytes,
            bytearray: self._bytes,
            np.ndarray: self._array,
            _Memory: self._memory,
            np.random.Generator: self._generator,
            np.random.SeedSequence: self._seeds,
            types.MethodType: self._method,
            types.FunctionType: self._named,
        }

    def graph(self, root: Any) -> dict[str, Any]:
        """JSON that `GraphReader` reads. Raises NotStorable."""
        first = self._value(root, ".", "")
        records: list[list[Any]] = []
        while (number := len(records)) < len(self._objects):
            self._at = number
            value = self._objects[number]
            writer = self._writers.get(type(value), self._other)
            records.append(writer(value))
        for number, value in enumerate(self._objects):
            if isinstance(value, _Memory):
                records[number] = self._content(value, number)
        shapes = [[self._name(kind), *names] for kind, names in self._shapes]
        names = list(self._names)
        return {"names": names, "shapes": shapes, "objects": records, "root": first}

    # --- references

    def _value(self, value: Any, how: str, key: Any) -> Any:
        """A value as it stands in a record; `how` and `key` say where, as in `_met`."""
        kind = type(value)
        if kind is str:
            if not value.isascii():
                self._check_text(value, how, key)
            return value
        if kind in _VALUES or (kind is int and -_SMALL <= value < _SMALL):
            return value
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # which also keeps its id from being used again
            self._met.append((self._at, how, key))
        return [number]

    def _check_text(self, value: str, how: str, key: Any) -> None:
        try:
            value.encode()
        except UnicodeEncodeError:
            self._refuse("a text that is not Unicode", _step(how, key))

    def _refuse(self, what: str, last_step: str = "") -> NoReturn:
        """Raise with the way to the object that is being written, or one step further."""
        steps, at = [last_step], self._at
        while at > 0:
            parent, how, key = self._met[at]
            steps.append(_step(how, key))
            at = parent
        raise NotStorable(f"{self._root}{''.join(reversed(steps))}: {what}")

    def _name(self, thing: Any) -> int:
        """Number of the name of a class, or of a function, of an allowed module."""
        module, path = str(thing.__module__), thing.__qualname__
        if BUILTINS.get(path) is thing:
            return self._names.setdefault(f":{path}", len(self._names))
        if not allowed(module, self._modules):
            those = ", ".join(self._modules)
            self._refuse(f"a {module}.{path}; allowed are only things of {those}")
        if find(module, path) is not thing:
            self._refuse(f"a {module}.{path}, which cannot be found by that name")
        return self._names.setdefault(f"{module}:{path}", len(self._names))

    def _blob(self, content: bytes) -> list[int]:
        """Offset and length of a piece of memory."""
        place = [self._blob_size, len(content)]
        self.blobs.append(content)
        self._blob_size += len(content)
        return place

    # --- containers, numbers, bytes

    def _entries(self, value: Any) -> list[Any]:
        return [self._value(entry, "[", index) for index, entry in enumerate(value)]

    def _list(self, value: Any) -> list[Any]:
        return [LISTS[type(value)], *self._entries(value)]

    def _deque(self, value: deque[Any]) -> list[Any]:
        return ["deque", value.maxlen, *self._entries(value)]

    def _pairs(self, value: dict[Any, Any]) -> list[Any]:
        pairs: list[Any] = []
        for key, entry in value.items():
            pairs += (self._value(key, "k", key), self._value(entry, "[", key))
        return pairs

    def _dict(self, value: dict[Any, Any]) -> list[Any]:
        return [DICTS[type(value)], *self._pairs(value)]

    def _defaultdict(self, value: defaultdict[Any, Any]) -> list[Any]:
        factory = self._value(value.default_factory, ".", "default_factory")
        return ["defaultdict", factory, *self._pairs(value)]

    def _int(self, value: int) -> list[Any]:
        return ["int", hex(value)]

    def _bytes(self, value: bytes | bytearray) -> list[Any]:
        return [type(value).__name__, *self._blob(bytes(value))]

    # --- NumPy

    def _array(self, value: Array) -> list[Any]:
        if value.dtype.hasobject or value.dtype.names is not None:
            self._refuse(f"an array of {value.dtype}")
        owner = value
        while isinstance(owner.base, np.ndarray) and value.size:
            owner = owner.base
        memory = self._memories.get(id(owner))
        if memory is None:
            memory = self._memories[id(owner)] = _Memory(owner)
        where = self._value(memory, ".", "base")
        return ["array", where, value.dtype.str, memory.place(value)]

    def _memory(self, value: _Memory) -> list[Any]:
        del value
        return []  # made when all arrays in it are known

    def _content(self, value: _Memory, number: int) -> list[Any]:
        content = value.content()
        if content is None:
            self._at = number
            self._refuse("an array whose memory is not in one piece")
        return ["memory", *self._blob(content)]

    def _generator(self, value: np.random.Generator) -> list[Any]:
        return ["generator", self._value(value.bit_generator, ".", "bit_generator")]

    def _bit_generator(self, value: np.random.BitGenerator) -> list[Any]:
        name = type(value).__name__
        if BIT_GENERATORS.get(name) is not type(value):
            self._refuse(f"a {name}")
        state = self._value(value.state, ".", "state")
        return ["bits", name, state, self._value(value.seed_seq, ".", "seed_seq")]

    def _seeds(self, value: np.random.SeedSequence) -> list[Any]:
        given = value.entropy
        whole = given if given is None or isinstance(given, int) else tuple(map(int, given))
        entropy = self._value(whole, ".", "entropy")
        spawn_key = self._value(value.spawn_key, ".", "spawn_key")
        return ["seeds", entropy, spawn_key, value.pool_size, value.n_children_spawned]

    # --- classes and their objects

    def _named(self, value: Any) -> list[Any]:
        if value.__name__ == "<lambda>":
            self._refuse("a lambda")
        return ["named", self._name(value)]

    def _method(self, value: types.MethodType) -> list[Any]:
        name = value.__func__.__name__
        if inspect.getattr_static(type(value.__self__), name, None) is not value.__func__:
            self._refuse(f"a bound method {name!r} that its object's class does not have")
        return ["method", self._value(value.__self__, ".", "__self__"), name]

    def _other(self, value: Any) -> list[Any]:
        kind = type(value)
        if isinstance(value, type):
            return self._named(value)
        if isinstance(value, enum.Enum):
            if kind.__members__.get(value.name) is not value:
                self._refuse(f"{value!r}, which has no name of its own")
            return ["enum", self._name(kind), value.name]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            entries = (self._value(getattr(value, f), ".", f) for f in kind._fields)
            return ["named tuple", self._name(kind), *entries]
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ["scalar", value.dtype.str, value.tobytes().hex()]
        if isinstance(value, np.random.BitGenerator):
            return self._bit_generator(value)
        return self._object(value, kind)

    def _object(self, value: Any, kind: type) -> list[Any]:
        if kind not in self._slots:
            self._slots[kind] = self._check_kind(kind)
        found = {}
        for name in self._slots[kind]:
            try:
                found[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue  # declared, and not set
        found.update(getattr(value, "__dict__", {}))
        for name in getattr(kind, "TRANSIENT", ()):
            found.pop(name, None)
        shape = self._shapes.setdefault((kind, tuple(found)), len(self._shapes))
        return ["object", shape, *(self._value(entry, ".", n) for n, entry in found.items())]

    def _check_kind(self, kind: type) -> tuple[str, ...]:
        """The slots of a class whose objects can be made without calling it."""
        self._name(kind)
        try:
            object.__new__(kind)
        except TypeError:
            self._refuse(f"a {kind.__qualname__}, which is a kind of {kind.__base__}")
        return slots(kind)


def _step(how: str, key: Any) -> str:
    match how:
        case ".":
            return f".{key}"
        case "k":
            return f" key {_short(key)}"
        case _:
            return f"[{_short(key)}]"


def _short(key: Any) -> str:
    if isinstance(key, str | int | float | enum.Enum | types.NoneType):
        return repr(key)
    if isinstance(key, tuple):
        return f"({', '.join(map(_short, key))})"
    return f"<{type(key).__name__}>"
