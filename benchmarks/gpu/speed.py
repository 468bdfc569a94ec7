"""An update of a Qwen3-0.6B of random weights: seconds, tokens, use of the card's arithmetic, memory by phase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from alignkit.run.check.row import Row
from benchmarks.gpu.sizes import Sizes

MFU_TARGET, HEAD_TARGET = 0.40, 0.20
# dense bfloat16 of the data sheets, FLOP/s; of other cards only the share of measured products is said
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
ADAM = SimpleNamespace(lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, moments="float32")
EXPERTS = 0.03  # share of the output's norm: rounding of bfloat16, and of the router that chooses by it
PHASES = ("forward", "backward", "optimizer")


def update(sizes: Sizes, device: str) -> list[Row]:
    """Times whole updates; then the head and the loss alone; then the card's own matrix products."""
    import torch

    from alignkit.models.forward import Forward
    from alignkit.parallel.single import SingleTrainer
    from benchmarks.update_profile import useful_flops

    model, batch = _model(sizes, device), _batch(sizes).to(torch.device(device))
    held = {"weights": _peak(device)}
    trainer: Any = SingleTrainer(model, ADAM)  # ty: ignore[invalid-argument-type]  what it reads of an Optimizer
    forward = Forward(model=model, dtype=torch.bfloat16, run=trainer.run)
    for _ in range(sizes.warm):
        _update(trainer, forward, batch, device)
    turns = [_update(trainer, forward, batch, device) for _ in range(sizes.updates)]
    seconds = statistics.median(sum(times.values()) for times, _ in turns)
    held |= turns[-1][1]
    flops = useful_flops(batch, model)
    del trainer, forward
    head_s = _head_seconds(model, batch.num_actions, device, sizes)
    return [
        _speed(sizes, batch, seconds, turns),
        _share(flops / seconds, _products(sizes, device), device),
        _head(head_s, seconds, batch.num_actions),
        _memory(held),
    ]


def experts(sizes: Sizes, device: str) -> list[Row]:
    """A layer of experts under autocast, forward and backward: in half precision, as trained, and left in float32."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from alignkit.models.experts import follow_autocast

    own = {"vocab_size": 64, "num_hidden_layers": 1, "moe_intermediate_size": sizes.model["intermediate_size"] // 3}
    config = Qwen3MoeConfig(**{**sizes.model, **own}, num_experts=32, num_experts_per_tok=8, norm_topk_prob=True)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model: Any = Qwen3MoeForCausalLM(config)
        hidden = torch.randn(1, sizes.tokens, config.hidden_size, requires_grad=True)
    layer = model.model.layers[0].mlp

    def said(*, half: bool) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            answer = layer(hidden)
        answer.sum().backward()
        return answer.detach().float()

    exact = said(half=False)
    left_s = _median(lambda: said(half=True), sizes, device)
    follow_autocast(model)
    gap = float((said(half=True) - exact).norm() / exact.norm())
    seconds = _median(lambda: said(half=True), sizes, device)
    told = f"{1e3 * seconds:.2f} ms, {left_s / seconds:.1f} times as fast as with experts in float32"
    return [
        Row(
            name=f"experts, {sizes.tokens:,} tokens through 8 of 32",
            value=f"{told}; {gap:.1e} from float32 (share of the norm)",
            level="ok" if 0 < gap < EXPERTS else "wrong",
            numbers={"seconds": seconds, "float32_seconds": left_s, "gap": gap},
        )
    ]


def _update(trainer: Any, forward: Any, batch: Any, device: str) -> tuple[dict[str, float], dict[str, float | None]]:
    """Seconds and peak bytes of each phase of one update on one micro-batch."""
    seconds, peaks, loss = {}, {}, None
    for phase in PHASES:
        _reset_peak(device)
        begun = _now(device)
        if phase == "forward":
            outputs = forward(batch, temperature=1.0)
            loss = -outputs.logprobs[batch.action_mask].mean()
        elif phase == "backward":
            trainer.backward(loss)
        else:
            trainer.step(ADAM.lr)
        seconds[phase], peaks[phase] = _now(device) - begun, _peak(device)
    return seconds, peaks


def _speed(sizes: Sizes, batch: Any, seconds: float, turns: list) -> Row:
    parts = {phase: statistics.median(times[phase] for times, _ in turns) for phase in PHASES}
    said = ", ".join(f"{phase} {value * 1e3:.0f}" for phase, value in parts.items())
    rate = batch.num_tokens / seconds
    return Row(
        name=f"update, {batch.num_tokens:,} packed tokens",
        value=f"{seconds * 1e3:.0f} ms ({said}), {rate:,.0f} tokens/s",
        numbers={"seconds": seconds, "tokens": batch.num_tokens, "tokens_per_second": rate, **parts},
    )


def _share(rate: float, products: float, device: str) -> Row:
    """MFU: useful FLOP/s of the update as a share of the data sheet's peak, and of products measured beside it."""
    import torch

    name = torch.cuda.get_device_properties(0).name if device == "cuda" else ""
    known = next((peak for card, peak in PEAKS.items() if card in name), None)
    mfu = None if known is None else rate / known
    sheet = "of a data sheet: unknown card" if mfu is None else f"MFU {mfu:.1%} of {known / 1e12:.0f} TFLOP/s"
    return Row(
        name="use of the card",
        value=f"{rate / 1e12:.3g} TFLOP/s; {sheet}; {rate / products:.1%} of measured products ({products / 1e12:.3g})",
        level="note" if mfu is not None and mfu < MFU_TARGET else "ok",
        numbers={"flops": rate, "products": products} | ({} if mfu is None else {"mfu": mfu}),
    )


