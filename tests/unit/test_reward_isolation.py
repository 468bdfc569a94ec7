"""What a reward may not do to others: outlive the pool, see secrets, eat the machine's memory, set other scores."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from reward_rollouts import question, rollouts

from alignkit.errors import RewardError
from alignkit.processes.channel import Channel
from alignkit.processes.family import descendants
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool import start_worker
from alignkit.rewards.pool.pool import RewardPool
from alignkit.types.score import FaultKind

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has adopters of orphans and /proc")

REWARDS = """
import ctypes, gc, json, os, sys, threading, time
from alignkit.types.score import Fault, FaultKind, Score

FORGED = b'[[99.0, {}, null, null, null, null]]\\n'

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)

def starts(completion, task):
    daemon()
    time.sleep(0.2)
    if completion == "hang": time.sleep(600)
    if completion == "die": os._exit(3)
    return 1.0

def write(*_):
    for n in range(3, 64):
        try: os.write(n, FORGED * 50)
        except OSError: pass

def later():
    time.sleep(0.05)
    write()

def floods(completion, task):
    data = {"a line without end": b"x" * (1 << 20), "a deep line": b"[" * 200_000 + b"\\n"}.get(completion, b"")
    while data:
        for n in range(3, 64):
            try: os.write(n, data)
            except OSError: pass
    return len(completion)

def attack(completion, task):
    import alignkit.rewards.pool.worker as worker
    import alignkit.rewards.base as base
    main = sys.modules["__main__"]
    if completion == "writes": write()
    if completion == "writes later": threading.Thread(target=later, daemon=True).start()
    if completion == "patches main":
        main._score = lambda *a, **k: None
        main.encode = lambda *a, **k: [99.0, {}, None, None, None, None]
    forged = lambda *a, **k: [99.0, {}, None, None, None, None]
    if completion == "patches worker": worker.encode = forged
    if completion == "patches json": json.dumps = lambda *a, **k: FORGED.decode()
    if completion == "patches as_score": base.as_score = lambda *a, **k: Score(value=99.0)
    if completion == "patches the reward": base.FunctionReward.score = lambda *a: 99.0
    if completion == "patches Score": Score.__init__ = lambda s, **k: object.__setattr__(s, "value", 99.0)
    if completion == "patches float": __builtins__["float"] = lambda x: 99.0
    if completion == "patches itself": globals()["answer"] = lambda text: 99.0
    if completion == "patches the frames":
        frame = sys._getframe()
        while frame:
            for name, value in frame.f_locals.items():
                if isinstance(value, list): value.clear()
            frame = frame.f_back
    if completion == "patches the task": task.columns["bonus"] = 92.0
    return answer(completion) + task.columns.get("bonus", 0.0)

def answer(text):
    return float(len(text))

def memory(completion, task):
    held = []
    while completion == "greedy": held.append(bytearray(8 << 20))
    return len(completion)

def slowly(completion, task):
    held = b"x" * (200 << 20) if completion == "greedy" else b""
    while completion in ("greedy", "modest"): time.sleep(1)
    return len(completion)

def aborts(completion, task):
    if completion == "greedy":
        held = b"x" * (200 << 20)
        os.abort()
    return len(completion)

def environment(completion, task):
    shown = open("/proc/self/environ", "rb").read().decode()
    return float((completion in os.environ) + 10 * (completion in shown))

def reads(completion, task, key_env="MY_JUDGE_KEY"):
    return float(os.environ.get(key_env) == "canary")

def says(completion, task):
    if completion == "part": return Score(value=1.0, parts={"x" * (1 << 20): 1.0})
    if completion == "line": return Score(value=1.0, parts={"a\\nb": 1.0})
    if completion == "huge": return Score(value=1.0, parts={"a": 10 ** 400})
    long = "\\ud800\\x1b[31m\\n" + "y" * (1 << 20)
    return Score(value=None, fault=Fault(kind=FaultKind.REFUSED, where="says", message=long))
