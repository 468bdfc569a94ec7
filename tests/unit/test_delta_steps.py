"""Deltas of real AdamW steps of a real model at a learning rate of 1e-6: the same bits in a thirtieth of the bytes."""

from __future__ import annotations

import pytest
import torch

from alignkit.models.load import load_policy, smollm2_folder
from alignkit.recipe.schema import Model
from alignkit.weights.delta import apply, delta

TEXT = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many? " * 3


@pytest.mark.slow
def test_steps_of_smollm2_at_1e_6_take_a_thirtieth_of_its_bytes_and_come_out_to_the_bit():
    model, tokenizer = load_policy(Model(path=str(smollm2_folder())), seed=0)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    replica = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        new = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
        made = delta(replica, new)
        assert 30 * len(made.data) < sum(tensor.nbytes for tensor in new.values())
        assert apply(made.data, replica, have=made.base) == made.result
        assert all(torch.equal(replica[name].view(torch.int16), new[name].view(torch.int16)) for name in new)
