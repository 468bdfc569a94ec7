"""Nothing mixes devices: models, steps, syncs and every algorithm, on tensors that say they are on a GPU."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.algorithms import sft
from alignkit.engines.hf import HfEngine
from alignkit.models.critic import add_value_head
from alignkit.models.forward import Forward, packed
from alignkit.models.kernels.varlen import varlen_attention
from alignkit.models.recompute import set_recompute
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs
from tests.contracts.test_algorithms import CASES, HEADS, Case, annotated
from tests.flash_kernels import flash_on_cpu
from tests.mock_cuda import CUDA, MixedDevices, MockTensor, mock_cuda, model_on_mock, on_mock
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm, random_batch, relative

FAMILY = {family.name: family for family in FAMILIES}


def there(batch: Batch) -> Batch:
    """A batch whose columns are on the mock device, without counting the host's part of the move."""
    moved = {f.name: on_mock(v) for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}
    named = {n: {k: on_mock(v) for k, v in getattr(batch, n).items()} for n in ("channels", "turn_channels")}
    return replace(batch, **moved, **named)


@pytest.mark.parametrize(
    "work",
    [
        lambda a, b: a + b,
        lambda a, b: a[b.long()],
        lambda a, b: b[a.long()],
        lambda a, b: torch.cat([a, b]),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: a.index_put((b.long(),), a),
        lambda a, b: torch.mul(a, b, out=a),
    ],
)
def test_the_mock_refuses_what_cuda_refuses(work):
    with mock_cuda(), pytest.raises(MixedDevices):
        work(on_mock(torch.zeros(3)), torch.zeros(3))


def test_the_mock_computes_differentiates_and_counts_the_hosts_waits():
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    with mock_cuda() as waits:
        mocked = MockTensor(x.detach(), True)
        loss = (mocked.square() * torch.arange(3, device=CUDA)).sum() + torch.tensor(1.0)
        loss.backward()
        assert not waits
        assert (float(loss.detach()), mocked.device.type, bool((mocked > 0).any())) == (23.0, "cuda", True)
        assert mocked.cpu().tolist() == [1.0, -2.0, 3.0]
    assert dict(waits) == {"_local_scalar_dense": 2, "_to_copy": 1}
    assert mocked.grad.held.tolist() == [0.0, -4.0, 12.0]


@pytest.mark.parametrize("case", CASES)
def test_no_algorithm_mixes_devices_in_its_loss_or_gradient(case: Case):
    model = add_value_head(causal_lm("llama_grouped"), HEADS, seed=0)
    batch = case.algorithm.estimate(case.config, annotated(case, model))
    with torch.no_grad():
        said = case.forward(model)(batch, temperature=1.0)
    columns = {f.name: v for f in fields(said) if (v := getattr(said, f.name)) is not None}
    wanted = {name: v.clone().requires_grad_() for name, v in columns.items()}
    sum(loss.total for loss in case.losses(Outputs(**wanted), batch)).backward()
    with mock_cuda():
        mocked = {name: MockTensor(v.clone(), True) for name, v in columns.items()}
        sum(loss.total for loss in case.losses(Outputs(**mocked), there(batch))).backward()
    for name, column in wanted.items():
        assert (column.grad is None) == (mocked[name].grad is None)
        assert column.grad is None or torch.equal(mocked[name].grad.held, column.grad)


NAMES = ("Llama 2, 3", "Qwen3", "Mistral 7B v0.1 (window)", "Gemma 2 (windows, soft caps)", "MiniCPM3")


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_verifies_keeps_the_packed_path_and_gives_the_cpus_gradients(name):
    """In float32, in which a GPU reads gathered keys."""
    model, batch, said = tiny(FAMILY[name]), random_batch(), []
    other = copy.deepcopy(model)
    wanted = Forward(other, torch.float32)(batch, temperature=0.9).logprobs
    wanted.square().sum().backward()
    with mock_cuda():
        forward = Forward(model_on_mock(model), torch.float32, report=said.append)
        forward.verify(batch, temperature=0.9)
        got = forward(batch.to(forward.device), temperature=0.9).logprobs
        got.square().sum().backward()
    assert said == []
    assert relative(got.held.detach(), wanted.detach()) < 1e-5
    for (key, own), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert theirs.grad is None or relative(own.grad.held, theirs.grad) < 1e-4, key


def test_the_host_waits_once_in_a_forward_and_backward_where_transformers_asks_about_positions():
    model = causal_lm("qwen3")
    with mock_cuda() as waits:
        model_on_mock(model)
        batch = random_batch(holes=True).to(CUDA)
        waits.clear()
        outputs = packed(model, batch, dtype=torch.float32, temperature=0.9)
        (outputs.logprobs.sum() + outputs.entropy.sum()).backward()
    assert dict(waits) == {"_local_scalar_dense": 1}


@pytest.mark.parametrize("window", [None, 4])
def test_the_varlen_kernels_get_all_they_read_on_their_device(window):
    from alignkit.models.attention import layout
    from tests.unit.test_attention import random_parts

    batch = random_batch()
    parts = [part.detach() for part in random_parts(batch)]
    options = (torch.bfloat16, 0.35, window, None, None)
    with flash_on_cpu():
        wanted = varlen_attention(*parts, layout(batch.blocks), *options)
        with mock_cuda() as waits:
            got = varlen_attention(*map(on_mock, parts), layout(batch.blocks), *options)
    assert torch.equal(got.held, wanted)
    assert not waits


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_and_a_sync_do_there_what_they_do_on_the_cpu(recompute):
    results = []
    for mocked in (False, True):
        model = causal_lm("llama_tied")
        set_recompute(model, recompute)
        engine = HfEngine(causal_lm("llama_tied", seed=3), dtype="float32")
        with mock_cuda():
            if mocked:
                model_on_mock(model)
            results.append(trained(model, engine))
    (metrics, norms, gap, weights), (other_metrics, other_norms, other_gap, other_weights) = results
    assert max(gap, other_gap) < 1e-5
    torch.testing.assert_close(torch.tensor(other_norms), torch.tensor(norms), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(other_metrics), torch.tensor(metrics), rtol=1e-5, atol=1e-6)
    for weight, other in zip(weights, other_weights, strict=True):
        torch.testing.assert_close(getattr(other, "held", other), weight, rtol=0, atol=1e-5)


def trained(model: Any, engine: HfEngine) -> tuple[list[float], list[float], float, list[Tensor]]:
    """Two steps of SFT and a sync with its canary."""
    trainer, group = SingleTrainer(model, Optimizer(lr=1e-3, eps=1e-3)), Group()
    step = Step(
        algorithm=sft.ALGORITHM,
        config=sft.Config(type="sft"),
        trainer=trainer,
        forward=Forward(model, torch.float32, report=lambda line: None, run=trainer.run),
        group=group,
        temperature=1.0,
        max_tokens=20,
    )
    batch = random_batch()
    step.forward.verify(batch, temperature=1.0)
    assert step.forward.fast
    told = [step.update(batch, range(batch.num_sequences), lr=1e-3) for _ in range(2)]
    said = step.read(batch, step.forward, "logprobs")
    sync = Sync(engine=engine, group=group, probe=[[3, 4, 5, 6, 7], [9, 8, 2]], tolerance=1e-4)
    gap = sync(2, trainer, step.forward)["sync/canary_gap"]
    losses = [metrics["loss/policy"].value for metrics, _ in told]
    return [*losses, float(said.sum())], [norm for _, norm in told], gap, [p.detach() for p in model.parameters()]
