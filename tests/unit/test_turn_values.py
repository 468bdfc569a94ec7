"""What critic and algorithm made of each turn, found again in the step's episodes and shown beside what was said."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as parquet
import pytest
import torch
from rich.console import Console

from alignkit.parallel.group import Group
from alignkit.report.html import write_report
from alignkit.report.terminal import PanelDisplay
from alignkit.rollout.items import pack_rollouts
from alignkit.run.train.journal import Journal
from alignkit.run.train.turn_values import turn_values
from alignkit.run_folder.run_folder import RunFolder
from alignkit.run_folder.turn_value import TurnValue
from alignkit.train.source import Drawn
from alignkit.types.rollout import EpisodeEnd, Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.task import Task


def turn(prompt: tuple[int, ...], said: tuple[int, ...], reward: float | None, answer: str | None) -> Turn:
    return Turn(
        prompt_ids=prompt,
        completion_ids=said,
        sampler_logprobs=(-0.5,) * len(said),
        stop=StopReason.END_OF_TEXT,
        text=f"say {said}",
        reward=reward,
        observation=answer,
    )


def episode(member: int, *, end: EpisodeEnd = EpisodeEnd.DONE) -> Rollout:
    """Prompt 1 2, utterance 3 4 (and the member's number), answer 9, utterance 5."""
    first = (3, 4, 10 + member)
    turns = (turn((1, 2), first, 0.25, "<b>colder</b>"), turn((1, 2, *first, 9), (5,), -1.0, None))
    task = Task(id="games/0", text="guess")
    score = Score(value=-0.75, parts={})
    return Rollout(task=task, group=7, member=member, turns=turns, policy_version=0, score=score, end=end)


def batch_of(rollouts, **columns):
    batch = pack_rollouts(rollouts, version=0, share_prefix=True)
    made = {name: torch.tensor(values) for name, values in columns.items()}
    return batch.replace(**made)


def test_an_advantage_of_a_turn_is_the_mean_over_its_tokens_and_v_is_read_before_it():
    """Packed: 1 2 | 3 4 10 9 5. The first utterance follows token 1 (packed), the second token 5."""
    one = episode(0)
    batch = batch_of(
        [one],
        advantages=[0.0, 0.0, 1.0, 2.0, 6.0, 0.0, -4.0],
        values=[[0.0], [0.5], [0.1], [0.1], [0.1], [0.75], [0.1]],
    )
    found = turn_values(Drawn(batch=batch, cursor=1, consumed=[], rollouts=[one], trained=[one]), batch)
    assert found == {0: [TurnValue(v=0.5, advantage=3.0), TurnValue(v=0.75, advantage=-4.0)]}


def test_critics_of_utterances_are_read_from_their_channels():
    one = episode(0)
    batch = batch_of([one])
    nan = float("nan")
    channels = {
        "critic_q": torch.tensor([0, 0, 2.0, 2.0, 2.0, 0, nan]),
        "critic_v": torch.tensor([0, 0, 1.5, 1.5, 1.5, 0, 3.0]),
    }
    batch = batch.replace(turn_channels=channels)
    found = turn_values(Drawn(batch=batch, cursor=1, consumed=[], rollouts=[one], trained=[one]), batch)
    assert found == {0: [TurnValue(q=2.0, v=1.5), TurnValue(v=3.0)]}
    # past turns are drawn again under other numbers; the advantage of what was played is then q - v
    past = batch.replace(group=torch.tensor([0]))
    drawn = Drawn(batch=past, cursor=1, consumed=[], rollouts=[episode(1), one])
    assert turn_values(drawn, past) == {1: [TurnValue(q=2.0, v=1.5, advantage=0.5), TurnValue(v=3.0)]}


def test_a_truncated_episode_is_found_without_its_last_turn_and_others_not_at_all():
    whole = episode(0)
    score = Score(value=0.25, parts={})
    batch = batch_of([replace(whole, turns=whole.turns[:1], score=score)]).replace(group=torch.tensor([3]))
    drawn = Drawn(batch=batch, cursor=1, consumed=[], rollouts=[replace(whole, end=EpisodeEnd.MAX_TURNS), episode(1)])
    assert turn_values(drawn, batch) == {0: [TurnValue()]}


def test_answers_and_steps_without_a_batch_have_no_turns():
    answer = replace(episode(0), end=None, turns=episode(0).turns[:1])
    batch = batch_of([answer])
    assert turn_values(Drawn(batch=batch, cursor=1, consumed=[], rollouts=[answer], trained=[answer]), batch) == {}
    assert turn_values(Drawn(batch=None, cursor=1, consumed=[], rollouts=[episode(0)]), None) == {}


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.tables: list = []

    def log(self, step, metrics):
        return

    def table(self, step, rows):
        self.tables.append((step, list(rows)))

    def close(self):
        return


@pytest.fixture
def journal(tmp_path) -> Journal:
    console = Console(width=150, force_terminal=True, record=True)
    display = PanelDisplay(console)
    made = Journal(folder=RunFolder(tmp_path), group=Group(), display=display, tracker=Kept(), table_every=2)
    return made


def test_a_conversation_stands_with_its_numbers_in_table_panel_and_page(journal, tmp_path):
    """Two episodes: one trained on, one not; its numbers are absent there, not 0."""
    one, other = episode(0), replace(episode(1), score=Score(value=-0.9, parts={}))
    other = replace(other, turns=(replace(other.turns[0], tool_faults=("unknown", "raised")), other.turns[1]))
    batch = batch_of(
        [one],
        advantages=[0.0, 0.0, 1.0, 2.0, 6.0, 0.0, -4.0],
        values=[[0.0], [0.5], [0.1], [0.1], [0.1], [0.75], [0.1]],
    )
    drawn = Drawn(batch=batch, cursor=1, consumed=["games/0"], rollouts=[one, other], trained=[one])
    journal.folder.recipe({"stages": [{"train": {"steps": 2}}]})
    for step in range(3):
        journal.step(step, "main", drawn, batch, {"reward/mean": -0.8, "rollout/turns_mean": 2.0}, [])
    rows = parquet.read_table(tmp_path / "rollouts" / "main-000002.parquet").to_pylist()
    turns, untold = (json.loads(row["turns"]) for row in rows)
    assert [(told["q"], told["v"], told["advantage"], told["reward"]) for told in turns] == [
        (None, 0.5, 3.0, 0.25),
        (None, 0.75, -4.0, -1.0),
    ]
    assert all("advantage" not in told for told in untold)
    shown = Console(width=150, record=True)
    shown.print(journal.display.render())
    panel = shown.export_text()
    assert "<b>colder</b>" in panel
    assert "-4.000" in panel
    assert " q " not in panel  # a column that nobody fills is not there
    page = write_report(tmp_path).read_text()
    assert "&lt;b&gt;colder&lt;/b&gt;" in page
    for number in ("0.500", "0.750", "3.000", "-4.000", "-1.000"):
        assert f'<td class="n">{number}</td>' in page
    assert '<td>games</td><td class="n">2</td><td class="n">-0.825</td><td class="n">2.0</td>' in page
    assert "2 done" in page
    assert "1 unknown, 1 raised" in page


def test_the_tracker_gets_a_table_every_so_many_steps_with_parts_and_advantages(journal):
    one = replace(episode(0), score=Score(value=-0.75, parts={"won": 1.0, "style": None}))
    batch = batch_of([one], advantages=[0.0, 0.0, 1.0, 2.0, 6.0, 0.0, -4.0])
    many = [replace(one, member=member) for member in range(1, 40)]
    drawn = Drawn(batch=batch, cursor=1, consumed=[], rollouts=[one, *many], trained=[one])
    for step in range(4):
        journal.step(step, "main", drawn, batch, {}, [])
    assert [step for step, _ in journal.tracker.tables] == [0, 2]
    rows = journal.tracker.tables[0][1]
    assert len(rows) == 16
    assert rows[0]["advantage"] == 1.25  # (1 + 2 + 6 - 4) / 4 tokens
    assert rows[1]["advantage"] is None
    assert (rows[0]["step"], rows[0]["parts"], rows[0]["stop"]) == (0, {"won": 1.0, "style": None}, "done")
    assert rows[0]["completion"].startswith("say (3, 4, 10) [<b>colder</b>]")
