"""The files of alignkit whose code one warm GRPO step executes in the trainer's process, as JSON: path -> lines.

python .ci/step_files.py

Measured with sys.setprofile over the third step of a tiny run on the hf engine, records, health and run/ included. What
works beside the main thread is not in it: the reward pool's thread and its worker processes.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from types import FrameType

from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run
from alignkit.train.loop import StageLoop

PACKAGE = Path(__file__).resolve().parents[1] / "alignkit"
WARM = 2  # steps that go before
RECIPE = """
seed: 0
model: {scratch: {characters: "0123456789+=", layers: 1, hidden: 16, heads: 2, context: 12}, dtype: float32}
data: {source: "generator:arithmetic", options: {digits: 1, style: characters}, chat: false, max_prompt_tokens: 6}
rewards: [{name: exact_match}]
rollouts: {engine: hf, prompts: 8, group: 4, max_new_tokens: 3, canary_tolerance: 0.001, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 4}
checkpoints: {every: null}
health: {dead_steps: 1000}
"""


def main() -> None:
    files: set[str] = set()

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    draw, drawn = StageLoop.draw, 0

    def counted(self: StageLoop, state: object) -> object:
        nonlocal drawn
        drawn += 1
        sys.setprofile(seen if drawn == WARM + 1 else None)
        return draw(self, state)

    StageLoop.draw = counted
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        recipe = Path(folder) / "tiny.yaml"
        recipe.write_text(RECIPE)
        run(read_recipe(recipe, [f"run={folder}/run"]), resume=False)
    own = sorted(path for path in map(Path, files) if PACKAGE in path.parents)
    counts = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in own}
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
