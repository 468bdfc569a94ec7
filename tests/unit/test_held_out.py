"""What is trained on and asked by a benchmark, too, is named and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.evaluate.benchmark.protocol import read_protocol
from alignkit.evaluate.held_out.known_questions import every_protocol, known_questions
from alignkit.evaluate.held_out.overlap import Benchmark, overlaps, runs, words
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.report.html import write_report
from alignkit.run.check.trained_questions import trained_questions
from alignkit.run.train.train import run
from alignkit.types.task import Task

LONG = "A baker sells twelve loaves in the morning and twice as many in the evening; how many are that?"


def bench(*questions: str) -> Benchmark:
    return Benchmark(file="b.jsonl", protocols=("b",), questions=tuple((question,) for question in questions))


def counted(prompts: list[str], benchmark: Benchmark) -> tuple[int, int]:
    found = overlaps(prompts, [benchmark])
    return (found[0].exact, found[0].run) if found else (0, 0)


def test_the_same_question_counts_whatever_its_letters_signs_and_spaces():
    assert counted(["what is 2+2"], bench("What is  2 + 2?", "What is 2+3?")) == (1, 1)


def test_thirteen_words_in_a_row_count_and_twelve_do_not():
    said = words(LONG)
    assert len(said) == 19
    assert len(list(runs(said))) == 7
    assert counted(["Solve: " + " ".join(said[2:15]) + " please"], bench(LONG)) == (0, 1)
    assert counted(["Solve: " + " ".join(said[2:14]) + " please"], bench(LONG)) == (0, 0)


def test_a_short_question_inside_a_longer_prompt_is_not_called_the_same():
    assert counted(["Tell me: what is 2+2?"], bench("What is 2+2?")) == (0, 0)


def test_nothing_is_said_of_a_benchmark_without_a_shared_question():
    assert overlaps(["Why?"], [bench("Who?")]) == []


@pytest.fixture
def protocol(tmp_path: Path, monkeypatch):
    """A protocol of one's own beside the recipe, and its file of two questions."""
    (tmp_path / "evals").mkdir()
    rows = [{"question": LONG, "answer": "36"}, {"question": "What is 2+2?", "answer": "4"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "mine.jsonl").write_text(text)
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "evals" / "mine.yaml").write_text(
        f"version: 1\nabout: mine\ncategory: math\nlicence: MIT\nsource: {{file: mine.jsonl, sha256: {digest}}}\n"
        "gold: answer\nprompt: {chat: false, template: 'Q: {{question}}\\nA:'}\n"
        "sampling: {max_new_tokens: 8}\nmetrics: {accuracy: {reward: exact_match}}\n"
    )
    monkeypatch.setenv("ALIGNKIT_DATA", str(tmp_path))
    return read_protocol("mine", beside=tmp_path)


def test_a_protocols_questions_are_those_of_its_own_columns_without_the_template_around(protocol, tmp_path):
    [found] = known_questions([protocol])
    assert (found.file, found.protocols, found.questions) == ("mine.jsonl", ("mine",), ((LONG,), ("What is 2+2?",)))
    assert "mine" in [named.name for named in every_protocol(beside=tmp_path)]


def test_users_turns_of_a_conversation_are_compared_and_the_sentence_counts(protocol):
    chat = Task(id="a", messages=({"role": "user", "content": "what is 2+2"}, {"role": "assistant", "content": LONG}))
    plain = Task(id="b", text=f"Please answer. {LONG}")
    [found] = trained_questions(Data(source="rows.jsonl"), [chat, plain, plain], [protocol])
    assert "of the 2 questions of mine.jsonl (mine) 1 are training prompts, 2 share 13 words" in str(found)
    assert (found.exact, found.run, found.prompts) == (1, 2, 3)
    [found] = trained_questions(Data(source="rows.jsonl"), [chat], [protocol])
    assert (found.exact, found.run, found.prompts) == (1, 1, 1)


def test_rows_that_are_made_are_in_no_benchmark_and_not_compared(protocol):
    assert trained_questions(Data(source="generator:arithmetic"), [Task(id="b", text=LONG)], [protocol]) == []


def test_a_run_says_at_its_start_and_in_its_report_what_benchmarks_ask(protocol, tmp_path):
    rows = [{"prompt": "what is 2+2", "completion": "4"}, {"prompt": "1+1=", "completion": "2"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(
        "model: {scratch: {characters: '0123456789+= whatis', layers: 1, hidden: 16, heads: 2, context: 16}}\n"
        f"run: {tmp_path / 'run'}\ndata: {{source: ./rows.jsonl, chat: false}}\n"
        "algorithm: {type: sft}\noptimizer: {lr: 1e-3}\ntrain: {epochs: 1, batch: 2}\n"
    )
    run(read_recipe(tmp_path / "r.yaml"), resume=False, as_json=True)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    [found] = [event for event in events if event["kind"] == "trained_questions"]
    wanted = {"benchmark": "mine.jsonl", "protocols": ["mine"], "questions": 2, "exact": 1, "run": 1, "prompts": 1}
    assert {name: found[name] for name in wanted} == wanted
    assert any("of the 2 questions of mine.jsonl (mine) 1 are" in event.get("text", "") for event in events)
    page = write_report(tmp_path / "run").read_text()
    assert "Trained on what mine asks: of 2 questions of mine.jsonl 1 are training prompts" in page


def test_no_shipped_recipe_trains_on_the_rows_of_a_benchmark():
    folder = Path(__file__).parents[2] / "recipes"
    asked = {named.protocol.source.hub: named.protocol.source.split for named in every_protocol()}
    for file in folder.rglob("*.yaml"):
        for hub, split in asked.items():
            if hub and f"hub:{hub}" in file.read_text():
                assert f"split: {split}" not in file.read_text(), file
