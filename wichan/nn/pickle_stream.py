"""Read what a pickle describes without unpickling it: nothing in it is looked up, imported or called.

A pickle is a program for a stack machine. This one runs the instructions that build plain data (numbers, text, lists,
dicts) and stops there: a name stays a name, and "call this" becomes an `Inert` record of what should have been called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MAX_BYTES = 64 << 20
MAX_INSTRUCTIONS = 1_000_000  # a checkpoint of 10 000 tensors has about 300 000
_MAX_COPIED = 4 << 20  # elements handed to functions: an object can be named again and again, and copied each time
_LETTERS = 16  # letters or bytes that count as one element
_MAX_KEY_ITEMS = 16
_MAX_NAME = 500
_CONTAINERS = (list, tuple, dict, set, frozenset)


class Inert:
    """What a file says about an object whose class is not known here; it can do nothing.

    Attributes:
        name: ``module.qualified_name`` as written in the file.
        args: arguments of the call that would have made the object, or ``None`` where the name itself is meant.
        state: what would have become its attributes, or ``None``.
        items: what would have been put into it.
    """

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any = None) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"<inert {self.name:.80}>"


class UnknownGlobalError(ValueError):
    """The pickle names something that is not known, and names were not to be kept."""


def read_pickle(
    data: bytes,
    *,
    functions: Mapping[str, Callable[..., Any]],
    constants: Mapping[str, Any],
    persistent: Callable[[Any], Any],
    keep_unknown: bool,
) -> Any:
    """Return what a pickle describes.

    Args:
        data: the pickle.
        functions: name -> our own function that builds what a call of that name means; the only ones ever called.
        constants: name -> value.
        persistent: resolves a persistent id.
        keep_unknown: turn other names into `Inert`; otherwise they are an error.

    Raises:
        ValueError: too large, cut short, or with instructions that data do not need. Damaged pickles may raise other errors.

    Cost: about 1 µs an instruction; memory grows with the number of instructions only.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"its structure has {len(data)} bytes; at most {MAX_BYTES} are read")
    return _Machine(functions, constants, persistent, keep_unknown).run(data)


