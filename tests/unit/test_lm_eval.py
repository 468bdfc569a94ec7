"""Our engine as a model of lm-eval against lm-eval's own model on the same weights, and lm-eval's logs read back."""

import importlib.util
import json
import os
import sys
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.lm_eval_model import lm_eval_model
from alignkit.evaluate.benchmark.protocol import read_protocol
from alignkit.evaluate.benchmark.runner import BenchmarkJob, Runner
from alignkit.evaluate.benchmark.tasks import load_benchmark
from alignkit.evaluate.results.compare import compare_folders
from alignkit.evaluate.results.logs import read_results
from alignkit.types.rollout import Completion, StopReason
from tests.unit.eval_parts import ScriptedEngine as Scripted
from tests.unit.eval_parts import scripted_model

pytest.importorskip("lm_eval", reason="lm-eval is a test-only dependency: pip install lm-eval==0.4.13")

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
CONTEXT = 64
PAIRS = [
    ("What is 2?", " two"),
    ("a b c", " d e"),
    ("", "alone"),
    ("spaces  ", "x"),
    ("yes or", " no"),
    ("q" * 90, "z"),
]


@pytest.fixture(scope="module", autouse=True)
def lm_eval_imports(tmp_path_factory):
    """lm-eval imports a table printer that nothing here uses; it and its hub caches stay out of the way."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("tabulate") is None:
            printer = ModuleType("tabulate")
            printer.__spec__, printer.tabulate = ModuleSpec("tabulate", None), None
            patch.setitem(sys.modules, "tabulate", printer)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def letters() -> Any:
    """One token per printable character."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = ["<end>", *[chr(code) for code in range(32, 127)], "\n"]
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def models():
    """(ours, lm-eval's) around the same tiny weights."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    from alignkit.engines.hf import HfEngine

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = LlamaConfig(
        **sizes,
        vocab_size=97,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    model, tokenizer = LlamaForCausalLM(settings).eval(), letters()
    engine = HfEngine(model, dtype="float32", share=True)
    theirs = HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=1, max_length=CONTEXT - 2
    )
    yield lm_eval_model(engine, tokenizer, context=CONTEXT), theirs
    engine.close()


def instances(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, 0, metadata=("task", number, 1)) for number, args in enumerate(arguments)]


def test_likelihoods_and_greedy_flags_are_those_of_lm_evals_own_model(models):
    requests = instances("loglikelihood", *PAIRS)
    ours, theirs = (model.loglikelihood(requests, disable_tqdm=True) for model in models)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_what_greedy_decoding_gives_is_flagged_greedy(models):
    ours, _ = models
    (text,) = ours.generate_until(instances("generate_until", ("go", {"max_gen_toks": 5, "until": []})))
    other = "~" if text[0] != "~" else "!"
    told = ours.loglikelihood(instances("loglikelihood", ("go", text), ("go", text[:2]), ("go", other)))
    assert [greedy for _, greedy in told] == [True, True, False]


def test_rolling_likelihoods_are_those_of_lm_evals_own_model(models):
    requests = instances("loglikelihood_rolling", ("short",), ("a longer text " * 9,))
    ours, theirs = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in models)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_generations_are_those_of_lm_evals_own_model_and_stop_where_told(models):
    settings = [{"until": ["\n"], "max_gen_toks": 12}, {"until": [], "max_gen_toks": 9, "do_sample": False}]
    requests = instances("generate_until", *[(text, told) for text in ("What is 2?", "hello") for told in settings])
    ours, theirs = (model.generate_until(requests, disable_tqdm=True) for model in models)
    assert ours == theirs
    stop = ours[1][3]
    (text,) = models[0].generate_until(instances("generate_until", ("What is 2?", {**settings[1], "until": stop})))
    assert text == ours[1].partition(stop)[0]


def test_a_long_prompt_loses_its_beginning(models):
    told = {"until": [], "max_gen_toks": 10}
    long, short = ("x" * 500 + "tail", told), (("x" * 500 + "tail")[-54:], told)
    first, second = models[0].generate_until(instances("generate_until", long, short))
    assert first == second


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"top_p": 0.9, "do_sample": True, "temperature": 1.0}, "top_p: 0.9"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size: 3"),
        ({"presence_penalty": 0.5}, "presence_penalty: 0.5"),
        ({"max_gen_toks": 64}, "do not fit"),
    ],
)
def test_sampling_that_the_engine_does_not_have_is_refused(models, told, words):
    with pytest.raises(DataError, match=words):
        models[0].generate_until(instances("generate_until", ("x", {"until": [], **told})))


class Codes:
    """A tokenizer whose tokens are the characters' codes."""

    bos_token = bos_token_id = None
    eos_token_id = 0
    name_or_path = "codes"

    def encode(self, text, add_special_tokens=False):
        return list(map(ord, text))

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(map(chr, tokens))


