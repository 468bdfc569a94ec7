"""`alignkit eval` from the command line: a small real model without a network, rewards, and errors of one line."""

import importlib.util
import json
import math
import socket
from pathlib import Path

import pytest
import yaml

from alignkit.cli.eval import scorer_lines, table
from alignkit.cli.main import run as cli
from alignkit.evaluate.benchmark.metrics import absent, rate
from alignkit.models.load import load_policy, save_pretrained
from alignkit.recipe.schema import Model, Scratch
from tests.unit.eval_parts import sums, write_rows


@pytest.fixture
def no_network(monkeypatch):
    """Any connection to another machine, or to this one's own address, fails the test."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny character model as a folder, without a chat template."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    scratch = Scratch(characters="0123456789+= \n", layers=1, hidden=16, heads=2, context=24)
    model, tokenizer = load_policy(Model(scratch=scratch), seed=0)
    save_pretrained(model, tokenizer, path)
    return path


def evaluated(capsys, *arguments):
    """(exit code, standard output, lines of standard error)."""
    code = cli(["eval", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, [line for line in said.err.splitlines() if not line.startswith("eval: ")]


def test_a_model_is_measured_offline_and_read_again_from_its_folder(tmp_path, folder, capsys, no_network, monkeypatch):
    named = sums(tmp_path, sampling={"max_new_tokens": 8, "stop": ["\n"]})
    arguments = (
        folder,
        "--task",
        named.file,
        "--engine",
        "hf",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "out",
        "--json",
    )
    code, text, problems = evaluated(capsys, *arguments)
    assert (code, problems) == (0, [])
    [result] = json.loads(text)["results"]
    assert result["engine"] == "hf float32"
    assert result["counts"]["tasks"] == 20
    assert json.loads((tmp_path / "out/sums/sums/result.json").read_text()) == result
    with monkeypatch.context() as broken:  # no engine is needed for what is on the disk
        broken.setattr("alignkit.run.evaluate.evaluated_model._hf", None)
        code, text, _ = evaluated(capsys, *arguments)
    assert json.loads(text)["results"] == [{**result, "cached": True}]
    code, text, _ = evaluated(capsys, *arguments[:-1], "--limit", 3)
    assert code == 0
    assert "accuracy" in text
    assert f"results: {tmp_path}/out/sums" in text


def test_the_same_weights_have_the_same_hash_and_a_changed_file_another(tmp_path, folder, capsys):
    from alignkit.run.evaluate.evaluated_model import folder_hash

    before = folder_hash(folder)
    assert folder_hash(folder) == before
    (folder / "README.md").write_text("words")
    assert folder_hash(folder) == before
    template = folder / "chat_template.jinja"
    template.write_text("{{ messages[0].content }}")
    assert folder_hash(folder) != before
    template.unlink()


def test_errors_are_one_line(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.delenv("ALIGNKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    chat = sums(tmp_path, prompt={"chat": True, "template": "{{q}}"})
    plain = sums(tmp_path / "plain")
    gone = {"file": "gone.jsonl", "sha256": "0" * 64, "url": "https://h/gone"}
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump({**yaml.safe_load(chat.file.read_text()), "source": gone}))
    for arguments, wanted in (
        ((folder,), "give one of --suite NAME and --task PROTOCOL"),
        ((folder, "--suite", "quick", "--task", "x"), "Give one of"),
        ((folder, "--task", chat.file, "--engine", "tensorrt"), "--engine is tensorrt; wanted vllm, hf"),
        ((folder, "--suite", "quik"), "did you mean 'suites/quick'"),
        ((folder, "--task", "gone.yaml"), "no data: gone.jsonl (sha256 0000"),
        ((folder, "--task", chat.file, "--engine", "hf"), "has no chat template, which sums need"),
        (("./nowhere", "--task", chat.file), "no folder"),
        ((tmp_path, "--task", chat.file), "cannot load"),
        (
            (folder, "--task", plain.file, "--data", tmp_path / "plain", "--engine", "http://127.0.0.1:9"),
            "server engine http://127.0.0.1:9: ",
        ),
        (("final_number", "--task", chat.file), "is not a hub id"),
    ):
        code, _, problems = evaluated(capsys, *arguments)
        assert code == 2, arguments
        assert len(problems) == 1, problems
        assert wanted.lower() in problems[0].lower(), problems


def test_all_missing_data_are_named_at_once(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.delenv("ALIGNKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, problems = evaluated(capsys, folder, "--task", "safety/beavertails", "--task", "math/svamp")
    assert code == 2
    assert [line.partition(":")[0] for line in problems] == ["safety/beavertails", "math/svamp", "safety/xstest"]
    assert all("sha256" in line for line in problems)


def test_a_reward_is_measured_on_pairs(tmp_path, capsys):
    rows = [
        {"q": "?", "good": "a" * 10, "bad": "b" * 30},
        {"q": "?", "good": "a" * 30, "bad": "b" * 29},
        {"q": "?", "good": "a", "bad": "b"},
        {"q": "?", "good": "", "bad": "b"},
    ]
    named = sums(
        tmp_path,
        category="reward",
        measure="pairs",
        source={"file": "pairs.jsonl.gz", "sha256": write_rows(tmp_path, "pairs.jsonl.gz", rows)},
        prompt={"chat": True, "template": "{{q}}"},
        gold=None,
        group=None,
        columns={"chosen": "good", "rejected": "bad"},
        metrics={},
        sampling=None,
    )
    (tmp_path / "mine.py").write_text(
        "def mine(completion, task):\n    return -len(completion) if completion else None\n"
    )
    arguments = ("--task", named.file, "--data", tmp_path, "--out", tmp_path / "out", "--json")
    code, text, problems = evaluated(capsys, f"{tmp_path}/mine.py:mine", *arguments)
    assert (code, problems) == (0, [])
    [result] = json.loads(text)["results"]
    told = {name: (number["value"], number["n"]) for name, number in result["metrics"].items()}
    # right, wrong, a tie, and one that could not be scored; only the middle two are of like length
    calibration = told.pop("margin_calibration_error")
    assert told == {"pair_accuracy": (0.5, 3), "length_matched_accuracy": (0.25, 2), "longer_wins": (0.5, 3)}
    # margin 20 and right: sure, and so it should be; margin -1 and wrong: 73 % sure, never right
    assert calibration == (pytest.approx((2e-9 + 1 / (1 + math.exp(-1))) / 2, abs=1e-6), 2)
    assert result["counts"]["failed"] == 1
    assert result["model"]["name"].endswith("mine.py:mine")


def result(protocol, **metrics):
    counts = {"samples": 100, "tasks": 100, "truncated": 3, "unparsed": 0, "failed": 0, "empty": 0}
    return {"protocol": protocol, "metrics": metrics, "counts": counts}


def test_the_table_shows_harm_beside_over_refusal_truncation_and_causes():
    harm = rate(30, 100, cause="") | {"over_refusal": {"protocol": "safety/xstest", **rate(5, 250, cause="")}}
    [row] = table([result("safety/x", harm_rate=harm)])
    assert row[:3] == ("safety/x", "harm_rate", "30.0%")
    assert row[5] == "over-refusal 2.0% (0.9% to 4.6%) (safety/xstest); 3% truncated (!)"
    [row] = table([result("safety/x", harm_rate=absent("no over-refusal rate"))])
    assert row[2:] == ("none", "", "0", "no over-refusal rate")


def test_scorers_are_told_once_with_hash_and_known_error():
    known = {"true_positive": 40, "true_negative": 50, "false_positive": 7, "false_negative": 3}
    graded = {
        "scorers": [{"name": "a", "hash": "x", "known_error": None}, {"name": "b", "hash": "y", "known_error": known}]
    }
    assert scorer_lines([graded, graded]) == ["scorer a x", "scorer b y: agrees with people on 90.0% of 100 answers"]


def test_the_table_in_the_docs_is_made_from_result_files(tmp_path, capsys, monkeypatch):
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("evals_table", root / ".ci" / "evals_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = result("safety/x", harm_rate=absent("no over-refusal | rate")) | {
        "model": {"name": "m", "hash": "h"}, "engine": "e", "seed": 0, "started": "2026-01-02T03:04:05", "seconds": 90,
    }  # fmt: skip
    (tmp_path / "quick" / "safety-x").mkdir(parents=True)
    (tmp_path / "quick" / "safety-x" / "result.json").write_text(json.dumps(told))
    page = tmp_path / "page.md"
    page.write_text((root / "docs" / "evals.md").read_text())
    monkeypatch.setattr("sys.argv", ["evals_table.py", str(tmp_path), str(page)])
    script.main()
    written = page.read_text()
    script.main()
    assert page.read_text() == written
    assert "`quick`: m (`h`), e, seed 0, 2026-01-02, 1.5 minutes of sampling and scoring." in written
    assert "| safety/x | harm_rate | none |  | 0 | no over-refusal \\| rate |" in written