class _Machine:
    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        constants: Mapping[str, Any],
        persistent: Callable[[Any], Any],
        keep_unknown: bool,
    ) -> None:
        self._functions = functions
        self._constants = constants
        self._persistent = persistent
        self._keep_unknown = keep_unknown
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_INSTRUCTIONS:
                raise ValueError(f"its structure has more than {MAX_INSTRUCTIONS} instructions")
            name = opcode.name
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _VALUES:
                self._stack.append(_VALUES[name])
            elif (handler := _HANDLERS.get(name)) is not None:
                handler(self, argument)
            elif name not in _NOTHING:
                raise ValueError(f"instruction {name} is not read")
        if len(self._stack) != 1 or self._marks:
            raise ValueError("its structure is not balanced")
        return self._stack[0]

    # -- The stack. --

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its structure is not balanced")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _since_mark(self) -> list[Any]:
        height = self._marks.pop()
        items = self._stack[height:]
        del self._stack[height:]
        return items

    def _pop_or_mark(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _remember(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._top()

    # -- Containers. --

    def _put_pairs(self, pairs: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Inert):
            target.items += pairs
        elif isinstance(target, dict) and len(pairs) % 2 == 0:
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                target[checked_key(key)] = value
        else:
            raise ValueError(f"it sets items of a {type(target).__name__}")

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Inert):
            target.items += items
        elif isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(checked_key(item) for item in items)
        else:
            raise ValueError(f"it appends to a {type(target).__name__}")

    def _new_dict(self, _: Any) -> None:
        pairs = self._since_mark()
        self._stack.append({})
        self._put_pairs(pairs)

    # -- Names and calls. --

    def _name(self, module: Any, qualified: Any) -> None:
        if not isinstance(module, str) or not isinstance(qualified, str):
            raise ValueError("it names something by what is not text")
        if len(module) + len(qualified) > _MAX_NAME:
            raise ValueError(f"it holds a name of {len(module) + len(qualified)} letters")
        name = f"{'builtins' if module == '__builtin__' else module}.{qualified}"
        if name in self._constants:
            self._stack.append(self._constants[name])
            return
        if not self._keep_unknown and name not in self._functions:
            raise UnknownGlobalError(f"it names {name!r:.90}, which is not among the plain types of a checkpoint")
        self._stack.append(Inert(name))

    def _name_from_stack(self, _: Any) -> None:
        qualified, module = self._pop(), self._pop()
        self._name(module, qualified)

    def _call(self, args: Any) -> None:
        target = self._pop()
        if not isinstance(target, Inert) or not isinstance(args, tuple):
            raise ValueError(f"it calls a {type(target).__name__}")
        function = self._functions.get(target.name) if target.args is None else None
        if function is None:
            self._stack.append(Inert(target.name, args))
            return
        self._copied += sum(len(value) for value in args if isinstance(value, _CONTAINERS))
        self._copied += sum(len(value) // _LETTERS for value in args if isinstance(value, (str, bytes, bytearray)))
        if self._copied > _MAX_COPIED:
            raise ValueError("it copies its own parts over and over")
        self._stack.append(function(*args))

    def _reduce(self, _: Any) -> None:
        self._call(self._pop())

    def _new_with_keywords(self, _: Any) -> None:
        keywords, args = self._pop(), self._pop()
        self._call((args, keywords))

    def _instance(self, name: str) -> None:
        args = tuple(self._since_mark())
        self._name(*name.split(" ", 1))
        self._call(args)

    def _object(self, _: Any) -> None:
        target, *args = self._since_mark()
        self._stack.append(target)
        self._call(tuple(args))

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict may carry attributes, which are left out
            raise ValueError(f"it sets attributes of a {type(target).__name__}")


def checked_key(key: Any) -> Any:
    """Return ``key`` if hashing it is safe and quick: text, numbers of 64 bits, names, or short tuples of those.

    Tuples of tuples can take exponential time to hash, and chosen large integers collide.
    """
    for item in key if isinstance(key, tuple) and len(key) <= _MAX_KEY_ITEMS else (key,):
        plain = item is None or isinstance(item, (str, bytes, float, Inert))
        if not plain and not (isinstance(item, int) and item.bit_length() < 64):
            raise ValueError(f"a {type(item).__name__} is no key of a plain dict")
    return key


_PLAIN = ("int", "int_or_bool", "float", "str", "bytes", "bytes_or_str", "bytearray")
_LITERALS = frozenset(  # instructions that put their own argument on the stack, and nothing else
    code.name
    for code in pickletools.opcodes
    if not code.stack_before and [c.name for c in code.stack_after] in [[p] for p in _PLAIN]
)
_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_Handler = Callable[[_Machine, Any], None]
_HANDLERS: dict[str, _Handler] = {
    "MARK": lambda m, _: m._marks.append(len(m._stack)),
    "POP": _Machine._pop_or_mark,
    "POP_MARK": lambda m, _: m._since_mark().clear(),
    "DUP": lambda m, _: m._stack.append(m._top()),
    "TUPLE": lambda m, _: m._stack.append(tuple(m._since_mark())),
    "TUPLE1": lambda m, _: m._tuple_of(1),
    "TUPLE2": lambda m, _: m._tuple_of(2),
    "TUPLE3": lambda m, _: m._tuple_of(3),
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "EMPTY_SET": lambda m, _: m._stack.append(set()),
    "LIST": lambda m, _: m._stack.append(m._since_mark()),
    "DICT": _Machine._new_dict,
    "FROZENSET": lambda m, _: m._stack.append(frozenset(checked_key(item) for item in m._since_mark())),
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._since_mark()),
    "ADDITEMS": lambda m, _: m._append(m._since_mark()),
    "SETITEM": lambda m, _: m._put_pairs([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._put_pairs(m._since_mark()),
    "GET": lambda m, place: m._stack.append(m._memo[place]),
    "BINGET": lambda m, place: m._stack.append(m._memo[place]),
    "LONG_BINGET": lambda m, place: m._stack.append(m._memo[place]),
    "PUT": _Machine._remember,
    "BINPUT": _Machine._remember,
    "LONG_BINPUT": _Machine._remember,
    "MEMOIZE": _Machine._remember,
    "GLOBAL": lambda m, name: m._name(*name.split(" ", 1)),
    "STACK_GLOBAL": _Machine._name_from_stack,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_with_keywords,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "BINPERSID": lambda m, _: m._stack.append(m._persistent(m._pop())),
}
