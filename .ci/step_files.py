"""The files of alignkit whose code one warm GRPO step executes in the trainer's process, as JSON: path -> lines.

python .ci/step_files.py

Measured with sys.setprofile over the third step of a tiny run on the hf engine: `step` is what runs from the draw to
the new weights and their sync, `finish` what is passed besides when the loop tells its run of the step, which records
it and looks after health. What works beside the main thread is not in it: the reward pool's thread and its workers.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run
from alignkit.train.loop import Finish, StageLoop

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
    files: dict[str, set[str]] = {"step": set(), "finish": set()}
    draw, drawn, now = StageLoop.draw, 0, "step"

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files[now].add(frame.f_code.co_filename)

    def counted(self: StageLoop, state: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn == 1:
            self.finish = told(self.finish)
        sys.setprofile(seen if drawn == WARM + 1 else None)
        return draw(self, state)

    def told(finish: Finish) -> Finish:
        def work(*arguments: Any) -> bool:
            nonlocal now
            now = "finish"
            going = finish(*arguments)
            now = "step"
            return going

        return work

    StageLoop.draw = counted
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        recipe = Path(folder) / "tiny.yaml"
        recipe.write_text(RECIPE)
        run(read_recipe(recipe, [f"run={folder}/run"]), resume=False)
    files["finish"] -= files["step"]
    print(json.dumps({part: counts(passed) for part, passed in files.items()}))


def counts(files: set[str]) -> dict[str, int]:
    own = sorted(path for path in map(Path, files) if PACKAGE in path.parents)
    return {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in own}


if __name__ == "__main__":
    main()
