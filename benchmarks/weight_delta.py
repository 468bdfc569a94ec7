"""How many bytes a lossless delta takes after real AdamW steps of SmolLM2-135M, written into docs/scaling.md.

    python -m benchmarks.weight_delta

Steps on the pages of docs/, four sequences of 128 tokens each. The figures do not depend on the machine, seconds do.
"""

from __future__ import annotations

import time

import torch

from alignkit.models.load import load_policy, smollm2_folder
from alignkit.recipe.schema import Model
from alignkit.weights.delta import apply, delta
from benchmarks.algorithms import ROOT, put

PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- table of make weight-delta -->", "<!-- end of the table of deltas -->"
RATES, STEPS, SHOWN = (1e-6, 1e-5), 6, (1, 2, 6)
ROWS, LENGTH = 4, 128
COLUMNS = ["learning rate", "step", "numbers changed", "MB", "of all weights", "seconds to make, to apply", "same bits"]


def batches() -> list[torch.Tensor]:
    _, tokenizer = load_policy(Model(path=str(smollm2_folder())), seed=0)
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    ids = torch.tensor(tokenizer(text[:40_000])["input_ids"])
    return list(ids[: STEPS * ROWS * LENGTH].view(STEPS, ROWS, LENGTH))


def rows(rate: float) -> list[list[str]]:
    """The delta after some of the steps at a learning rate, from the step before."""
    model, _ = load_policy(Model(path=str(smollm2_folder())), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    replica = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    size = sum(tensor.nbytes for tensor in replica.values())
    found = []
    for step, ids in enumerate(batches(), start=1):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        new = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
        changed = sum(int((new[name] != before).sum()) for name, before in replica.items()) / (size / 2)
        begun = time.process_time()
        made = delta(replica, new)
        between = time.process_time()
        apply(made.data, replica, have=made.base)
        ended = time.process_time()
        same = all(torch.equal(replica[name].view(torch.int16), new[name].view(torch.int16)) for name in new)
        cells = [
            f"{rate:g}",
            str(step),
            f"{changed:.2%}",
            f"{len(made.data) / 1e6:.2f}",
            f"1 / {size / len(made.data):.0f}",
        ]
        if step in SHOWN:
            found.append([*cells, f"{between - begun:.2f}, {ended - between:.2f}", "yes" if same else "**no**"])
    return found


def main() -> None:
    torch.set_num_threads(1)
    table = [COLUMNS, ["---"] * len(COLUMNS), *(row for rate in RATES for row in rows(rate))]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    put(PAGE, BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
