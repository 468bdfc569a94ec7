"""Prompts, extraction and scores against lm-eval 0.4.13 itself: the same text in, the same verdict out."""

import gzip
import importlib.metadata
import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from random import Random

import pytest
import yaml

from alignkit.evaluate.benchmark.protocol import read_protocol
from alignkit.evaluate.benchmark.tasks import load_benchmark
from alignkit.recipe.lookup.find import find, load
from alignkit.types.task import Task

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
pytest.importorskip("lm_eval", reason="lm-eval is a test-only dependency: pip install lm-eval==0.4.13")
pytestmark = pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K and MATH rows: set ALIGNKIT_DATA")


@pytest.fixture(autouse=True)
def lm_eval_imports(monkeypatch, tmp_path):
    """lm-eval imports a table printer that nothing here uses; it and its hub caches stay out of the way."""
    if importlib.util.find_spec("tabulate") is None:
        monkeypatch.setitem(sys.modules, "tabulate", types.SimpleNamespace(tabulate=None))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def rows(file):
    return [json.loads(line) for line in gzip.open(DATA / file, "rt", encoding="utf-8")]


def lm_eval_file(name):
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / name


def lm_eval_task(name, tmp_path):
    from lm_eval.api.task import ConfigurableTask

    config = yaml.safe_load(lm_eval_file(f"gsm8k/{name}").read_text())
    files = {split: str(DATA / f"gsm8k/{split}.jsonl.gz") for split in ("train", "test")}
    del config["dataset_name"]
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)}}
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(1234)
    return task


@pytest.mark.parametrize(
    ("file", "name", "shots"), [("gsm8k.yaml", "math/gsm8k", 5), ("gsm8k-cot.yaml", "math/gsm8k-cot", 8)]
)
def test_gsm8k_prompts_are_lm_evals_byte_for_byte(tmp_path, file, name, shots):
    theirs = lm_eval_task(file, tmp_path)
    ours = load_benchmark(read_protocol(name), data=DATA, seed=0)
    for doc, task in zip(theirs.test_docs(), ours[:200], strict=False):
        assert task.text == theirs.fewshot_context(doc, shots)
    assert read_protocol(name).protocol.sampling.stop == tuple(theirs.config.generation_kwargs["until"])


def gsm8k_outputs(count):
    """(row, output): answers right and wrong in many forms, and texts without any."""
    random = Random(5)
    forms = [
        "{work}\n#### {answer}", "{work}\n#### {answer}.", " #### ${answer}", "The answer is {answer}.", "So {answer}",
        "The answer is ${answer}. Really.", "{work} The answer is {answer}", "#### {answer}\n#### {other}",
        "The answer is {other}. No: The answer is {answer}.", "{answer} {other}", "It costs {answer},", "-{answer}",
        "I do not know.", "", "####", "The answer is .", "#### {answer} apples", "{answer}%", "**{answer}**",
        "\\boxed{{{answer}}}", "{answer}.00", "{answer}. . .", "$", ",", "#### -{answer}", "The answer is −{answer}.",
        "{work}\n#### {answer}\n\nQuestion: next?\nAnswer: #### {other}", "½ and {answer}", "１２ {answer}",
    ]  # fmt: skip
    questions = rows("gsm8k/test.jsonl.gz")
    for _ in range(count):
        row = random.choice(questions)
        work, _, gold = row["answer"].rpartition("\n#### ")
        number = int(gold.replace(",", ""))
        told = random.choice([gold, f"{number:,}", str(number), str(number + random.randrange(-2, 3)), f"{number}.0"])
        other = str(random.randrange(1000))
        yield row, random.choice(forms).format(work=work, answer=told, other=other)