class ScriptedEngine:
    """Answers a prompt by a function of its text."""

    def __init__(self, tokenizer, script):
        self.tokenizer, self.script = tokenizer, script

    async def generate(self, requests):
        return [self._completion(request) for request in requests]

    def _completion(self, request):
        ids = tuple(self.tokenizer.encode(self.script(self.tokenizer.decode(request.prompt_ids))))
        return Completion(token_ids=ids, logprobs=(0.0,) * len(ids), stop=StopReason.END_OF_TEXT, versions=((0, 0),))

    async def score(self, sequences):
        return [[-1.0] * (len(sequence) - 1) for sequence in sequences]


def sums_task(folder):
    rows = [{"question": f"{a} + {b}", "answer": f"#### {a + b}"} for a in range(8) for b in range(5)]
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer.split('####')[-1].strip()}}",
        "generation_kwargs": {"until": ["Question:"], "max_gen_toks": 30},
        "filter_list": [
            {
                "name": "strict",
                "filter": [{"function": "regex", "regex_pattern": "#### (\\d+)"}, {"function": "take_first"}],
            },
            {
                "name": "loose",
                "filter": [
                    {"function": "regex", "group_select": -1, "regex_pattern": "(\\d+)"},
                    {"function": "take_first"},
                ],
            },
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 2.0},
    }


