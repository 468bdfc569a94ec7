"""What a process holds by its boxes, and of which version what it is sent is."""

from __future__ import annotations

import pytest
import torch

from alignkit.errors import LayoutError, SyncError
from alignkit.types.layout import Box
from alignkit.weights.transports.held import Held, shard_views
from alignkit.weights.transports.landing import Landing

UPPER, LOWER = Box("w", (0, 0), (2, 3)), Box("w", (2, 0), (2, 3))


def test_a_box_is_found_in_the_tensor_around_it_and_writing_there_writes_into_it():
    held = Held({UPPER: torch.zeros(2, 3), LOWER: torch.zeros(2, 3)})
    part = held.view(Box("w", (2, 1), (2, 1)))
    assert part is not None
    part.fill_(5.0)
    assert held.tensors[LOWER].tolist() == [[0, 5, 0], [0, 5, 0]]
    assert not held.tensors[UPPER].any()
    assert held.view(Box("w", (1, 0), (2, 3))) is None, "half of it lies in each of two tensors"
    assert held.view(Box("v", (0, 0), (1, 1))) is None


def test_a_tensor_of_another_size_than_its_box_is_refused():
    with pytest.raises(LayoutError, match=r"is held as \(3, 2\); give a tensor of the box's size"):
        Held({UPPER: torch.zeros(3, 2)})


def test_a_padded_shard_is_views_of_its_numbers_without_the_padding():
    """The last of two shards of 3 x 3 numbers, padded to 10: the numbers 5 to 8 and one that is nobody's."""
    shard = torch.tensor([5.0, 6, 7, 8, -1])
    views = shard_views("w", (3, 3), 5, shard)
    found = {(box.begin, box.size): tensor.flatten().tolist() for box, tensor in views.items()}
    assert found == {((1, 2), (1, 1)): [5.0], ((2, 0), (1, 3)): [6.0, 7.0, 8.0]}
    shard[0] = 50.0
    assert views[Box("w", (1, 2), (1, 1))].item() == 50.0


def test_what_lands_is_of_a_version_only_after_all_of_it_came():
    landing = Landing({UPPER: torch.zeros(2, 3)})
    with pytest.raises(SyncError, match="no whole version lies here"):
        _ = landing.tensors
    with landing.awaiting(3):
        assert landing.version is None
    assert (landing.version, list(landing.tensors)) == (3, [UPPER])
    with pytest.raises(ValueError, match="lost"), landing.awaiting(4):
        raise ValueError("lost")
    assert landing.version is None
