"""Numbers against plain float32, the CPU and what was counted: attention, head, losses of all settings, memory."""

from __future__ import annotations

import copy

from alignkit.run.check.row import Row
from benchmarks.gpu.sizes import Sizes

MEMORY = 0.1  # share by which what was counted may miss what was measured
LOSSES = 1e-4  # share of the gradient's norm: float32 on both sides, summed in another order
HEAD = 1e-5


def attention(sizes: Sizes, device: str) -> list[Row]:
    """Packed against plain, in bfloat16 and in float32."""
    import torch

    from alignkit.run.check.distance import distance, random_batch, random_model

    model, batch = random_model(device), random_batch(sizes.compared).to(torch.device(device))
    return [distance(model, batch, dtype) for dtype in (torch.bfloat16, torch.float32)]


def head(sizes: Sizes, device: str) -> list[Row]:
    """The chunked head against full logits of the model's vocabulary, in float32: log-probs and both gradients."""
    import torch

    from alignkit.models.forward import HEAD_ROWS
    from alignkit.ops.logprobs import chunked_logprobs, full_logprobs

    generator = torch.Generator().manual_seed(0)
    width, vocabulary = sizes.model["hidden_size"], sizes.model["vocab_size"]
    hidden = torch.randn(sizes.rows, width, generator=generator).to(device).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).mul_(3 / width**0.5).to(device).requires_grad_()
    targets = torch.randint(vocabulary, (sizes.rows,), generator=generator).to(device)
    chunked = chunked_logprobs(hidden, weight, targets, temperature=1.0, rows=HEAD_ROWS[device])[0]
    full = full_logprobs(hidden @ weight.t(), targets, temperature=1.0)[0]
    gap = float((chunked - full).abs().max().detach())
    ours = torch.autograd.grad(chunked.sum(), (hidden, weight))
    theirs = torch.autograd.grad(full.sum(), (hidden, weight))
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
    return [
        Row(
            name=f"chunked head, {sizes.rows} rows of {vocabulary:,}",
            value=f"log-probs {gap:.1e} from full logits (largest), gradients {apart:.1e}",
            level="ok" if gap <= 10 * HEAD and apart <= HEAD else "wrong",
            numbers={"logprobs": gap, "gradient": apart},
        )
    ]


def losses(sizes: Sizes, device: str) -> list[Row]:
    """Gradient of every algorithm and of every alternative of its settings, on the device and on the CPU, float32."""
    from alignkit.models.critic import add_value_head
    from tests.contracts import test_algorithms as shelf
    from tests.tiny import causal_lm, relative

    cpu = add_value_head(causal_lm("llama_grouped"), shelf.HEADS, seed=0)
    there = copy.deepcopy(cpu).to(device)
    apart = {}
    for parameters in shelf.CASES[: sizes.cases]:
        [case] = parameters.values
        batch = shelf.prepared(case, cpu)
        wanted, got = shelf.measure(case, cpu, batch), shelf.measure(case, there, batch)
        apart[parameters.id] = max(relative(got[1].cpu(), wanted[1]), shelf.distance(got[0], wanted[0]))
    beyond = sorted(name for name, share in apart.items() if not share <= LOSSES)
    most = max(apart, key=lambda name: apart[name])
    return [
        Row(
            name=f"losses and gradients of {len(apart)} settings",
            value=f"at most {apart[most]:.1e} from the CPU ({most})"
            + (f"; beyond: {', '.join(beyond)}" if beyond else ""),
            level="wrong" if beyond else "ok",
            numbers={"most": apart[most], "settings": len(apart), "beyond": len(beyond)},
        )
    ]


def memory(sizes: Sizes, device: str) -> list[Row]:
    """The most that torch held in an update of a recipe's fullest batch, against the count; weights are random."""
    from alignkit.parallel.memory.trace import total
    from alignkit.recipe.read import read_recipe
    from alignkit.run.memory.measure import count_stage
    from tests.memory.real_step import allocated_in_update

    recipe = read_recipe(sizes.recipe[0], list(sizes.recipe[1:]))
    counted = total(count_stage(recipe, 0, device=device).phases["update"])
    measured = allocated_in_update(recipe)
    gap = counted / measured - 1
    return [
        Row(
            name=f"update of {recipe.file.stem if recipe.file else sizes.recipe[0]}",
            value=f"counted {counted / 1e9:.3f} GB, torch held {measured / 1e9:.3f} GB, {gap:+.1%}",
            level="ok" if abs(gap) <= MEMORY else "wrong",
            numbers={"counted": counted, "measured": measured, "gap": gap},
        )
    ]