def run_lm_eval(tmp_path, name, script, *, task=None):
    """Runs the sums with a scripted model and saves the logs where lm-eval's command line would."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    model = lm_eval_model(ScriptedEngine(Codes(), script), Codes(), context=256)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[task or sums_task(tmp_path)],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = results.pop("samples")
    tracker = EvaluationTracker(output_path=str(tmp_path / name))
    tracker.general_config_tracker.model_name_sanitized = name
    tracker.save_results_aggregated(results=results, samples=samples)
    for key, rows in samples.items():
        tracker.save_results_samples(task_name=key, samples=rows)
    return results["results"]["sums"]


def adder(wrong, mark="#### "):
    def script(prompt):
        a, b = (int(part) for part in prompt.split("Question:")[-1].partition("\n")[0].split("+"))
        return f" it is {mark}{a + b + (a < wrong)}"

    return script


def test_lm_evals_logs_are_compared_like_our_own(tmp_path):
    """40 sums: A has the 20 with a < 4 wrong, B those with a < 1; B also writes no mark, so strict finds nothing."""
    scores = run_lm_eval(tmp_path, "a", adder(4))
    run_lm_eval(tmp_path, "b", adder(1, mark=""))
    assert scores["exact_match,strict"] == 0.5
    before, after = read_results(tmp_path / "a"), read_results(tmp_path / "b")
    result = before.results["sums"]
    assert result.metrics["strict/exact_match"].value == scores["exact_match,strict"]
    assert result.metrics["loose/exact_match"].value == scores["exact_match,loose"]
    assert len(result.samples) == 40
    assert result.samples[0].completion == " it is #### 1"
    assert "Question: 0 + 0" in result.samples[0].prompt
    told = {change.metric: change for change in compare_folders(before, after).changes}
    assert told["loose/exact_match"].verdict == "better"
    assert told["loose/exact_match"].comparison.p_value == 2 / 2**15
    assert (told["strict/exact_match"].verdict, told["strict/exact_match"].after.value) == ("worse", 0.0)


def test_lm_evals_own_word_decides_which_direction_is_better(tmp_path):
    """The same logs with exact_match declared a metric to be small: what became larger is worse."""
    for side, wrong in (("a", 4), ("b", 1)):
        task = sums_task(tmp_path)
        task["metric_list"][0]["higher_is_better"] = False
        run_lm_eval(tmp_path, side, adder(wrong), task=task)
    changes = compare_folders(read_results(tmp_path / "a"), read_results(tmp_path / "b")).changes
    assert {change.metric: change.verdict for change in changes} == dict.fromkeys(
        ("strict/exact_match", "loose/exact_match"), "worse"
    )


def test_lm_eval_logs_of_another_protocol_are_refused_and_the_setting_is_named(tmp_path):
    run_lm_eval(tmp_path, "a", adder(4))
    task = sums_task(tmp_path)
    task["generation_kwargs"] = {**task["generation_kwargs"], "max_gen_toks": 31}
    run_lm_eval(tmp_path, "b", adder(4), task=task)
    with pytest.raises(DataError, match=r"task\.generation_kwargs\.max_gen_toks is 30 in A and 31 in B"):
        compare_folders(read_results(tmp_path / "a"), read_results(tmp_path / "b"))


def often_right(golds):
    """Answers by the question alone: right or wrong, in forms that strict and flexible extraction read differently."""
    forms = [
        "The answer is {}.",
        "So it is {}",
        "The answer is ${}.",
        "{}",
        "I do not know.",
        "#### {}",
        "The answer is {}",
    ]

    def script(prompt):
        question = prompt.rpartition("Q: ")[2].rpartition("\nA:")[0].strip()
        code = zlib.crc32(question.encode())
        told = golds[question] if code % 3 else str(code % 100)
        return " Some work. " + forms[code % len(forms)].format(told) + "\n\nQ: and so on"

    return script


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K rows: set ALIGNKIT_DATA")
def test_all_of_gsm8k_scores_alike_through_lm_eval_and_through_our_runner(tmp_path):
    """1,319 questions, the same scripted answers: every sample's strict and flexible verdict is equal."""
    import lm_eval
    import yaml
    from lm_eval.tasks import TaskManager

    named = read_protocol("math/gsm8k-cot")
    tasks = load_benchmark(named, data=DATA, seed=0)
    golds = {
        task.columns["question"].partition("Q: ")[2].rpartition("\nA:")[0].strip(): task.reference for task in tasks
    }
    script = often_right(golds)
    model = scripted_model(Scripted(lambda prompt, seed: script(prompt)))
    Runner(model=model, folder=tmp_path, logs=tmp_path / "logs", seed=0).run(BenchmarkJob(named=named, tasks=tasks))
    ours = read_results(tmp_path).results["math/gsm8k-cot"].samples

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k-cot.yaml").read_text())
    files = {split: str(DATA / f"gsm8k/{split}.jsonl.gz") for split in ("train", "test")}
    del config["dataset_name"]
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    results = lm_eval.simple_evaluate(
        model=lm_eval_model(ScriptedEngine(Codes(), script), Codes(), context=100_000),
        tasks=[config],
        num_fewshot=8,
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    theirs = {}
    for row in results["samples"]["gsm8k_cot"]:
        theirs[row["doc_id"], row["filter"].partition("-")[0]] = row["exact_match"]
    told = {(n, name): sample.parts[name] for n, sample in enumerate(ours) for name in ("strict", "flexible")}
    assert len(told) == 2 * 1319
    assert told == theirs
    right = [sum(value for (_, kind), value in told.items() if kind == name) for name in ("strict", "flexible")]
    assert 100 < right[0] < right[1] < 1200
