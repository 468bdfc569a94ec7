"""Writes the table of model families into docs/models.md: python .ci/models_table.py (a minute)."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignkit.errors import first_line  # noqa: E402
from alignkit.models.forward import Forward  # noqa: E402
from alignkit.models.lora import add_lora  # noqa: E402
from alignkit.models.own_head import own_head  # noqa: E402
from alignkit.models.save import save_pretrained  # noqa: E402
from alignkit.models.tokenizer import character_tokenizer  # noqa: E402
from alignkit.recipe.schema import Lora  # noqa: E402
from tests.model_families import FAMILIES, Family, tiny  # noqa: E402
from tests.tiny import random_batch  # noqa: E402

DOCS = ROOT / "docs" / "models.md"
START, END = "<!-- families: begin (make models-table) -->", "<!-- families: end -->"
HEADER = "| family | model type | path | gap | LoRA | tied head | reloaded |\n|---|---|---|---|---|---|---|"


def row(family: Family) -> str:
    path, gap = by_path(tiny(family))
    cells = (family.name, f"`{family.kind}`", path, gap, lora(family), tied(family), reloaded(family))
    return f"| {' | '.join(cells)} |"


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


def written() -> str:
    text = DOCS.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    return f"{before}{START}\n{HEADER}\n" + "\n".join(map(row, FAMILIES)) + f"\n{END}{after}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    DOCS.write_text(written(), encoding="utf-8")
