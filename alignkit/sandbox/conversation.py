"""Tests in one process, the program under test in another: they share questions and plain values, and no memory.

The program's side answers `get`, `attribute`, `call`, `iterate` and `next`; the side of the tests has a stand-in for
each of the program's functions and objects. A stand-in equals nothing but itself, so no object votes on its own answer.
No exception of the program's can end a loop or pass for a failed assertion: StopIteration and its like, and
AssertionError, arrive as RuntimeError; an iterator's end is a message of its own.
"""

from __future__ import annotations

import builtins
import json
import struct
from collections import deque
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

from alignkit.sandbox.values import DEEPEST_QUESTION, Unsendable, decode, encode

LENGTH = struct.Struct(">I")
MOST_AHEAD = 256
MOST_ITEMS = 100_000
LONGEST_LINE = 300
LONGEST_ARGUMENTS = 2000
TAKEN_FOR_THE_TESTS_OWN = (AssertionError, StopIteration, StopAsyncIteration)


class ProgramGone(BaseException):
    """The program's process ended, or answered what it may not, while a test waited for it. No test may catch it."""


class Channel:
    """Messages of JSON with their length in front. largest: bytes of the longest message that is read."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO, largest: int):
        self._reader = reader
        self._writer = writer
        self._largest = largest

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        self._writer.write(LENGTH.pack(len(data)) + data)
        self._writer.flush()

    def receive(self) -> Any:
        """The next message. Raises EOFError at the end and ValueError for a message that is too long or no JSON."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        if length > self._largest:
            raise ValueError(f"an answer of {length} bytes; wanted at most {self._largest}")
        return json.loads(self._exactly(length))

    def _exactly(self, length: int) -> bytes:
        data = self._reader.read(length)
        if len(data) < length:
            raise EOFError
        return data


class Program:
    """The program's side: its names, and the objects that the tests have been told of."""

    def __init__(self, names: Mapping[str, Any]):
        self._names = names
        self._objects: list[Any] = []
        self._failed: dict[int, Exception] = {}

    def answer(self, question: Any) -> Any:
        """The JSON reply: {"value": ...}, {"items": [...], "end": bool} or {"error": [class names, arguments]}."""
        kind, target, detail = question
        try:
            if kind == "next":
                return self._next(target, detail)
            if kind == "iterate":
                return {"value": self._name(iter(self._objects[target]))}
            return {"value": encode(self._result(kind, target, detail), self._name)}
        except Exception as error:
            return {"error": _told(error)}

    def _result(self, kind: str, target: Any, detail: Any) -> Any:
        if kind == "get":
            return self._names[detail] if detail in self._names else _missing(detail)
        thing = self._objects[target]
        if kind == "attribute":
            return getattr(thing, detail)
        arguments, keywords = decode(detail, self._objects.__getitem__, DEEPEST_QUESTION)
        return thing(*arguments, **keywords)

    def _next(self, target: int, count: int) -> dict[str, Any]:
        """Up to `count` items of an iterator, each as it is when it comes: a later one may change it."""
        if target in self._failed:
            raise self._failed.pop(target)
        items: list[Any] = []
        try:
            while len(items) < count:
                items.append(encode(next(self._objects[target]), self._name))
        except StopIteration:
            return {"items": items, "end": True}
        except Exception as error:
            if not items:
                raise
            self._failed[target] = error
        return {"items": items, "end": False}

    def _name(self, thing: Any) -> dict:
        for number, known in enumerate(self._objects):
            if known is thing:
                return {"type": "object", "of": number}
        self._objects.append(thing)
        return {"type": "object", "of": len(self._objects) - 1}


def serve(channel: Channel, names: Mapping[str, Any]) -> None:
    """Answers questions about a program until the other side hangs up."""
    program = Program(names)
    with suppress(EOFError, OSError):
        while True:
            channel.send(program.answer(channel.receive()))


class StandIn:
    """What the tests have in place of a function or an object of the program. Equal to itself only, and true."""

    __slots__ = ("_ahead", "_ask", "_batch", "_number")

    def __init__(self, ask: Asker, number: int):
        self._ask = ask
        self._number = number
        self._ahead: deque[Any] = deque()
        self._batch = 1

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("call", self._number, encode((arguments, keywords), _handed_over, DEEPEST_QUESTION))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("attribute", self._number, name)

    def __iter__(self) -> Iterator[Any]:
        return self._ask("iterate", self._number, None)

    def __next__(self) -> Any:
        """Of an iterator; the longer it is read, the more items are fetched at once."""
        if not self._ahead:
            self._ahead += self._ask.items(self._number, self._batch)
            self._batch = min(2 * self._batch, MOST_AHEAD)
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft()


