"""The prompt stream: nothing lost, nothing doubled, and a cursor is the whole state."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.order import draw
from alignkit.errors import DataError

sizes = st.integers(1, 40)


@given(sizes, st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_the_stream_is_the_same_however_it_is_cut(num_tasks, seed, counts, shuffle):
    whole = draw(num_tasks, seed=seed, start=0, count=sum(counts), shuffle=shuffle)
    pieces, cursor = [], 0
    for count in counts:
        pieces += draw(num_tasks, seed=seed, start=cursor, count=count, shuffle=shuffle)
        cursor += count
    assert pieces == whole


@given(sizes, st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_every_epoch_has_every_task_exactly_once(num_tasks, seed, epochs, shuffle):
    stream = draw(num_tasks, seed=seed, start=0, count=epochs * num_tasks, shuffle=shuffle)
    assert Counter(stream) == Counter((epoch, index) for epoch in range(epochs) for index in range(num_tasks))
    assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)


def test_epochs_differ_seeds_differ_and_no_shuffle_keeps_the_order():
    first, second = (draw(50, seed=0, start=start, count=50, shuffle=True) for start in (0, 50))
    assert [index for _, index in first] != [index for _, index in second]
    assert first != draw(50, seed=1, start=0, count=50, shuffle=True)
    assert draw(3, seed=0, start=2, count=3, shuffle=False) == [(0, 2), (1, 0), (1, 1)]


def test_the_order_is_a_published_constant():
    """Resumed runs of older versions depend on it: a change here loses and doubles their prompts."""
    assert [index for _, index in draw(8, seed=0, start=0, count=8, shuffle=True)] == [6, 3, 0, 1, 7, 2, 4, 5]


def test_drawing_does_not_touch_global_randomness():
    import random

    import numpy

    before = (random.getstate(), str(numpy.random.get_state()))
    draw(10, seed=0, start=0, count=25, shuffle=True)
    assert before == (random.getstate(), str(numpy.random.get_state()))


def test_no_tasks_is_an_error():
    with pytest.raises(DataError, match="no tasks"):
        draw(0, seed=0, start=0, count=1, shuffle=True)
