"""Labels of steps by rolling out: a tiny character model on the exact engine, killed, gone on, counted by hand."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.cli.main import run
from alignkit.errors import AlignkitError
from alignkit.models.load import load_policy, save_pretrained
from alignkit.recipe.schema import Data, Model, RewardSpec, Scratch
from alignkit.rewards.steps import Span, settled_ends, split_steps, step_cuts
from alignkit.rollout.step_rollouts import Labelling
from alignkit.run.lab import label_steps as labelling
from alignkit.run.lab.label_steps import label_steps

SETTINGS = Labelling(rollouts=6, eta=2.0, pattern=";", max_new_tokens=3, seed=3)
REWARD = """
from alignkit.rewards.base import reward

@reward
def ends_odd(completion: str, task) -> float | None:
    digits = [c for c in completion if c in "01"]
    return float(digits[-1]) if digits else None

@reward
def begins(completion: str, task, *, text: str) -> float:
    return float(completion.startswith(text))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    scratch = Scratch(characters="01;?é ", layers=1, hidden=16, heads=2, context=32)
    policy, tokenizer = load_policy(Model(scratch=scratch), seed=0)
    save_pretrained(policy, tokenizer, folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text(REWARD)
    solutions = [f"{n % 2};{n // 2 % 2};{n // 4 % 2}" for n in range(20)]
    rows = [{"prompt": "?" * (1 + n % 3), "completion": solution} for n, solution in enumerate(solutions)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def label(model: Path, out: str, *, settings=SETTINGS, reward="./odd.py:ends_odd", options=None, data=None, **more):
    data = data or Data(source="rows.jsonl", chat=False)
    spec = RewardSpec(name=reward, options=options or {})
    return label_steps(data, str(model), spec, settings, out=Path(out), engine="hf", workers=1, **more)


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_every_label_follows_from_the_share_of_its_roll_outs(model, here):
    result = label(model, "out.jsonl")
    rows = lines("out.jsonl")
    assert [row["id"] for row in rows] == [f"rows.jsonl/{number}" for number in range(20)]
    assert result["labelled"] == 20
    assert result["steps"] == 60
    assert result["rollouts_sampled"] == 20 * 2 * 6
    for number, row in enumerate(rows):
        assert row["steps"] == [f"{number % 2};", f"{number // 2 % 2};", str(number // 4 % 2)]
        assert row["right"] == bool(number // 4 % 2) == bool(row["rates"][-1])
        assert all(rate * 6 == pytest.approx(round(rate * 6)) for rate in row["rates"][:-1])
        wanted = [math.log(1 - rate + rate * math.exp(2)) / 2 for rate in row["rates"]]
        assert row["labels"] == pytest.approx(wanted)
    rates = [rate for row in rows for rate in row["rates"][:-1]]
    assert 0 < min(rates, key=lambda rate: abs(rate - 0.5)) < 1  # the random model's outcomes do differ


def test_prefixes_reach_the_engine_as_exact_tokens_with_a_seed_each(model, here, monkeypatch):
    asked = []
    from alignkit.engines.hf import HfEngine

    generate = HfEngine.generate

    async def recorded(self, requests):
        asked.extend(requests)
        return await generate(self, requests)

    monkeypatch.setattr(HfEngine, "generate", recorded)
    label(model, "out.jsonl", data=Data(source="rows.jsonl", chat=False, limit=2))
    ids = {letter: number for number, letter in enumerate("01;?é ", start=3)}
    prompts = ["?0;", "?0;0;", "??1;", "??1;0;"]
    assert [request.prompt_ids for request in asked] == [tuple(ids[c] for c in p) for p in prompts for _ in range(6)]
    assert len({request.seed for request in asked}) == len(asked)


def test_a_run_that_died_anywhere_ends_with_the_same_file(model, here):
    label(model, "whole.jsonl")
    whole = Path("whole.jsonl").read_bytes()

    def die(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(model, "out.jsonl", report=die)
    assert len(lines("out.jsonl")) == labelling.BLOCK
    kept = Path("out.jsonl").read_bytes()
    for torn in (kept, kept[:-1], kept[: len(kept) // 2], whole[: whole.index(b"\n") + 9], b""):
        Path("out.jsonl").write_bytes(torn)
        result = label(model, "out.jsonl")
        assert Path("out.jsonl").read_bytes() == whole
        assert result["found"] == torn.count(b"\n")
    assert label(model, "out.jsonl")["rollouts_sampled"] == 0


def test_more_rows_are_added_and_other_settings_are_refused(model, here):
    label(model, "out.jsonl", data=Data(source="rows.jsonl", chat=False, limit=5))
    assert label(model, "out.jsonl")["found"] == 5
    label(model, "whole.jsonl")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    with pytest.raises(AlignkitError, match=r"out.jsonl holds labels of other settings.*rows.jsonl/0.*name another"):
        label(model, "out.jsonl", settings=Labelling(rollouts=6, eta=1.0, pattern=";", max_new_tokens=3, seed=3))
    Path("odd.py").write_text(REWARD + "\n# changed\n")
    with pytest.raises(AlignkitError, match="other settings, data or weights"):
        label(model, "out.jsonl")


@pytest.mark.parametrize(("eta", "wanted"), [(0.0, lambda rate: rate), (math.inf, lambda rate: float(rate > 0))])
def test_eta_changes_labels_and_nothing_that_is_sampled(model, here, eta, wanted):
    label(model, "two.jsonl")
    label(model, "out.jsonl", settings=Labelling(rollouts=6, eta=eta, pattern=";", max_new_tokens=3, seed=3))
    for row, other in zip(lines("out.jsonl"), lines("two.jsonl"), strict=True):
        assert row["rates"] == other["rates"]
        assert row["labels"] == pytest.approx([wanted(rate) for rate in row["rates"]])


def test_what_a_prefix_decides_is_its_label(model, here):
    """Success is to begin with `0;1`: sure after the second step, impossible after a first step that is wrong."""
    label(model, "out.jsonl", reward="./odd.py:begins", options={"text": "0;1"})
    for row in lines("out.jsonl"):
        assert (row["rates"][1], row["rates"][2]) == ((1, 1) if row["steps"][:2] == ["0;", "1;"] else (0, 0))
        assert row["rates"][0] == 0 or row["steps"][0] == "0;"
    assert any(0 < row["rates"][0] < 1 for row in lines("out.jsonl"))


def test_solutions_can_be_sampled_and_steps_given(model, here):
    Path("given.jsonl").write_text(json.dumps({"prompt": "?", "steps": ["0", "0;1", ";1"]}) + "\n")
    label(model, "given.out", data=Data(source="given.jsonl", chat=False))
    assert lines("given.out")[0]["steps"] == ["0", "0;1", ";1"]
    settings = Labelling(rollouts=2, solutions=3, pattern=";", max_new_tokens=12, seed=1)
    result = label(model, "sampled.out", settings=settings, data=Data(source="rows.jsonl", chat=False, limit=6))
    rows = lines("sampled.out")
    assert result["labelled"] + sum(result["left_out"].values()) == 18
    assert len({(row["id"], row["solution"]) for row in rows}) == len(rows) > 9
    assert len({"".join(row["steps"]) for row in rows}) > len(rows) / 2
    assert all(step.endswith(";") for row in rows for step in row["steps"][:-1])


def test_a_solution_that_cannot_be_judged_is_left_out_with_its_reason_and_not_tried_again(model, here):
    rows = [{"prompt": "?", "completion": text} for text in ("0;1", ";;", "é;0;1", "0;" * 20)]
    Path("some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(source="some.jsonl", chat=False)
    result = label(model, "out.jsonl", data=data)
    assert [row["id"] for row in lines("out.jsonl")] == ["some.jsonl/0", "some.jsonl/2"]
    assert result["left_out"] == {"its outcome cannot be scored: refused": 1, "no room in the model's context": 1}
    again = label(model, "out.jsonl", data=data)
    assert (again["rollouts_sampled"], again["left_out"]) == (0, result["left_out"])


def test_the_command_prints_a_table_or_json_and_its_mistakes_on_one_line(model, here, capsys):
    base = ["label-steps", "rows.jsonl", str(model), "./odd.py:ends_odd", "--out", "out.jsonl", "--engine", "hf"]
    base += ["--pattern", ";", "--no-chat", "--limit", "3", "--max-new-tokens", "3", "--rollouts", "2"]
    assert run([*base, "--eta", "inf", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["labelled"], told["steps"], told["eta"]) == (3, 9, "inf")
    assert run([*base, "--eta", "inf"]) == 0
    shown = capsys.readouterr()
    assert "3 (3 of them were there)" in shown.out
    assert "label-steps: 3 of 3 solutions" in shown.err
    for more, message in (
        (["--eta", "-1"], "--eta is -1; wanted 0, a number above it, or inf"),
        (["--pattern", "("], "--pattern '(': not a regular expression"),
        (["--split", "words"], "--split is words; wanted one of blank_line, newline, sentence"),
        (["--column", "completion=answer"], "no column 'answer'"),
    ):
        assert run([*base, *more]) == 2
        complaint = capsys.readouterr().err.strip()
        assert message in complaint
        assert complaint.count("\n") == 0


@pytest.mark.slow
def test_kill_9_loses_nothing(model, here):
    rows = [{"prompt": "?" * (1 + n % 3), "completion": f"{n % 2};1;{n // 2 % 2};0"} for n in range(400)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "alignkit", "label-steps", "rows.jsonl", str(model), "./odd.py:ends_odd"]
    command += ["--engine", "hf", "--pattern", ";", "--no-chat", "--max-new-tokens", "3", "--rollouts", "4", "--out"]
    killed = subprocess.Popen([*command, "out.jsonl"], start_new_session=True, stderr=subprocess.DEVNULL)
    while not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes().count(b"\n") < 30:
        time.sleep(0.01)
        assert killed.poll() is None, "it was done before it could be killed"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    for out in ("out.jsonl", "whole.jsonl"):
        subprocess.run([*command, out], check=True, capture_output=True)
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_cut_gives_nothing_of_the_next_step_away():
    """Tokens as a byte-pair tokenizer makes them: a space begins the next word, line breaks stand alone."""
    tokens = ["One", ".", " Two", " more", ".\n", "\n", "Three", "."]
    text = "".join(tokens)
    ends = settled_ends(lambda ids: "".join(tokens[i] for i in ids), range(len(tokens)))
    assert step_cuts(ends, text, split_steps(text, "sentence")) == [2, 6, 8]
    assert step_cuts(ends, text, split_steps(text, "blank_line")) == [6, 8]
    assert step_cuts(ends, text, [Span(0, 2), Span(2, len(text))]) == [1, 8]  # `One` writes the step's last letter


def test_half_an_emoji_is_not_settled():
    data = "a😀b".encode()
    pieces = [data[:1], data[1:3], data[3:5], data[5:]]
    ends = settled_ends(lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace"), range(4))
    assert ends == [1, 1, 2, 3]
    assert step_cuts(ends, "a😀b", [Span(0, 1), Span(1, 2), Span(2, 3)]) == [1, 3, 4]
