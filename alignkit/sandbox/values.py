"""Plain values as JSON and back, between a process that is trusted and one that is not.

What is read back consists of Python's own types only, whatever the other side wrote: no class of its own, and so no
`__eq__`, `__bool__` or `__hash__` of its own, ever reaches the code that judges (and a NaN that is no number on either
side). Anything else travels as a number that
names an object of the other side.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from alignkit.sandbox.not_a_number import NotANumber

DEEPEST = 100
DEEPEST_QUESTION = 2 * DEEPEST  # an answer that is handed back, and what a test puts around it
LARGEST_PLAIN_INTEGER = 1 << 63

SEQUENCES: dict[str, Callable] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "iterator": iter,
}
MAPPINGS: dict[str, Callable] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "defaultdict": lambda pairs: defaultdict(None, pairs),
}
TEXTS: dict[str, Callable] = {
    "int": lambda text: int(text, 16),
    "complex": complex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Fraction": Fraction,
    "Decimal": Decimal,
}
BASES = (int, float, complex, str, bytes, bytearray, tuple, frozenset, set, deque, dict, list, Fraction, Decimal)


class Unsendable(TypeError):
    """A value that is neither plain nor allowed to travel as a name."""


def encode(value: Any, name: Callable[[Any], dict], depth: int = DEEPEST) -> Any:
    """The value as what JSON can hold: lists as lists, the rest as {"type": ..., "of": ...}.

    name: gives the stand-in for an object that is not plain, or raises Unsendable. depth: how many levels it may have;
    ValueError for more.
    """
    if depth < 0:
        raise ValueError("a value is nested too deep")
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if abs(value) < LARGEST_PLAIN_INTEGER else {"type": "int", "of": hex(value)}
    if kind is list:
        return [encode(item, name, depth - 1) for item in value]
    if kind is range:
        return {"type": "range", "of": [value.start, value.stop, value.step]}
    label = kind.__name__
    if kind in (tuple, set, frozenset, deque):
        return {"type": label, "of": [encode(item, name, depth - 1) for item in value]}
    if kind in (dict, OrderedDict, Counter, defaultdict):
        pairs = [[encode(key, name, depth - 1), encode(item, name, depth - 1)] for key, item in value.items()]
        return {"type": label, "of": pairs}
    if kind in (bytes, bytearray):
        return {"type": label, "of": value.hex()}
    if kind in (complex, Fraction, Decimal):
        return {"type": label, "of": str(value)}
    for base in BASES:  # a subclass is worth what it inherits: a named tuple is a tuple
        if isinstance(value, base):
            return encode(base(value), name, depth)
    return name(value)


def decode(value: Any, stand_in: Callable[[int], Any], depth: int = DEEPEST) -> Any:
    """The value that `encode` was given. stand_in: what represents the other side's object of that number.

    Raises ValueError, TypeError, LookupError, RecursionError, ArithmeticError or MemoryError for anything that `encode`
    cannot have given.
    """
    if depth < 0:
        raise ValueError("a value is nested too deep")
    if isinstance(value, list):
        return [decode(item, stand_in, depth - 1) for item in value]
    if not isinstance(value, dict):
        return NotANumber() if value != value else value
    label, content = value["type"], value["of"]
    if label == "object":
        return stand_in(int(content))
    if label == "range":
        return range(*(int(number) for number in content))
    if label in TEXTS:
        return TEXTS[label](str(content))
    if label in SEQUENCES:
        return SEQUENCES[label]([decode(item, stand_in, depth - 1) for item in content])
    pairs = [(decode(key, stand_in, depth - 1), decode(item, stand_in, depth - 1)) for key, item in content]
    return MAPPINGS[label](pairs)
