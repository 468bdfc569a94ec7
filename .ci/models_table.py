"""Writes the table of model families into docs/models.md: python .ci/models_table.py (a minute).

With --vllm it starts vLLM on a model of each family, too (a quarter of an hour or more); without, that column stays.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignkit.engines.vllm.engine import VllmEngine  # noqa: E402
from alignkit.errors import AlignkitError, first_line  # noqa: E402
from alignkit.models.forward import Forward  # noqa: E402
from alignkit.models.lora import add_lora  # noqa: E402
from alignkit.models.own_head import own_head  # noqa: E402
from alignkit.models.save import describe, save_pretrained  # noqa: E402
from alignkit.models.tokenizer import character_tokenizer  # noqa: E402
from alignkit.models.weights import named_policy_weights  # noqa: E402
from alignkit.recipe.schema import Lora  # noqa: E402
from tests.model_families import FAMILIES, SIZES, Family, tiny  # noqa: E402
from tests.tiny import random_batch  # noqa: E402

DOCS = ROOT / "docs" / "models.md"
START, END = "<!-- families: begin (make models-table) -->", "<!-- families: end -->"
HEADER = "| family | model type | path | gap | LoRA | tied head | reloaded | sampled by vLLM |\n" + "|---" * 8 + "|"
UNTRIED = "not tried"
CLOSE = 1e-3  # nats, mean: kernels of two libraries in float32
# sizes that vLLM's kernels for a CPU take: heads of 32, a rank and a rotary width of latent attention that they know
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
WIDER: dict[str, Any] = {
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "query_pre_attn_scalar", "mamba_d_head"), 32),
    **dict.fromkeys(("n_embd", "d_model", "word_embed_proj_dim", "moe_intermediate_size", "qk_rope_head_dim"), 64),
    "shared_expert_intermediate_size": 64,
    "mamba_d_ssm": 128,
    **dict.fromkeys(("n_head", "n_heads"), 2),
    **dict.fromkeys(("ffn_dim", "intermediate_size_mlp"), 96),
    "kv_lora_rank": 512,
    "attention_chunk_size": 32,
}


def row(family: Family) -> str:
    path, gap = by_path(tiny(family))
    cells = (family.name, f"`{family.kind}`", path, gap, lora(family), tied(family), reloaded(family))
    return f"| {' | '.join((*cells, noted(family)))} |"


def noted(family: Family) -> str:
    """What the page says of vLLM already."""
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {family.name} |")]
    cells = lines[0].strip("| ").split(" | ") if lines else []
    return cells[7] if len(cells) == 8 else UNTRIED


def wide(family: Family) -> Family:
    """The same family with sizes that vLLM's kernels take."""
    own = {name: WIDER[name] for name in family.extra.keys() & WIDER.keys()}
    heads: dict[str, Any] = {"head_dim": 32}
    if "kv_lora_rank" in family.extra:
        heads = {"head_dim": WIDER["qk_rope_head_dim"]}
    elif family.extra.get("head_dim", 0) is None:
        heads = {}
    if family.extra.get("num_key_value_heads") == SIZES["num_attention_heads"]:
        heads["num_key_value_heads"] = WIDE["num_attention_heads"]
    return Family(family.name, family.kind, {**family.extra, **WIDE, **own, **heads})