class Asker:
    """Asks the program's side; its errors come back as exceptions of Python's own classes.

    gone: why there is nobody to ask any more; a test that catches everything cannot hide it.
    """

    def __init__(self, channel: Channel):
        self.gone: str | None = None
        self._channel = channel
        self._known: dict[int, StandIn] = {}

    def __call__(self, kind: str, target: int | None, detail: Any) -> Any:
        return self._asked([kind, target, detail], lambda reply: decode(reply["value"], self._stand_in))

    def items(self, target: int, count: int) -> list[Any]:
        """The next items of an iterator; none only at its end."""
        return self._asked(["next", target, count], self._items)

    def _asked(self, question: list[Any], read: Callable[[Any], Any]) -> Any:
        if self.gone is not None:
            raise ProgramGone(self.gone)
        try:
            self._channel.send(question)
            reply = self._channel.receive()
            if "error" not in reply:
                return read(reply)
            error = _exception(reply["error"])
        except (EOFError, OSError):
            self.gone = "the program ended before it answered"
        except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError, MemoryError) as problem:
            self.gone = f"the program's answer cannot be read: {line(problem)}"
        if self.gone is not None:
            raise ProgramGone(self.gone)
        raise error

    def _items(self, reply: Any) -> list[Any]:
        items = [decode(item, self._stand_in) for item in reply["items"]]
        if not items and reply["end"] is not True:
            raise ValueError("no items, and not the end")
        return items

    def _stand_in(self, number: int) -> StandIn:
        return self._known.setdefault(number, StandIn(self, number))


def _handed_over(thing: Any) -> Any:
    """An argument that is not plain: an object of the program's own, or what is read once and is made anew there."""
    if isinstance(thing, StandIn):
        return {"type": "object", "of": object.__getattribute__(thing, "_number")}
    if isinstance(thing, Iterator | KeysView | ValuesView | ItemsView):
        items = encode([*islice(thing, MOST_ITEMS)], _handed_over)
        return {"type": "iterator", "of": items} if isinstance(thing, Iterator) else items
    raise Unsendable(f"a test hands over a {type(thing).__name__}; wanted plain values or the program's own objects")


def _missing(name: str) -> Any:
    raise NameError(f"name {name!r} is not defined")


def _told(error: Exception) -> list[Any]:
    """An exception as the names of Python's own classes that it belongs to, nearest first, and its arguments."""
    try:
        kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
        with suppress(Exception):
            arguments = encode(list(error.args), _no_object)
            if kinds[0] == type(error).__name__ and len(json.dumps(arguments)) <= LONGEST_ARGUMENTS:
                return [kinds, arguments]
        return [kinds, [str(error)[:LONGEST_LINE]]]
    except Exception:  # what it says of itself fails as well
        return [[], []]


def _no_object(thing: Any) -> Any:
    raise Unsendable(type(thing).__name__)


def _exception(told: Any) -> Exception:
    """What `_told` describes, as one of Python's exceptions that no test can take for its own."""
    names, arguments = [str(name) for name in told[0]], decode(list(told[1]), _no_object)
    for name in names:
        kind = getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            continue
        if issubclass(kind, TAKEN_FOR_THE_TESTS_OWN):
            break
        with suppress(TypeError, ValueError):  # a class whose arguments are others than these
            return kind(*arguments)
    return RuntimeError(line_of(f"{names[0] if names else 'an exception'}: {arguments}"))


def judge(channel: Channel, setup: str, tests: list[str], names: list[str], check: str | None) -> dict[str, Any]:
    """Runs the tests; {"outcome": "right" | "wrong" | "crashed" | "gold_error", "message": one line}.

    setup: trusted source that comes before the tests. names: what the tests take from the program. check: a name from
    `names` that is handed to the tests' own function `check`, as HumanEval does.
    """
    space: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(setup, "<setup>", "exec"), space)
        prepared = [compile(test, "<test>", "exec") for test in tests]
    except Exception as error:
        return _outcome("gold_error", f"the tests do not load: {line(error)}")
    ask = Asker(channel)
    try:
        space.update({name: ask("get", None, name) for name in names})
        for test in prepared:
            exec(test, space)
        if check is not None:
            space["check"](space[check])
    except Unsendable as error:
        said = _outcome("gold_error", str(error))
    except BaseException as error:  # a test may exit, and it may raise what it caught
        said = _outcome("wrong", line(error))
    else:
        said = _outcome("right", "")
    return said if ask.gone is None else _outcome("crashed", ask.gone)


def _outcome(outcome: str, message: str) -> dict[str, Any]:
    return {"outcome": outcome, "message": line_of(message)}


def line(error: BaseException) -> str:
    """`ValueError: what`, also of an error that cannot be put into words."""
    try:
        return line_of(f"{type(error).__name__}: {error}")
    except Exception:
        return type(error).__name__


def line_of(text: str) -> str:
    """At most 300 characters on one line, nothing that a terminal would obey or a file could not hold."""
    cut = text[: 4 * LONGEST_LINE]
    return " ".join("".join(one if one.isprintable() else " " for one in cut).split())[:LONGEST_LINE]