"""
ATTACKS = [
    "writes", "writes later", "patches main", "patches worker", "patches json", "patches as_score",
    "patches the reward", "patches Score", "patches float", "patches itself", "patches the frames", "patches the task",
]  # fmt: skip
UNSEEN = {"patches itself"}  # a reward's own state is its own: only a process for each answer helps


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path


def make(folder, name, workers=1, **settings):
    spec = RewardSpec(name=f"./rewards.py:{name}", **{"deadline_s": 20.0, **settings})
    return RewardPool([spec], workers=workers, beside=folder)


def score(pool, *texts, task=None):
    task = task or question()
    [scores] = asyncio.run(pool.score([(task, rollouts(task, *texts))]))
    return scores


def gone(pids):
    """Whether all have ended; they are given a minute, on however busy a machine."""
    deadline = time.monotonic() + 60
    while alive := {pid for pid in pids if is_alive(pid)}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return not alive


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def family():
    return {pid for pid in descendants(os.getpid()) if b"alignkit.processes.keeper" in command_line(pid)}


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("text", ["a line without end", "a deep line"])
def test_what_floods_the_channel_costs_its_own_score_and_is_never_held(folder, monkeypatch, text, isolate):
    monkeypatch.setattr(start_worker, "LARGEST_ANSWER", 4 << 20)
    held, longest = Channel._line, []

    def measured(channel):
        longest.append(len(channel._received))
        return held(channel)

    monkeypatch.setattr(Channel, "_line", measured)
    with closing(make(folder, "floods", deadline_s=60.0, isolate=isolate)) as pool:
        before, bad, after = score(pool, "abc", text, "abcd")
    assert (before.value, bad.value, after.value) == (3.0, None, 4.0)
    assert bad.fault.kind in ((FaultKind.CRASH, FaultKind.CONTRACT) if isolate else (FaultKind.CRASH,))
    assert max(longest) <= (4 << 20) + (1 << 20)  # and one read of the socket


@linux
def test_a_daemon_of_a_reward_ends_with_the_pool(folder):
    before = family()
    with closing(make(folder, "starts", workers=2)) as pool:
        assert [one.value for one in score(pool, "a", "b", "c")] == [1.0, 1.0, 1.0]
        started = family() - before
        assert len(started) == 2 * 3 + 3  # of each worker two keepers and itself, and three daemons
    assert gone(started)


@linux
@pytest.mark.parametrize("text", ["hang", "die"])
def test_a_daemon_of_a_reward_ends_with_its_worker(folder, text):
    before = family()
    with closing(make(folder, "starts", deadline_s=1.0)) as pool:
        score(pool, "a")
        started = family() - before
        [lost] = score(pool, text)
        assert lost.fault.kind is (FaultKind.TIMEOUT if text == "hang" else FaultKind.CRASH)
        assert gone(started)
        assert score(pool, "a")[0].value == 1.0
    assert family() <= before


@linux
@pytest.mark.parametrize("victim", ["trainer", "first keeper", "second keeper", "worker"])
def test_whoever_is_killed_nothing_of_a_reward_is_left(folder, victim):
    program = f"""
import asyncio, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from reward_rollouts import question, rollouts
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
pool = RewardPool([RewardSpec(name="./rewards.py:starts", deadline_s=600)], workers=1, beside=Path({str(folder)!r}))
task = question()
asyncio.run(pool.score([(task, rollouts(task, "a", "b"))]))
print("ready", flush=True)
time.sleep(600)
"""
    trainer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        everything = set(descendants(trainer.pid))
        assert len(everything) == 3 + 2
        first = next(pid for pid in everything if parent_of(pid) == trainer.pid)
        second = next(pid for pid in everything if parent_of(pid) == first)
        worker = next(pid for pid in everything if parent_of(pid) == second and leader_of(pid) == first)
        named = {"trainer": trainer.pid, "first keeper": first, "second keeper": second, "worker": worker}
        os.kill(named[victim], signal.SIGKILL)
        assert gone(everything)
    finally:
        trainer.kill()
        trainer.wait()


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def leader_of(pid):
    return os.getsid(pid)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_one_answer_does_sets_no_other_answers_score(folder, attack):
    """Of every other answer the score is the honest one; its own it may set, as any reward may."""
    texts = ["honest", attack, "honest", "honest", attack, "honest"] * 3
    task = question(None, source="x")
    with closing(make(folder, "attack")) as pool:
        scores = score(pool, *texts, task=task)
    values = {one.value for text, one in zip(texts, scores, strict=True) if text == "honest"}
    assert values == {6.0} or (attack in UNSEEN and values == {6.0, 99.0})
    own = [one for text, one in zip(texts, scores, strict=True) if text == attack]
    assert all(one.value is not None or one.fault.kind in (FaultKind.CRASH, FaultKind.CONTRACT) for one in own)


def test_in_a_process_of_its_own_an_answer_sets_no_other_score_at_all(folder):
    """All attacks on one worker, each twice and between honest answers."""
    texts = [text for attack in ATTACKS * 2 for text in (attack, "honest")]
    task = question(None, source="x")
    with closing(make(folder, "attack", isolate=True)) as pool:
        scores = score(pool, "honest", *texts, task=task)
    after = [("nothing", scores[0]), *zip(ATTACKS * 2, scores[2::2], strict=True)]
    assert [attack for attack, one in after if one.value != 6.0] == []


@linux
def test_in_a_process_of_its_own_an_answer_ends_with_all_that_it_started(folder):
    before = family()
    with closing(make(folder, "starts", isolate=True)) as pool:
        assert [one.value for one in score(pool, "a", "b")] == [1.0, 1.0]
        assert gone(family() - before - workers_of(before))
        [lost] = score(pool, "die")
        assert (lost.fault.kind, lost.fault.message) == (FaultKind.CRASH, "its process ended with exit code 3")
        assert score(pool, "a")[0].value == 1.0
    assert family() <= before


def workers_of(before):
    """The two keepers and the worker themselves: those of the family in the first keeper's session."""
    mine = family() - before
    firsts = {pid for pid in mine if parent_of(pid) == os.getpid()}
    return {pid for pid in mine if leader_of(pid) in firsts}