def sampled(family: Family) -> str:
    """Whether vLLM, updated to other weights than it began with, says of tokens what the model itself says."""
    ids = [5, 9, 17, 30, 4, 61, 3, 3, 12, 40, 41, 8]
    try:
        begins, model = (tiny(wide(family), seed=seed) for seed in (1, 0))
        with torch.no_grad():
            said = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        own = said.gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    except Exception as error:  # as above
        return f"no such model: {first_line(error)[:60]}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        describe(begins, character_tokenizer("0123456789", context=128), Path(folder, "model"), dtype=torch.float32)
        given: dict[str, Any] = {"dtype": "float32", "max_model_len": 128, "memory_gib": 1, "threads": 2}
        weights = named_policy_weights(begins)
        try:
            engine = VllmEngine(
                Path(folder, "model"), weights=weights, log_file=log, startup_s=180, timeout_s=60, **given
            )
        except AlignkitError as error:
            return f"no: {_why(log) or first_line(error)[:70]}"
        try:
            engine.update(named_policy_weights(model), version=1)
            [scores] = asyncio.run(engine.score([ids]))
        except AlignkitError as error:
            return f"no: {_why(log) or first_line(error)[:70]}"
        finally:
            engine.close()
    gap, unread = float((torch.tensor(scores) - own).abs().mean()), len(engine.unverified)
    if not gap < CLOSE:
        return f"no: log-probs differ by {gap:.1g}"
    return f"yes; {unread} not read back" if unread else "yes"


def _why(log: Path) -> str:
    """The last error in vLLM's log, cut short; not that it has no tokenizer, which it says at every start."""
    errors = re.findall(r"^.*?(\w+(?:Error|Exception)\b[^\n|]*)$", log.read_text(errors="replace"), re.MULTILINE)
    told = [error.strip()[:70] for error in errors if "Tokenizer not available" not in error]
    return told[-1] if told else ""


def by_path(model: Any) -> tuple[str, str]:
    """Which path a run takes, and the mean |difference| of its log-probs from the model's own logits."""
    said: list[str] = []
    forward, batch = Forward(model, torch.float32, report=said.append), random_batch()
    forward.verify(batch, temperature=1.0)
    with torch.no_grad():
        exact = own_head(model, batch, dtype=torch.float32, temperature=1.0).logprobs
        gap = (forward(batch, temperature=1.0).logprobs - exact)[batch.action_mask].abs().mean()
    path = "packed" if forward.fast else "plain" if forward.tiled else "plain, all logits"
    return path, f"{float(gap):.0e}"


def lora(family: Family) -> str:
    """Whether every matrix of an adapter on all linear layers gets a gradient."""
    try:
        model = add_lora(tiny(family), Lora(rank=2, alpha=4), seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.add_(0.01)
        forward, batch = Forward(model.train(), torch.float32, report=lambda line: None), random_batch()
        forward.verify(batch, temperature=1.0)
        forward(batch, temperature=1.0).logprobs.square().sum().backward()
    except Exception as error:  # the table says what came of it
        return f"no: {first_line(error)[:80]}"
    matrices = [p for p in model.parameters() if p.requires_grad]
    reached = sum(p.grad is not None and bool(p.grad.any()) for p in matrices)
    return "yes" if reached == len(matrices) else f"{reached} of {len(matrices)} matrices"


def tied(family: Family) -> str:
    """Which path a model takes whose head is its embedding."""
    model = tiny(Family(family.name, family.kind, {**family.extra, "tie_word_embeddings": True}))
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        return "has none"
    return by_path(model)[0]


def reloaded(family: Family) -> str:
    """Whether plain transformers reads from the saved folder a model that says the same."""
    from transformers import AutoModelForCausalLM

    model, ids = tiny(family), torch.arange(3, 20)[None]
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, character_tokenizer("0123456789", context=64), Path(folder))
        how = model.config._attn_implementation
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=how).eval()
    with torch.no_grad():
        gap = float((again(input_ids=ids).logits - model(input_ids=ids).logits).abs().max())
    return "yes" if gap < 1e-5 else f"no: logits differ by {gap:.1g}"


def write(*, vllm: bool) -> None:
    """With vLLM after each of its rows, so that a stopped one can be gone on with: it is started where it was not."""
    rows = {family.name: row(family) for family in FAMILIES}

    def put() -> None:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{START}\n{HEADER}\n" + "\n".join(rows.values()) + f"\n{END}{after}", encoding="utf-8")

    put()
    for family in FAMILIES if vllm else ():
        if noted(family) == UNTRIED:
            rows[family.name] = rows[family.name].replace(UNTRIED, sampled(family))
            put()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    write(vllm="--vllm" in sys.argv[1:])
