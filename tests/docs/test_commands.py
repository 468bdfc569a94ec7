"""Every command of the documentation runs: on a tiny model, for a step or two, with the files that its page shows.

What does not run here stands in NOT_RUN with the reason; a new command runs, or gets a line there.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from alignkit.cli import main
from alignkit.recipe.lookup.find import find
from tests.docs.pages import PAGES, ROOT, blocks, commands, unmarked

NOT_RUN = {  # a command begins so: why not
    "make ": "what CI runs, or minutes; that there is such a target is checked",
    "python ": "the tests themselves, or benchmarks of minutes; that there is such a file is checked",
    "export ALIGNKIT_TOKEN": "a shell's variable",
    "docker ": "needs docker and an image of the network; tests/docs/test_containers.py reads the file",
    "accelerate launch ": "several processes: tests/distributed",
    "alignkit train recipes/smoke/char-addition.yaml run=runs/two ": "processes: tests/distributed/test_zero_runs.py",
    "alignkit train RECIPE engine.placement=servers ": "waits for replicas: tests/resume/test_fleet_runs.py",
    "alignkit replica ": "waits for a run: tests/resume/test_fleet_runs.py",
    "alignkit serve ": "serves until Ctrl-C: tests/unit/test_serve.py and test_talk.py",
    "alignkit watch ": "serves until Ctrl-C: tests/unit/test_watch_browser.py",
    "alignkit report runs/grpo-0 ": "six runs of minutes: tests/unit/test_report_runs.py",
    "alignkit export runs/a --to hub ": "needs an account: tests/unit/test_export.py has a stand-in for the hub",
    "alignkit eval MODEL ": "a protocol of one's own and real questions; docs/compare.md has the same run",
    "alignkit eval REWARD ": "real pairs: tests/unit/test_eval_cli.py",
    "alignkit compare RUN_A": "names that stand for yours; docs/compare.md has it run",
    "alignkit report RUN/quick": "a name that stands for yours; docs/compare.md has it run",
    "alignkit reward quantiles ": "wants a trained reward model of quantiles: tests/unit/test_lab_quality.py",
    "alignkit reward steps ": "wants a trained reward model of steps: tests/unit/test_lab_quality.py",
    "alignkit best-of-n ": "asks a served reward: tests/unit/test_best_of_n.py",
    "alignkit label-steps ": "rolls out from every step: tests/unit/test_label_steps.py",
}
MODELS = r"smollm2-135m-instruct|Qwen/Qwen3-0\.6B|\bMODEL\b"
STAND_INS = {  # what a page says: what is taken here
    "--suite quick": "--task math/arithmetic --limit 2 --engine hf",
    "hub:openai/gsm8k": "questions.jsonl",
    "data.source=FILE": "data.source=chats.jsonl",
}
FILES = {
    "preferences.yaml": "extends: dpo\nmodel: {path: MODEL}\ndata: {source: pairs.jsonl}\n",
    "answers.jsonl": '{"prompt": "2+2=", "completion": "4", "reference": "4", "label": true}\n'
    '{"prompt": "2+2=", "completion": "5", "reference": "4", "label": false}\n',
}
"""Files that a page speaks of without showing them. It finds those of the pages on jobs, too."""
SAMPLED = [
    "model.path=MODEL",
    "rollouts={engine: hf, prompts: 2, group: 2, max_new_tokens: 4, reward_workers: 1}",
    "optimizer.warmup_steps=0",
]
SHORT = {  # of recipes that sample or make their own rows: by name, or what a file says
    "grpo": [*SAMPLED, "train.steps=1", "health.dead_steps=100"],
    "quickstart": [*SAMPLED, "train.steps=1", "evaluation=null", "data.max_prompt_tokens=200"],
    "my.yaml": [*SAMPLED, "train.steps=2", "evaluation=null", "data.max_prompt_tokens=200"],
    "echo.yaml": [*SAMPLED, "train.steps=1"],
    "archer": [*SAMPLED, "train.steps=1", "train.batch=4", "train.critic_warmup_steps=0", "environment.max_turns=2"],
    "recipes/smoke/reward-bradley-terry.yaml": ["train.steps=1", "optimizer.warmup_steps=0", "evaluation=null"],
}
NAMES = [str(page.relative_to(ROOT)) for page in PAGES if commands(page)]


def reason(command: str) -> str | None:
    return next((why for begins, why in NOT_RUN.items() if command.startswith(begins)), None)


def arguments(command: str) -> list[str]:
    """The words behind `alignkit`, of a pipe those behind it."""
    words = shlex.split(command.rpartition(" | ")[2])
    assert words[0] == "alignkit", f"neither alignkit nor in NOT_RUN: {command}"
    return words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_looks_like_a_command_says_bash_or_console(page):
    assert unmarked(page) == []


@pytest.mark.parametrize("page", NAMES)
def test_a_command_has_verbs_options_targets_and_files_that_there_are(page):
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for command in commands(ROOT / page):
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in targets, command
        elif words[:2] == ["python", "-m"] and words[2] != "pytest":
            assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), command
        elif words[0] == "alignkit" or " | " in command:
            name, verb = "alignkit", cast("Any", main.command())
            given = arguments(command)
            while hasattr(verb, "resolve_command"):
                name, verb, given = verb.resolve_command(verb.context_class(verb), given)
            verb.make_context(name, given)  # raises for an option that there is not
        else:
            assert reason(command) or words[0] in ("mkdir", "source"), f"neither alignkit nor in NOT_RUN: {command}"


def test_every_reason_not_to_run_is_of_a_command_that_there_is():
    known = [command for page in PAGES for command in commands(page)]
    assert [begins for begins in NOT_RUN if not any(command.startswith(begins) for command in known)] == []


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """SmolLM2's tokens and template on two random layers."""
    from tests.unit.export_models import write

    folder = tmp_path_factory.mktemp("docs") / "model"
    write(folder, "SmolLM2")
    return folder