def _head(head_s: float, seconds: float, rows: int) -> Row:
    share = head_s / seconds
    return Row(
        name=f"head and loss, {rows:,} rows",
        value=f"{head_s * 1e3:.0f} ms, {share:.0%} of the update (target {HEAD_TARGET:.0%})",
        level="note" if share > HEAD_TARGET else "ok",
        numbers={"seconds": head_s, "share": share},
    )


def _memory(held: dict[str, float | None]) -> Row:
    """Peak of torch's allocator in each phase, everything that lives then included."""
    measured = {phase: peak for phase, peak in held.items() if peak is not None}
    said = ", ".join(f"{phase} {peak / 1e9:.2f}" for phase, peak in measured.items())
    return Row(
        name="peak memory by phase",
        value=f"{said} GB" if measured else "not measured: torch counts the memory of CUDA devices only",
        level="ok" if measured else "note",
        numbers=measured or None,
    )


def _model(sizes: Sizes, device: str) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**sizes.model, tie_word_embeddings=True, attn_implementation="sdpa")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).train()


def _batch(sizes: Sizes) -> Any:
    import numpy as np

    from alignkit.types.batch import pack
    from alignkit.types.item import Item

    random = np.random.default_rng(0)
    items = []
    for group, (prompt, lengths) in enumerate(sizes.groups):
        drawn = [random.integers(sizes.model["vocab_size"], size=length).tolist() for length in (prompt, *lengths)]
        items += [Item(prompt_ids=drawn[0], completion_ids=own, group=group) for own in drawn[1:]]
    return pack(items)


def _head_seconds(model: Any, rows: int, device: str, sizes: Sizes) -> float:
    """Median of forward and backward of the chunked head, its matrix and the log-probs' mean, without the body."""
    import torch

    from alignkit.models.forward import HEAD_ROWS
    from alignkit.ops.logprobs import chunked_logprobs

    weight = model.get_output_embeddings().weight
    hidden = torch.randn(rows, weight.shape[1], device=device).to(torch.bfloat16).requires_grad_()
    targets = torch.randint(weight.shape[0], (rows,), device=device)

    def work() -> None:
        said = chunked_logprobs(hidden, weight.to(torch.bfloat16), targets, temperature=1.0, rows=HEAD_ROWS[device])
        (-said[0].mean()).backward()

    return _median(work, sizes, device)


def _products(sizes: Sizes, device: str) -> float:
    """FLOP/s of square bfloat16 matrix products."""
    import torch

    a, b = (torch.randn(sizes.matmul, sizes.matmul, device=device).to(torch.bfloat16) for _ in range(2))
    return 2 * sizes.matmul**3 / _median(lambda: a @ b, sizes, device)


def _median(work: Callable[[], object], sizes: Sizes, device: str) -> float:
    times = []
    for _ in range(sizes.warm + sizes.updates):
        begun = _now(device)
        work()
        times.append(_now(device) - begun)
    return statistics.median(times[sizes.warm :])


def _now(device: str) -> float:
    """Seconds on the clock once the device has done all that it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float | None:
    """Largest number of bytes that torch held on the card since the last reset; None on a CPU."""
    import torch

    return float(torch.cuda.max_memory_allocated()) if device == "cuda" else None
