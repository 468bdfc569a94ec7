"""The stream of examples: nothing lost, nothing doubled, and a cursor is the whole state."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import DataError
from alignkit.train.source import Order

sizes = st.integers(1, 40)


def order(size: int, *, seed: int = 0, shuffle: bool = True) -> Order[int]:
    return Order(examples=range(size), seed=seed, shuffle=shuffle)


@given(sizes, st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_the_stream_is_the_same_however_it_is_cut(size, seed, counts, shuffle):
    stream = order(size, seed=seed, shuffle=shuffle)
    pieces, cursor = [], 0
    for count in counts:
        pieces += stream.take(cursor, count)
        cursor += count
    assert pieces == stream.take(0, sum(counts))


@given(sizes, st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_every_epoch_has_every_task_exactly_once(size, seed, epochs, shuffle):
    stream = order(size, seed=seed, shuffle=shuffle).take(0, epochs * size)
    for epoch in range(epochs):
        assert Counter(stream[epoch * size : (epoch + 1) * size]) == Counter(range(size))


def test_epochs_differ_seeds_differ_and_no_shuffle_keeps_the_order():
    first, second = (order(50).take(start, 50) for start in (0, 50))
    assert first != second
    assert first != order(50, seed=1).take(0, 50)
    assert order(3, shuffle=False).take(2, 3) == [2, 0, 1]


def test_the_order_is_a_published_constant():
    """Resumed runs of older versions depend on it: a change here loses and doubles their prompts."""
    assert order(8).take(0, 8) == [6, 3, 0, 1, 7, 2, 4, 5]


def test_drawing_does_not_touch_global_randomness():
    import random

    import numpy

    before = (random.getstate(), str(numpy.random.get_state()))
    order(10).take(0, 25)
    assert before == (random.getstate(), str(numpy.random.get_state()))


def test_no_tasks_is_an_error():
    with pytest.raises(DataError, match="no tasks"):
        order(0).take(0, 1)