@pytest.fixture(scope="session")
def left(model, tmp_path_factory) -> Path:
    """What a short run left, for pages that speak of a run that they do not make."""
    folder = tmp_path_factory.mktemp("docs")
    written = {block.title: block.text for block in blocks(ROOT / "docs/jobs/chat-model.md") if block.title}
    (folder / "chats.jsonl").write_text(written["chats.jsonl"])
    given = [
        f"model.path={model}",
        f"data.source={folder / 'chats.jsonl'}",
        "model.lora.rank=2",
        f"run={folder / 'run'}",
    ]
    assert main.run(["train", "sft", *given]) == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("page", NAMES)
def test_the_commands_of_a_page_run_in_their_order(page, model, left, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    files = {block.title: block.text for block in blocks(ROOT / page)}
    if not page.startswith("docs/jobs/"):
        others = [block for each in (ROOT / "docs" / "jobs").glob("*.md") for block in blocks(each)]
        files = {block.title: block.text for block in others} | FILES | files
        Path("recipes").symlink_to(ROOT / "recipes")
    for name, text in files.items():
        if name:
            Path(name).write_text(re.sub(MODELS, str(model), text))
    done = 0
    for command in commands(ROOT / page):
        if reason(command):
            continue
        if command.startswith("mkdir "):
            Path(shlex.split(command)[-1]).mkdir(parents=True)
            continue
        given = short(command, model)
        for name in re.findall(r"\bruns/(?!eval)[\w-]+", command):
            if not Path(name).exists() and not re.search(rf"(--run |run=|--out ){name}\b", command):
                shutil.copytree(left, name)
        said = re.match(r'echo "(.*)" \| ', command)
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{said[1]}\n" if said else ""))
        code = main.run(given)
        out, err = capfd.readouterr()
        assert code == 0, f"{command}\n{shlex.join(given)}\n{out[-2000:]}\n{err[-2000:]}"
        done += 1
    assert done or all(reason(command) for command in commands(ROOT / page))


def short(command: str, model: Path) -> list[str]:
    """The arguments of a command with the tiny model, and settings for a step or two."""
    for text, stand_in in STAND_INS.items():
        command = command.replace(text, stand_in)
    words = [re.sub(MODELS, str(model), word) for word in arguments(command)]
    if words[0] == "chat":
        words += ["--max-tokens", "4"]
    if words[0] == "train" and "--print" not in words:
        recipe = words[1]
        words[2:2] = [re.sub(MODELS, str(model), setting) for setting in SHORT.get(recipe, [])]
        if not recipe.endswith(".yaml") and recipe not in SHORT:
            assert "rollouts:" not in find("recipes", recipe).path.read_text(), f"{recipe} samples: a line of SHORT"
    return words
