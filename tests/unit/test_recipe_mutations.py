"""Over 150 ways to break a valid recipe: each gives located one-line errors, exit code 2, no traceback, no torch."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

GOOD = """\
# A small valid recipe
model:
  scratch:
    hidden: 32
    heads: 4
    context: 64
data:
  source: generator:arithmetic
  options: {digits: 1, style: characters}
  chat: false
  holdout: 10
rollouts:
  engine: hf
  prompts: 4
  group: 4
  max_new_tokens: 8
rewards:
  - name: ./judge.py:judge
    weight: 1.0
    options: {strict: true}
algorithm:
  type: grpo
  loss: {clip_high: 0.28}
optimizer:
  lr: 1e-3
  schedule: cosine
  warmup_steps: 2
train:
  steps: 10
  minibatches: 2
evaluation:
  samples: 1
  temperature: 0.0
checkpoints:
  every: 5
seed: 3
"""

SCRATCH = GOOD[GOOD.index("  scratch") : GOOD.index("data:")]
END = GOOD.count("\n") + 1  # the line after the last

JUDGE = '''"""Exact match."""


def judge(completion, task, *, strict=False):
    return completion == task.reference
'''

DRIVER = """
import contextlib, io, json, pathlib, sys
from alignkit.cli.main import run
results = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run(["check", path.name, "--quick"])
    results[path.name] = {"code": code, "stderr": errors.getvalue()}
