"""Every kind of data, found by its file: what it says of itself holds, and algorithms name kinds that there are."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignkit.algorithms.base import Algorithm
from alignkit.data.kinds.kind import Kind
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import list_content, load
from alignkit.recipe.lookup.kind_of import FOLDER, OLDER, _named, kind_of
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.outputs import Judgement

NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "kind")
SAMPLED = {"rollouts": (True, "may"), "resets": (True, "must"), "replay": (False, "must"), "candidates": (True, "must")}
"""name -> whether every step's batch is sampled anew, whether there is an environment."""


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_is_called_as_its_file_and_says_what_its_rows_become(name):
    kind = kind_of(name)
    assert kind.name == name
    assert (kind.rows is None) == (kind.items is None) == kind.samples == (name in SAMPLED)
    if not kind.samples:
        assert (kind.fresh, kind.replays, kind.goes_back) == (False, False, False)
        assert kind.environment == ("may" if name in ("transitions", "episodes") else "never")


def test_of_what_is_sampled_a_replay_alone_is_not_fresh_and_only_rollouts_do_without_an_environment():
    assert {name: (kind_of(name).fresh, kind_of(name).environment) for name in SAMPLED} == SAMPLED
    assert [name for name in NAMES if kind_of(name).replays] == ["replay"]
    assert [name for name in NAMES if kind_of(name).goes_back] == ["resets"]
    assert [name for name in NAMES if kind_of(name).candidates] == ["candidates"]


def test_every_algorithm_names_a_kind_that_there_is_and_one_of_steps_says_how_it_reads_them():
    algorithms = {found.name: load(found) for found in list_content("algorithms")}
    for name, algorithm in algorithms.items():
        assert isinstance(algorithm, Algorithm)
        assert isinstance(kind_of(algorithm.source), Kind), name
        steps = algorithm.steps(algorithm.config(type=name))
        assert (steps is not None and steps.alone) == (algorithm.source == "stepwise_supervision"), name


def test_a_kind_may_be_held_instead_of_named_and_a_wrong_name_is_an_error_with_a_guess():
    own = Kind(name="own")
    assert kind_of(own) is own
    with pytest.raises(
        ContentError,
        match=r"no kind of data is called 'pairwis' \(did you mean 'pairwise'.*is one of candidates, episodes, ",
    ):
        kind_of("pairwis")
    with pytest.raises(ContentError, match="no kind of data is called 'kind'"):
        kind_of("kind")


def test_what_a_kind_was_called_before_is_still_read_and_one_line_says_what_it_is_called_now(caplog):
    for old, now in OLDER.items():
        _named.cache_clear()
        assert kind_of(old) is kind_of(now)
        kind_of(old)
        assert [record.message for record in caplog.records] == [
            f"an algorithm's `source` '{old}' is now '{now}'; the older name is still read"
        ]
        caplog.clear()
    assert not OLDER.keys() & set(NAMES)  # else the file of that name could not be reached


def test_no_kind_imports_torch():
    code = (
        "import sys\nfrom alignkit.recipe.lookup.kind_of import kind_of\n"
        f"for name in {NAMES}: kind_of(name)\nprint('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def group(*facts: dict) -> list[Item]:
    return [Item(prompt_ids=(7,), completion_ids=(1, 2), member=n, **each) for n, each in enumerate(facts)]


def verdict(name: str, items: list[Item], said: list[float], **more: torch.Tensor) -> tuple[float | None, float]:
    batch = pack(items).validate()
    return kind_of(name).verdict(Judgement(value=torch.tensor(said), **more), batch, range(len(items)))


@pytest.mark.parametrize("name", ["paired_preference", "pairwise"])
def test_a_pair_is_worth_the_lead_of_its_chosen_side(name):
    both = group({"side": -1}, {"side": 1})
    assert verdict(name, both, [1.0, 3.0]) == (1.0, 2.0)
    assert verdict(name, both, [3.0, 1.0]) == (0.0, -2.0)
    assert verdict(name, both, [1.0, 1.0]) == (0.5, 0.0)


def test_a_ranking_is_right_in_the_share_of_its_ordered_pairs_and_ties_of_the_data_ask_nothing():
    ranked = group({"reward": 2.0}, {"reward": 1.0}, {"reward": 1.0})
    assert verdict("ranked", ranked, [2.0, 1.0, 3.0]) == (0.5, 2.0)  # right over the second, wrong over the third
    assert verdict("ranked", ranked, [2.0, 1.0, 2.0]) == (0.75, 5 / 3)
    assert verdict("ranked", group({"reward": 1.0}), [4.0]) == (None, 4.0)


def test_an_answer_is_right_in_the_share_of_its_steps_on_the_right_side_of_a_half():
    items = [
        Item(prompt_ids=(7,), completion_ids=(1, 2, 3), action=(True, False, True), rewards=(1, 0, 0.2), reward=1.2)
    ]
    good = torch.tensor([0.0, 0.9, 0.9, 0.6])  # prompt, right, no step, wrong
    assert verdict("stepwise_supervision", items, [0.6], steps=good) == (0.5, pytest.approx(0.6))


def test_a_rated_answer_is_compared_with_the_next_one_around_that_was_rated_otherwise():
    rated = [Item(prompt_ids=(7,), completion_ids=(1,), group=n, channels={"good": x}) for n, x in enumerate((1, 1, 0))]
    batch = pack(rated).validate()
    judged = Judgement(value=torch.tensor([3.0, 1.0, 2.0]))
    assert [kind_of("rated").verdict(judged, batch, [n]) for n in range(3)] == [(1.0, 3.0), (0.0, 1.0), (1.0, 2.0)]
    unknown = pack([*rated[:2], Item(prompt_ids=(7,), completion_ids=(1,), group=2, channels={"good": math.nan})])
    assert [kind_of("rated").verdict(judged, unknown, [n])[0] for n in range(3)] == [None, None, None]
