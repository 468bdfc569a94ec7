"""Rewards that hold a model are loaded by one process, however many workers the others have."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from reward_folders import answered, character_model, saved, text_task, values

from alignkit.processes.family import descendants
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.learned.reward_model import RewardModel
from alignkit.rewards.pool.needs import wanted
from alignkit.rewards.pool.pool import RewardPool
from alignkit.types.score import FaultKind

WORKERS = 3
HEAVY = """
import os
import time
from pathlib import Path
from alignkit.types.score import Score

ONE_PROCESS = True

class heavy:
    name = "heavy"
    def __init__(self, log):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
    async def score(self, task, rollouts):
        if any(rollout.text == "die" for rollout in rollouts):
            os._exit(3)
        return [Score(value=float(len(rollout.text))) for rollout in rollouts]
"""
LIGHT = HEAVY.replace("ONE_PROCESS = True", "").replace("heavy", "light").replace("len(rollout.text)", "1")
LIGHT = LIGHT.replace("os._exit(3)", "pass")
TOGETHER = (
    HEAVY
    + """
    async def score(self, task, rollouts):
        return self.score_groups([(task, rollouts)])[0]
    def score_groups(self, groups):
        import time
        texts = [rollout.text for _, rollouts in groups for rollout in rollouts]
        if "die" in texts: os._exit(3)
        if "raise" in texts: raise ValueError("no")
        if "hang" in texts: time.sleep(60)
        return [[Score(value=float(len(groups))) for _ in rollouts] for _, rollouts in groups]
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "heavy.py").write_text(HEAVY)
    (tmp_path / "light.py").write_text(LIGHT)
    return tmp_path


def both(folder: Path, workers: int = WORKERS) -> RewardPool:
    specs = [
        RewardSpec(name=f"./{name}.py:{name}", options={"log": str(folder / f"{name}.log")})
        for name in ("light", "heavy")
    ]
    return RewardPool(specs, workers=workers, beside=folder)


def loads(folder: Path) -> tuple[int, int]:
    """Processes that have loaded the heavy reward and the light one, of which all workers load theirs by and by."""
    deadline = time.monotonic() + 60
    while True:
        heavy, light = (len(set((folder / f"{name}.log").read_text().split())) for name in ("heavy", "light"))
        if light >= WORKERS or time.monotonic() > deadline:
            return heavy, light
        time.sleep(0.02)


def groups(*texts: str):
    tasks = [text_task(f"{number}?", number=number) for number in range(len(texts))]
    return [(task, answered(task, text, text + "!")) for task, text in zip(tasks, texts, strict=True)]


def test_its_file_says_so_and_the_shelfs_learned_rewards_do(folder: Path):
    specs = [RewardSpec(name=name) for name in ("./heavy.py:heavy", "./light.py:light", "learned", "exact_match")]
    assert [wanted(spec, folder).one_process for spec in specs] == [True, False, True, False]


def test_a_reward_with_a_model_is_loaded_once_and_says_in_the_recipes_order_what_one_worker_says(folder: Path):
    asked = groups("a", "bb", "ccc", "dddd")
    with closing(both(folder)) as pool:
        several = asyncio.run(pool.score(asked))
        asyncio.run(pool.score(asked[:1]))
        said = asyncio.run(pool.said(asked, of=(1,)))
        assert loads(folder) == (1, WORKERS)
    assert values(several) == [2, 3, 3, 4, 4, 5, 5, 6]
    assert [score.parts for score in several[0]] == [{"light": 1.0, "heavy": 1.0}, {"light": 1.0, "heavy": 2.0}]
    assert [[len(of) for of in group] for group in said] == [[0, 2]] * 4
    with closing(both(folder, workers=1)) as pool:
        assert asyncio.run(pool.score(asked)) == several


def test_its_process_that_dies_costs_one_group_and_another_takes_its_place(folder: Path):
    with closing(both(folder)) as pool:
        scores = asyncio.run(pool.score(groups("a", "die", "ccc")))
        assert values(scores) == [2, 3, None, None, 4, 5]
        assert {score.fault.kind for score in scores[1] if score.fault} == {FaultKind.CRASH}
        asyncio.run(pool.score(groups("a")))
        assert loads(folder) == (2, WORKERS)


def test_groups_of_a_call_are_scored_together_and_where_that_fails_each_alone(folder: Path):
    """Values say how many groups were scored at once; of a call whose third group kills, hangs or raises each is its
    own."""
    (folder / "heavy.py").write_text(TOGETHER)
    spec = RewardSpec(name="./heavy.py:heavy", options={"log": str(folder / "heavy.log")}, deadline_s=1.0)
    with closing(RewardPool([spec], workers=WORKERS, beside=folder)) as pool:
        assert values(asyncio.run(pool.score(groups("a", "b", "c")))) == [3] * 6
        assert values(asyncio.run(pool.score(groups("a")))) == [1] * 2
        for text, kind in (("die", FaultKind.CRASH), ("raise", FaultKind.CRASH), ("hang", FaultKind.TIMEOUT)):
            scores = asyncio.run(pool.score(groups("a", "b", text)))
            assert values(scores) == [1, 1, 1, 1, None, None]
            assert {score.fault.kind for score in scores[2] if score.fault} == {kind}
        assert values(asyncio.run(pool.score(groups("a", "b", "c")))) == [3] * 6, "the next call knows nothing of it"


def test_one_reward_that_does_not_load_leaves_no_process_of_the_other(folder: Path):
    (folder / "heavy.py").write_text(HEAVY + "raise ValueError('broken')")
    before = set(descendants(os.getpid()))
    with pytest.raises(Exception, match="broken"):
        both(folder)
    assert set(descendants(os.getpid())) <= before


def holding() -> list[int]:
    """The processes below this one that have loaded PyTorch."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it has ended meanwhile
            found += [pid] if "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text() else []
    return found


def test_one_process_holds_the_models_of_learned_and_says_their_bits(tmp_path: Path):
    path = saved(*character_model(), tmp_path / "model")
    asked = groups("1+2", "3", "4=4")
    specs = [RewardSpec(name="learned", options={"path": str(path)}), RewardSpec(name="length_penalty", weight=0,
             options={"max_tokens": 5, "buffer": 4})]  # fmt: skip
    with closing(RewardPool(specs, workers=1, beside=tmp_path)) as pool:
        alone = asyncio.run(pool.score(asked))
    others = set(holding())  # of tests before this one
    with closing(RewardPool(specs, workers=WORKERS, beside=tmp_path)) as pool:
        got = asyncio.run(pool.score(asked))
        deadline = time.monotonic() + 60
        # a process that is being started has this one's memory until it runs its program
        while len(own := set(holding()) - others) != 1:
            assert time.monotonic() < deadline, f"{len(own)} processes hold models"
            time.sleep(0.02)
    assert values(got) == values(alone) == values(RewardModel.load(path).score(asked, name="learned"))
