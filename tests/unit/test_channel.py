"""The channel between a process and its child: what is sent arrives exactly, whoever sends nonsense is found."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
import time
from contextlib import closing
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.processes.channel import Channel, packed, unpacked


@pytest.fixture
def ends():
    """A channel with at most 1,000 bytes a message, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    with closing(Channel(ours, largest=1000)) as channel, theirs:
        yield channel, theirs


def through(message):
    ours, theirs = socket.socketpair()
    with closing(Channel(ours)) as sender, closing(Channel(theirs)) as receiver:
        sender.send(message)
        return receiver.receive(timeout_s=5)


@given(st.floats(allow_nan=False))
def test_every_float_arrives_to_the_last_bit(number):
    assert struct.pack(">d", through(number)) == struct.pack(">d", number)


def test_what_is_no_finite_number_arrives_as_it_is_and_integers_of_any_size_do():
    assert math.isnan(through([math.nan])[0])
    assert through([math.inf, -math.inf, -0.0, 2**200, -1]) == [math.inf, -math.inf, -0.0, 2**200, -1]
    assert math.copysign(1, through(-0.0)) == -1
    assert through({"text": "é\n\ud800\x00", "none": None}) == {"text": "é\n\ud800\x00", "none": None}


def test_what_json_has_no_word_for_reaches_a_child_packed():
    row = {"day": date(2026, 1, 2), "exact": Decimal("0.1"), "raw": b"\x00\n\xff", "pair": (1, 2.5)}
    assert unpacked(through({"row": packed(row)})["row"]) == row


def test_messages_are_told_apart_however_they_arrive(ends):
    channel, other = ends
    other.sendall(b'{"a": 1}\n[2')
    assert list(channel.arrived()) == [{"a": 1}]
    assert list(channel.arrived()) == []  # nothing new, and no waiting for it
    other.sendall(b', 3]\n"four"\n')
    assert channel.receive(timeout_s=5) == [2, 3]
    assert channel.receive(timeout_s=0) == "four"  # it is there already


def test_answers_before_a_line_that_is_none_are_not_lost(ends):
    channel, other = ends
    other.sendall(b"[1]\n[2]\nnonsense\n[3]\n")
    messages = channel.arrived()
    assert [next(messages), next(messages)] == [[1], [2]]
    with pytest.raises(ValueError, match="Expecting value"):
        next(messages)


@pytest.mark.parametrize("line", [b"nonsense\n", b"\xff\xfe\n", b"[" * 900 + b"\n", b'{"a": 1\n', b"\n"])
def test_a_line_that_is_no_json_is_a_value_error(ends, line):
    channel, other = ends
    other.sendall(line)
    with pytest.raises(ValueError):  # noqa: PT011  the parser's own words
        channel.receive(timeout_s=5)


def test_deep_nesting_is_a_value_error_and_no_crash():
    ours, theirs = socket.socketpair()
    with closing(Channel(ours)) as channel, theirs:
        threading.Thread(target=theirs.sendall, args=(b"[" * 200_000 + b"\n",)).start()
        with pytest.raises(ValueError, match="nested too deep"):
            channel.receive(timeout_s=5)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_message_that_is_too_long_is_refused_whether_or_not_it_ends(ends, end):
    channel, other = ends
    other.sendall(json.dumps("x" * 998).encode() + b"\n")  # 1,000 bytes with its quotes
    assert channel.receive(timeout_s=5) == "x" * 998
    other.sendall(b"x" * 1001 + end)
    with pytest.raises(ValueError, match="a message of more than 1000 bytes"):
        channel.receive(timeout_s=5)


def test_silence_is_a_timeout_and_a_closed_end_an_eof(ends):
    channel, other = ends
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        channel.receive(timeout_s=0.05)
    assert time.monotonic() - begun >= 0.05
    other.sendall(b"[1]\nhalf")
    other.close()
    assert channel.receive(timeout_s=5) == [1]
    with pytest.raises(EOFError):
        channel.receive(timeout_s=5)
    with pytest.raises(EOFError):
        list(channel.arrived())