@linux
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("name", ["memory", "aborts"])
def test_a_reward_that_takes_too_much_memory_is_named_so_and_costs_its_own_score_only(folder, name, isolate):
    texts = ["honest", "greedy", "honest", "greedy", "honest"]
    limit = 320 if name == "aborts" else 512
    with closing(make(folder, name, memory_mib=limit, isolate=isolate)) as pool:
        scores = score(pool, *texts)
    assert [one.value for one in scores] == [6.0, None, 6.0, None, 6.0]
    assert {one.fault.kind for one in scores[1::2]} == {FaultKind.MEMORY}
    assert "memory_mib" in scores[1].fault.message


@linux
def test_a_reward_that_is_killed_on_its_way_to_the_limit_is_named_so(folder):
    with closing(make(folder, "slowly", memory_mib=600, deadline_s=2.0)) as pool:
        scores = score(pool, "greedy", "modest", "honest")
    assert [one.fault and one.fault.kind for one in scores] == [FaultKind.MEMORY, FaultKind.TIMEOUT, None]
    taken = re.fullmatch(r"killed after 2 s, in which it had taken (\d+) MiB.*", scores[0].fault.message)
    assert taken, scores[0].fault.message
    assert 150 < int(taken[1]) < 300  # 200, less what it gave back since it was ready


@linux
def test_a_reward_sees_no_secret_but_the_ones_it_was_promised(folder, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_PROFILE", "MY_PASSWORD", "PLAIN"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("PROXY", "http://me:canary@example.org")
    names = ["HF_TOKEN", "WANDB_API_KEY", "AWS_PROFILE", "MY_PASSWORD", "PROXY", "PLAIN", "PATH"]
    with closing(make(folder, "environment")) as pool:
        assert [one.value for one in score(pool, *names)] == [0.0] * 5 + [11.0] * 2
    with closing(make(folder, "environment", secrets=["HF_TOKEN", "NOT_SET"])) as pool:
        assert [one.value for one in score(pool, *names)] == [1.0] + [0.0] * 4 + [11.0] * 2
    assert os.environ["HF_TOKEN"] == "canary"


def test_a_key_that_an_option_names_reaches_that_reward_alone(folder, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "canary")
    asks = RewardSpec(name="./rewards.py:reads", options={"key_env": "MY_JUDGE_KEY"}, deadline_s=20)
    other = RewardSpec(name="./rewards.py:environment", deadline_s=20)
    with closing(RewardPool([asks, other], workers=1, beside=folder)) as pool:
        [one] = score(pool, "MY_JUDGE_KEY")
    assert one.parts == {"reads": 1.0, "environment": 0.0}
    with closing(make(folder, "reads")) as pool:
        assert score(pool, "x")[0].value == 0.0


def test_what_a_reward_says_is_cut_and_made_printable(folder):
    with closing(make(folder, "says")) as pool:
        part, line, huge, message = score(pool, "part", "line", "huge", "message")
    assert {one.fault.kind for one in (part, line, huge)} == {FaultKind.CONTRACT}
    assert message.fault.kind is FaultKind.REFUSED
    assert message.fault.message.startswith("[31m yyyy")
    for one in (part, line, huge, message):
        assert one.fault.message.isprintable()
        assert len(one.fault.message) <= 1000


def test_a_file_that_changes_the_scoring_while_it_is_imported_is_refused(folder):
    (folder / "rewards.py").write_text(
        "import alignkit.rewards.base as base\nbase.as_score = None\ndef f(completion, task): return 1.0\n"
    )
    with pytest.raises(RewardError, match=r"changes alignkit.rewards.base.as_score, which scores other answers"):
        make(folder, "f")
