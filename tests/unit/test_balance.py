"""Which replica samples what: groups stay whole, loads are near each other, and a call repeats its shares."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alignkit.engines.balance import Outstanding, shares
from alignkit.types.rollout import Request


def ask(group: int | None, *, prompt: int = 4, most: int = 10) -> Request:
    return Request(prompt_ids=(1,) * prompt, seed=0, max_new_tokens=most, group=group)


requests = st.lists(
    st.builds(ask, st.none() | st.integers(0, 5), prompt=st.integers(1, 50), most=st.integers(1, 50)), max_size=40
)


def test_four_groups_of_two_go_to_two_replicas_in_whole_groups():
    asked = [ask(group) for group in (7, 7, 8, 8, 9, 9, 6, 6)]
    assert shares(asked, 2) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_the_largest_group_is_placed_first_and_its_prompt_counts_once():
    """Tokens: 100 + 4 x 10 = 140 of one against 10 + 4 x 10 = 50 of each of the three others."""
    asked = [ask(group, prompt=10) for group in (1, 2, 3) for _ in range(4)] + [ask(4, prompt=100) for _ in range(4)]
    assert shares(asked, 2) == [[12, 13, 14, 15], list(range(12))]


@given(requests, st.integers(1, 8))
def test_every_request_is_asked_once_and_no_group_is_cut(asked: list[Request], replicas: int):
    parts = shares(asked, replicas)
    assert sorted(place for part in parts for place in part) == list(range(len(asked)))
    homes = [
        {number for number, part in enumerate(parts) for place in part if asked[place].group == g} for g in range(6)
    ]
    assert all(len(home) <= 1 for home in homes)
    assert shares(asked, replicas) == parts


@given(requests, st.integers(1, 8))
def test_no_replica_has_more_than_another_by_more_than_the_largest_group(asked: list[Request], replicas: int):
    """Of requests that stand alone the largest is the largest group; greedily placed, loads differ by one at most."""
    alone = [ask(None, prompt=len(request.prompt_ids), most=request.max_new_tokens) for request in asked]
    cost = [len(request.prompt_ids) + request.max_new_tokens for request in alone]
    loads = [sum(cost[place] for place in part) for part in shares(alone, replicas)]
    assert max(loads) - min(loads) <= max(cost, default=0)


def test_a_single_request_goes_where_the_fewest_tokens_are_wanted_and_its_group_stays():
    outstanding = Outstanding()
    assert outstanding.choose(ask(1), ["a", "b"]) == "a"
    assert outstanding.choose(ask(2), ["a", "b"]) == "b"
    assert outstanding.choose(ask(1), ["a", "b"]) == "a", "its prompt lies there"
    assert outstanding.choose(ask(None), ["a", "b"]) == "b", "28 tokens are wanted of a, 14 of b"
    outstanding.done(ask(1), "a")
    outstanding.done(ask(1), "a")
    assert outstanding.choose(ask(3), ["a", "b"]) == "a"
    assert outstanding.choose(ask(1), ["b"]) == "b", "where its replica is gone"
    outstanding.forget()
    assert outstanding.choose(ask(2), ["a", "b"]) == "a", "its prompt is read anew, where there is less to do"