@pytest.mark.parametrize(("file", "name"), [("gsm8k.yaml", "math/gsm8k"), ("gsm8k-cot.yaml", "math/gsm8k-cot")])
def test_gsm8k_scores_equal_lm_evals_on_5000_outputs(file, name):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    config = yaml.safe_load(lm_eval_file(f"gsm8k/{file}").read_text())
    rule = {key: config["metric_list"][0][key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    protocol = read_protocol(name).protocol
    reward = load(find("rewards", "extracted_match")).function
    agreed = {"right": 0, "wrong": 0}
    for row, output in gsm8k_outputs(5000):
        gold = row["answer"] if name == "math/gsm8k" else row["answer"].split("####")[-1].strip()
        for theirs in config["filter_list"]:
            arguments = {key: value for key, value in theirs["filter"][0].items() if key != "function"}
            [[found]] = RegexFilter(**arguments).apply([[output]], [row])
            wanted = exact_match_hf_evaluate([found], [gold], **rule)["exact_match"]
            metric = protocol.metrics[theirs["name"].partition("-")[0]]
            got = reward(output, Task(id="t", text="?", reference=gold), **metric.options)
            assert got.value == wanted, (theirs["name"], output, gold, found)
            agreed["right" if wanted else "wrong"] += 1
    assert min(agreed.values()) > 2000


@pytest.fixture
def minerva(monkeypatch):
    """lm-eval's own module. It insists on an older parser runtime than the one here, which reads the same grammar."""
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "4.11.1" if name.startswith("antlr4") else version(name)
    )
    spec = importlib.util.spec_from_file_location("lm_eval_minerva", lm_eval_file("minerva_math/utils.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def minerva_outputs(count):
    random = Random(7)
    problems = rows("math/math500_test.jsonl.gz")
    said, hope = "Final Answer: The final answer is", "I hope it is correct."
    forms = [
        f"{said} {{}}. {hope}", f"{said} ${{}}$. {hope}", f"Some work.\n{said} ${{}}$. {hope}\n\nProblem:\n",
        "Thus $\\boxed{{{}}}$.", f"{said} $x = {{}}$. {hope}", "The answer is {}.", "", "Final Answer: {}",
        f"{said} {{}} cm. {hope}", f"{said} {{}}. ", f"{said}\n{{}}. {hope}", f"{said} $\\text{{{{{{}}}}}}$. {hope}",
    ]  # fmt: skip
    for _ in range(count):
        problem = random.choice(problems)
        answer = random.choice([problem["answer"], problem["answer"], random.choice(problems)["answer"]])
        yield problem, random.choice(forms).format(answer)


def test_minerva_extraction_and_normalisation_equal_lm_evals_on_5000_outputs(minerva):
    from alignkit.content.reward_models.verifiable import minerva_answer as ours

    for problem, output in minerva_outputs(5000):
        wanted = minerva.normalize_final_answer(minerva.get_unnormalized_answer(output))
        stated = ours.STATED.search(output + ours.CLOSING)
        got = ours.normalise(stated[1].strip()) if stated else "[invalidanswer]"
        assert got == wanted, output
        gold = minerva.normalize_final_answer(minerva.remove_boxed(minerva.last_boxed_only_string(problem["solution"])))
        assert ours.normalise(ours.last_boxed(problem["solution"])) == gold


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_minerva_scores_equal_lm_evals_but_where_sympy_cannot_read_latex(minerva, count):
    reward = load(find("rewards", "minerva_answer")).function
    verdicts = {}
    for problem, output in minerva_outputs(count):
        found = minerva.normalize_final_answer(minerva.get_unnormalized_answer(output))
        gold = minerva.normalize_final_answer(minerva.remove_boxed(minerva.last_boxed_only_string(problem["solution"])))
        key = (found, gold)
        if key not in verdicts:
            verdicts[key] = minerva.is_equiv(found, gold)
        got = reward(output, Task(id="t", text="?", reference=problem["solution"])).value
        verdicts.setdefault("different", []).extend([(key, got)] * (got != float(verdicts[key])))
    different = verdicts.get("different", [])
    assert all(got == 1 for _, got in different), different  # never wrong where lm-eval says right
    assert len(different) <= 0.01 * count, different