heavy = sorted(set(sys.modules) & {"torch", "transformers", "datasets", "pyarrow", "vllm", "deepspeed"})
print(json.dumps({"results": results, "heavy": heavy}))
"""


@dataclass(frozen=True)
class Mutation:
    """A broken recipe and what its error must hold: the line, the key and some words (empty: not fixed)."""

    name: str
    text: str | bytes
    line: int = 0
    key: str = ""
    words: str = ""


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def replaced(name: str, old: str, new: str, *, words: str, key: str = "", line: int = 0) -> Mutation:
    assert GOOD.count(old) == 1, old
    return Mutation(name, GOOD.replace(old, new), line or line_of(GOOD, old), key, words)


def typos() -> list[Mutation]:
    """Every key of the recipe with two letters swapped or one doubled; the error must name the right key."""
    generator = random.Random(1)
    mutations = []
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"(\s*(?:- )?)([a-z_]{4,}):", line)
        if not match:
            continue
        indent, key = match.groups()
        at = generator.randrange(1, len(key) - 1)
        for how, wrong in {
            "doubled": key[:at] + key[at] + key[at:],
            "dropped": key[:at] + key[at + 1 :],
            "swapped": key[: at - 1] + key[at] + key[at - 1] + key[at + 1 :],
        }.items():
            if wrong != key:
                text = "\n".join(
                    [*lines[:number], line.replace(f"{indent}{key}:", f"{indent}{wrong}:", 1), *lines[number + 1 :]]
                )
                mutations.append(Mutation(f"{how}_{number}_{key}", text, number + 1, wrong, f"'{key}'"))
    return mutations


def wrong_types() -> list[Mutation]:
    """Every scalar of the recipe as a value that its setting cannot have."""
    mutations = []
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"(\s*(?:- )?)([a-z_]+): (\S+)$", line)
        if match is None:
            continue
        indent, key, value = match.groups()
        strange = {"mapping": "{a: 1}", "list": "[1, 2]"}
        if re.fullmatch(r"[\d.e-]+|true|false", value):
            strange |= {"text": "eight"} | ({} if key == "weight" else {"negative": "-7.5"})
        for kind, new in strange.items():
            text = "\n".join([*lines[:number], f"{indent}{key}: {new}", *lines[number + 1 :]])
            mutations.append(Mutation(f"{kind}_{number}_{key}", text, number + 1, key))
    return mutations


def duplicates_and_tabs() -> list[Mutation]:
    mutations = []
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s*[a-z_]+: \S", line):
            text = "\n".join([*lines[: number + 1], line, *lines[number + 1 :]])
            words = f"duplicate key; it already stands in line {number + 1}"
            mutations.append(Mutation(f"duplicate_{number}", text, number + 2, line.split(":")[0].strip(), words))
        if line.startswith("  ") and not line.startswith("  - "):
            text = "\n".join([*lines[:number], "\t" + line.strip(), *lines[number + 1 :]])
            mutations.append(Mutation(f"tab_{number}", text, number + 1, words="tab"))
    return mutations


def removals() -> list[Mutation]:
    """Each required section or setting taken away; the error stands at its parent and names it."""
    cut = {
        "model": "model:\n  scratch:\n    hidden: 32\n    heads: 4\n    context: 64\n",
        "data": GOOD[GOOD.index("data:") : GOOD.index("rollouts:")],
        "algorithm": "algorithm:\n  type: grpo\n  loss: {clip_high: 0.28}\n",
        "optimizer": GOOD[GOOD.index("optimizer:") : GOOD.index("train:")],
        "train": "train:\n  steps: 10\n  minibatches: 2\n",
        "rewards": GOOD[GOOD.index("rewards:") : GOOD.index("algorithm:")],
        "data.source": "  source: generator:arithmetic\n",
        "algorithm.type": "  type: grpo\n",
        "optimizer.lr": "  lr: 1e-3\n",
        "train.steps": "  steps: 10\n",
    }
    return [Mutation(f"without_{key}", GOOD.replace(part, ""), key=key) for key, part in cut.items()]


RANGES = [
    replaced("zero_prompts", "prompts: 4", "prompts: 0", key="rollouts.prompts", words="greater than 0"),
    replaced("float_group", "group: 4", "group: 4.5", key="rollouts.group", words="whole number"),
    replaced("bool_group", "group: 4", "group: yes", key="rollouts.group", words="whole number"),
    replaced("quoted_number", "steps: 10", "steps: '10'", key="train.steps", words="whole number; got '10'"),
    replaced("infinite_lr", "lr: 1e-3", "lr: .inf", key="optimizer.lr", words="not a usable number"),
    replaced("overflowing_lr", "lr: 1e-3", "lr: 1e999", key="optimizer.lr", words="not a usable number"),
    replaced("zero_lr", "lr: 1e-3", "lr: 0", key="optimizer.lr", words="greater than 0"),
    replaced("huge_integer", "seed: 3", f"seed: {'9' * 5000}", key="seed", words="not a usable number"),
    replaced("negative_seed", "seed: 3", "seed: -1", key="seed", words="at least 0"),
    replaced("null_section", "train:\n  steps: 10\n  minibatches: 2", "train:", key="train", words="wants a section"),
    replaced("unknown_engine", "engine: hf", "engine: vlm", key="rollouts.engine", words="did you mean 'vllm'"),
    replaced("unknown_schedule", "cosine", "cosin", key="optimizer.schedule", words="did you mean 'cosine'"),
    replaced(
        "unknown_scale", "loss: {clip_high: 0.28}", "scale: grup", key="algorithm.scale", words="did you mean 'group'"
    ),
    replaced("moved_key", "steps: 10", "steps: 10\n  lr: 1", line=30, key="train.lr", words="'optimizer.lr'"),
    replaced("unknown_algorithm", "type: grpo", "type: grpoo", key="algorithm.type", words="did you mean 'grpo'"),
    replaced("algorithm_number", "type: grpo", "type: 3", key="algorithm.type", words="wants a name; got 3"),
    replaced(
        "beta_of_one",
        "lr: 1e-3",
        "lr: 1e-3\n  betas: [0.9, 1.0]",
        line=26,
        key="optimizer.betas.1",
        words="less than 1",
    ),
    replaced(
        "three_betas",
        "lr: 1e-3",
        "lr: 1e-3\n  betas: [1, 2, 3]",
        line=26,
        key="optimizer.betas",
        words="at most 2 items",
    ),
]

CONTRADICTIONS = [
    replaced("both_models", "  scratch:", "  path: x/y\n  scratch:", line=2, key="model", words="got both"),
    replaced("odd_head", "heads: 4", "heads: 5", key="model.scratch.heads", words="hidden / heads"),
    replaced("twice_a_character", "hidden: 32", "characters: aba", key="model.scratch.characters", words="'a' twice"),
    replaced("uneven_minibatches", "minibatches: 2", "minibatches: 3", key="train.minibatches", words="must divide"),
    replaced("batch_for_rollouts", "minibatches: 2", "batch: 4", key="train.batch", words="prompts x group = 16"),
    replaced("lonely_group", "group: 4", "group: 1", line=21, key="algorithm", words="at least 2"),
    replaced("no_room_for_a_prompt", "max_new_tokens: 8", "max_new_tokens: 64", key="max_new_tokens", words="no room"),
    replaced("only_gates", "weight: 1.0", "gate: true", line=17, key="rewards", words="only gates"),
    replaced("zero_weight", "weight: 1.0", "weight: 0", line=17, key="rewards", words="zero weights"),
    replaced("endless_warmup", "warmup_steps: 2", "warmup_steps: 20", key="warmup_steps", words="20 optimizer steps"),
    replaced("greedy_samples", "samples: 1", "samples: 8", key="evaluation.samples", words="temperature 0"),
    replaced("nothing_to_evaluate", "holdout: 10", "holdout: 0", line=31, key="evaluation", words="data.holdout"),
    replaced("nothing_to_train", "holdout: 10", "holdout: 10\n  limit: 10", key="data.holdout", words="10 of 10 rows"),
    replaced("idle_reference", "seed: 3", "reference: {path: null}", key="reference", words="no stage uses"),
    replaced("kl_without_weight", "clip_high: 0.28", "kl: loss", line=21, key="algorithm", words="kl and kl_weight"),
    replaced("broken_template", "chat: false", "template: '{question'", key="data.template", words="format string"),
    replaced("constant_template", "chat: false", "template: hello", key="data.template", words="names no column"),
    replaced("unknown_option", "digits: 1", "digit: 1", key="data.options.digit", words="did you mean 'digits'"),
    replaced("unknown_generator", "generator:arithmetic", "generator:aritmetic", key="source", words="'arithmetic'"),
    replaced("no_such_data", "generator:arithmetic", "./nope.jsonl", key="data.source", words="there is no file"),
    replaced("strange_data", "generator:arithmetic", "data.exe", key="data.source", words="wants `generator:NAME`"),
    replaced("strange_hub", "generator:arithmetic", "hub:a/b/c", key="data.source", words="hub:ORG/NAME"),
    replaced("no_such_reward", "./judge.py:judge", "./jugde.py:judge", key="rewards.0.name", words="there is no file"),
    replaced("no_such_function", "judge.py:judge", "judge.py:jugde", key="rewards.0.name", words="'judge'"),
    replaced("no_such_module", "./judge.py:judge", "no_such_package:f", key="rewards.0.name", words="no module"),
    replaced("no_such_trl_reward", "./judge.py:judge", "trl:acuracy_reward", key="name", words="'accuracy_reward'"),
    replaced("reward_option", "strict: true", "strickt: true", key="rewards.0.options.strickt", words="'strict'"),
    replaced("no_such_model", SCRATCH, "  path: ./nowhere\n", key="model.path", words="there is no"),
    replaced("unknown_profile", "seed: 3", "launch: zero22", key="launch", words="'zero2'"),
    replaced("no_such_base", "seed: 3", "extends: ./nothing.yaml", key="extends", words="no such recipe file"),
    replaced("base_is_3", "seed: 3", "extends: [grpo, 3]", key="extends", words="wants names or paths of recipes"),
    replaced("extends_itself", "seed: 3", "extends: ./extends_itself.yaml", key="extends", words="circle"),
    replaced("file_key", "seed: 3", "file: x.yaml", key="file", words="is not a setting"),
    replaced("empty_stages", "seed: 3", "stages: []", key="stages", words="at least one stage"),
    replaced("stage_is_text", "seed: 3", "stages: [a]", key="stages.0", words="section"),
]  # fmt: skip

MALFORMED = [
    Mutation("empty", "", 1, words="empty"),
    Mutation("only_comments", "# nothing\n", 1, words="empty"),
    Mutation("a_list", "- model\n- data\n", 1, words="got a list"),
    Mutation("a_word", "hello", 1, words="got 'hello'"),
    Mutation("binary", bytes(range(256)) * 8, 1, words="binary"),
    Mutation("latin_1", GOOD.encode() + "run: \xe9t\xe9\n".encode("latin-1"), END, words="UTF-8"),
    Mutation("control_character", GOOD + "run: a\x07b\n", END, words="control character"),
    Mutation("megabytes", "# x\n" * 400_000, 1, words="larger than 64 KiB"),
    Mutation("deep_flow", "model: " + "[" * 20_000, 1, words="nested deeper"),
    Mutation("deep_mapping", "model: " + "{a: " * 40 + "1" + "}" * 40, 1, words="nested deeper"),
    Mutation("alias_bomb", "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ), words="more than 20000 values"),
    Mutation("endless_alias", "model: &a [*a]\n", 1, words="nested deeper"),
    Mutation("unknown_alias", GOOD + "run: *nobody\n", END, words="undefined alias"),
    Mutation("python_object", "model: !!python/object/apply:os.system [echo]\n", 1, words="tag"),
    Mutation("own_tag", GOOD.replace("seed: 3", "seed: !env SEED"), END - 1, "seed", "tag"),
    Mutation("merge_key", GOOD + "<<: {run: x}\n", END, words="merge keys"),
    Mutation("number_key", GOOD + "3: x\n", END, words="keys are text"),
    Mutation("list_key", GOOD + "? [a, b]\n: x\n", END, words="keys are text"),
    Mutation("two_documents", GOOD + "---\n" + GOOD, END, words="second document"),
    Mutation("open_bracket", GOOD.replace("{digits: 1, style: characters}", "{digits: 1"), words="brackets"),
    Mutation("open_quote", GOOD.replace("seed: 3", "run: 'x"), words="not valid YAML"),
    Mutation("bad_indent", GOOD.replace("  steps: 10", " steps: 10"), 30, words="check the indentation"),
    Mutation("colon_in_text", GOOD.replace("seed: 3", "run: a: b"), END - 1, words="unexpected `:`"),
    Mutation("no_colon", GOOD.replace("  steps: 10", "  steps 10"), words="check the indentation"),
]  # fmt: skip

MUTATIONS = [*typos(), *wrong_types(), *duplicates_and_tabs(), *removals(), *RANGES, *CONTRADICTIONS, *MALFORMED]
LOCATED = re.compile(r"^(?P<file>[\w.]+\.yaml):(?P<line>\d+): (?P<rest>.+)$")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Exit code and stderr of `alignkit check` on every mutation, all in one fresh process."""
    folder = tmp_path_factory.mktemp("mutations")
    (folder / "judge.py").write_text(JUDGE)
    (folder / "good.yaml").write_text(GOOD)
    for mutation in MUTATIONS:
        text = mutation.text if isinstance(mutation.text, bytes) else mutation.text.encode()
        (folder / f"{mutation.name}.yaml").write_bytes(text)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", DRIVER, str(folder)]
    output = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def test_the_recipe_that_is_mutated_is_itself_valid(verdicts):
    assert verdicts["results"]["good.yaml"] == {"code": 0, "stderr": ""}


def test_there_are_more_than_150_mutations_and_checking_them_imports_nothing_heavy(verdicts):
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) > 150
    assert verdicts["heavy"] == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_recipe_gives_located_errors_and_exit_code_2(verdicts, mutation):
    result = verdicts["results"][f"{mutation.name}.yaml"]
    assert result["code"] == 2
    lines = result["stderr"].splitlines()
    matches = [LOCATED.match(line) for line in lines]
    assert lines
    assert all(matches), lines
    assert all(match["file"] == f"{mutation.name}.yaml" for match in matches if match)
    assert all(len(line) < 400 for line in lines)
    hits = [
        line
        for match, line in zip(matches, lines, strict=True)
        if match
        and mutation.line in (0, int(match["line"]))
        and (not mutation.key or re.search(rf"(^|\.){re.escape(mutation.key)}(\.\w+)*: ", match["rest"]))
        and mutation.words in match["rest"]
    ]
    assert hits, lines
