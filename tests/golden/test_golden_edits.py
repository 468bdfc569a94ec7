"""RLMEC's token rewards: the published clips by hand."""

import pytest
import torch

from alignkit import ops


@pytest.mark.parametrize(
    ("probability", "right", "wanted"),
    [
        (0.9, True, 0.4),
        (0.3, True, 0.0),
        (1.0, True, 0.5),
        (0.5, True, 0.0),
        (0.3, False, -0.1),
        (0.45, False, -0.05),
        (0.9, False, 0.0),
        (0.0, False, -0.1),
    ],
)
def test_a_token_gains_by_what_the_rewriting_model_would_say_itself(probability, right, wanted):
    logprobs = torch.tensor([probability], dtype=torch.float64).log()
    assert ops.edits.token_rewards(logprobs, torch.tensor([right])).item() == pytest.approx(wanted, abs=1e-12)


def test_of_two_shortest_edits_the_one_that_replaces_is_taken():
    """From ab to ba: two replacements, or one deletion and one insertion."""
    assert ops.edits.changed([1, 2], [2, 1]) == [True, True]
