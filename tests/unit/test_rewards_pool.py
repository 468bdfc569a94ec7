"""The pool as a fence: every way a reward can fail costs its own score, never another's and never the run."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from reward_rollouts import question, rollouts

from alignkit.errors import RewardError
from alignkit.processes.family import descendants
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.pool.supervisor import Supervisor
from alignkit.types.rollout import StopReason
from alignkit.types.score import FaultKind

REWARDS = """
import asyncio, ctypes, os, random, sys, time
from alignkit.types.score import Score

def length(completion, task):
    return len(completion)

def faulty(completion, task):
    print("garbage" * 1000); print("garbage", file=sys.stderr, flush=True)
    if completion == "raise": raise ValueError("bad \\x1b[31mthing\\nsecond line")
    if completion == "exit": sys.exit(1)
    if completion == "recurse": return faulty(completion, task)
    if completion == "hang": time.sleep(60)
    if completion == "spin": 
        while True: pass
    if completion == "hold": return 9 ** 9 ** 9
    if completion == "die": os._exit(3)
    if completion == "segv": ctypes.string_at(0)
    if completion == "stop": os.kill(os.getpid(), 19)
    if completion == "nan": return float("nan")
    if completion == "inf": return -float("inf")
    if completion == "nan score": return Score(value=float("nan"))
    if completion == "bad part": return Score(value=1.0, parts={"a": "b"})
    if completion == "none": return None
    if completion == "text": return "1.0"
    if completion == "garbage on all pipes":
        for descriptor in range(3, 30):
            try: os.write(descriptor, b"[[1.0, {}, null, null, null]]\\nnot json\\n")
            except OSError: pass
        time.sleep(60)
    if completion == "fork":
        if not os.fork(): time.sleep(60)
    return len(completion)

async def waits(completion, task):
    await asyncio.sleep(0.01)
    return 2.0

def loops(completion, task):
    return asyncio.run(waits(completion, task))

class Ranks:
    name = "ranks"
    def __init__(self, scale=1.0): self.scale = scale
    async def score(self, task, rollouts):
        if rollouts[0].text == "short": return [Score(value=1.0)]
        if rollouts[0].text == "hang": time.sleep(60)
        return [Score(value=self.scale * member) for member in range(len(rollouts))]

def hashes(completion, task):
    return hash(completion) % 1000
"""
FATE = {
    "raise": FaultKind.CRASH,
    "exit": FaultKind.CRASH,
    "recurse": FaultKind.CRASH,
    "die": FaultKind.CRASH,
    "segv": FaultKind.CRASH,
    "hang": FaultKind.TIMEOUT,
    "spin": FaultKind.TIMEOUT,
    "hold": FaultKind.TIMEOUT,
    "stop": FaultKind.TIMEOUT,
    "nan": FaultKind.NOT_A_NUMBER,
    "inf": FaultKind.NOT_A_NUMBER,
    "nan score": FaultKind.NOT_A_NUMBER,
    "bad part": FaultKind.CONTRACT,
    "text": FaultKind.CONTRACT,
    "none": FaultKind.REFUSED,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path


def make(folder, name, workers=2, deadline_s=1.0, **options):
    spec = RewardSpec(name=f"./rewards.py:{name}", deadline_s=deadline_s, options=options)
    return RewardPool([spec], workers=workers, beside=folder)


def score(pool, *groups):
    return asyncio.run(pool.score(groups))


def children(pid):
    """Ids of the living processes whose parent is `pid`."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(stat.parent.name))
    return found


def own_workers():
    """The reward workers that this process has started; other tests may have left children of other kinds."""
    found = children(os.getpid())
    return {pid for pid in found if b"alignkit.rewards.pool.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def gone(pids, within_s=60.0):
    deadline = time.monotonic() + within_s
    alive = set(pids)
    while alive and time.monotonic() < deadline:
        alive = {pid for pid in alive if Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in status(pid)}
        time.sleep(0.02)
    return not alive


def status(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("workers", [1, 2])
def test_each_failure_costs_its_own_score_and_names_its_kind(folder, workers):
    task = question()
    texts = [text for fault in FATE for text in ("honest", fault)]
    with closing(make(folder, "faulty", workers=workers, deadline_s=0.7)) as pool:
        [scores] = score(pool, (task, rollouts(task, *texts)))
    assert [s.value for s in scores[::2]] == [6.0] * len(FATE)
    assert {text: s.fault.kind for text, s in zip(texts[1::2], scores[1::2], strict=True)} == FATE
    assert all(s.value is None and s.fault.where == "faulty" for s in scores[1::2])


def test_a_fault_says_what_happened_in_one_printable_line(folder):
    task = question()
    with closing(make(folder, "faulty", deadline_s=0.5)) as pool:
        [scores] = score(pool, (task, rollouts(task, "raise", "die", "segv", "hang")))
    raised, died, crashed, hung = (s.fault.message for s in scores)
    assert raised.startswith("ValueError: bad [31mthing second line (rewards.py:")
    assert raised.isprintable()
    assert died == "the worker ended with exit code 3"
    assert crashed == "the worker was killed by SIGSEGV"
    assert hung == "killed after 0.5 s"


def test_a_reward_that_writes_into_every_pipe_loses_its_score_only(folder):
    task = question()
    with closing(make(folder, "faulty", deadline_s=1.0)) as pool:
        [scores] = score(pool, (task, rollouts(task, "honest", "garbage on all pipes", "honest", "honest")))
    assert [s.value for s in scores][::2] == [6.0, 6.0]
    assert scores[3].value == 6.0
    assert scores[1].value in (None, 1.0)  # it may forge its own score, as any reward may; it gets no other


def test_hung_rewards_end_at_the_deadline_and_the_others_score(folder):
    task = question()
    texts = ["hang" if number % 20 == 0 else "x" * (number % 7) for number in range(80)]
    with closing(make(folder, "faulty", deadline_s=0.5)) as pool:
        [scores] = score(pool, (task, rollouts(task, *texts)))
    for text, one in zip(texts, scores, strict=True):
        assert one.value == (None if text == "hang" else len(text))


def test_time_in_which_the_machine_was_busy_with_others_does_not_count(folder, monkeypatch):
    """The kernel's count of a worker's waiting is replaced: 0.15 s of each deadline of 0.2 s go to others."""
    task = question()
    clock = {"starved": 0.0}

    def starved(pid):
        clock["starved"] += 0.15
        return clock["starved"]

    monkeypatch.setattr("alignkit.processes.clock.starved_s", starved)
    with closing(make(folder, "faulty", workers=1, deadline_s=0.2)) as pool:
        start = time.monotonic()
        [scores] = score(pool, (task, rollouts(task, "hang", "honest")))
    assert scores[0].fault.kind is FaultKind.TIMEOUT
    assert scores[1].value == 6.0
    assert time.monotonic() - start > 0.2 * 10  # starved for ever, it was killed at ten times its deadline


def test_scores_do_not_depend_on_the_number_of_workers(folder):
    task = question()
    groups = [(task, rollouts(task, *("x" * ((7 * g + m) % 11) for m in range(5)))) for g in range(40)]
    results = []
    for workers in (1, 2, 3):
        with closing(make(folder, "hashes", workers=workers)) as pool:
            results.append(score(pool, *groups))
    assert results[0] == results[1] == results[2]


def test_string_hashes_are_the_same_in_every_worker_and_every_run(folder):
    task = question()
    with closing(make(folder, "hashes", workers=2)) as pool:
        [scores] = score(pool, (task, rollouts(task, *["same text"] * 64)))
    assert len({one.value for one in scores}) == 1


def test_groups_keep_their_shape_and_empty_ones_are_allowed(folder):
    task = question()
    with closing(make(folder, "length")) as pool:
        result = score(pool, (task, rollouts(task, "a", "bb")), (task, []), (task, rollouts(task, "ccc")))
        assert [[one.value for one in group] for group in result] == [[1.0, 2.0], [], [3.0]]
        assert score(pool) == []


def test_several_calls_at_once_each_get_their_own_scores(folder):
    task = question()

    async def all_at_once(pool):
        return await asyncio.gather(*(pool.score([(task, rollouts(task, "x" * n))]) for n in range(20)))

    with closing(make(folder, "length")) as pool:
        assert [result[0][0].value for result in asyncio.run(all_at_once(pool))] == [float(n) for n in range(20)]


def test_async_rewards_wait_and_plain_ones_may_start_their_own_loop(folder):
    task = question()
    for name in ("waits", "loops"):
        with closing(make(folder, name)) as pool:
            assert [s.value for s in score(pool, (task, rollouts(task, "a", "b")))[0]] == [2.0, 2.0]


def test_a_reward_that_scores_groups_shares_their_fate(folder):
    task = question()
    groups = [(task, rollouts(task, *texts)) for texts in (["a", "b", "c"], ["short", "b"], ["hang", "b"], ["a"])]
    with closing(make(folder, "Ranks", deadline_s=0.4, scale=2.0)) as pool:
        ranked, short, hung, alone = score(pool, *groups)
    assert [one.value for one in ranked] == [0.0, 2.0, 4.0]
    assert [one.fault.kind for one in short] == [FaultKind.CONTRACT] * 2
    assert [one.fault.kind for one in hung] == [FaultKind.TIMEOUT] * 2
    assert hung[0].fault.message == "killed after 0.8 s"  # deadline_s for each of its two rollouts
    assert alone[0].value == 0.0


def test_rewards_see_token_counts_and_stop_reasons(folder):
    task = question()
    specs = [
        RewardSpec(name="length_penalty", options={"max_tokens": 20, "buffer": 4}),
        RewardSpec(name="ends_with_stop", weight=2.0),
    ]
    with closing(RewardPool(specs, workers=1)) as pool:
        cut = score(pool, (task, rollouts(task, "x", tokens=18, stop=StopReason.LENGTH)))[0][0]
    assert cut.value == -0.5
    assert cut.parts == {"length_penalty": -0.5, "ends_with_stop": 0.0}


def test_the_trainer_never_unpickles_what_a_worker_wrote(folder):
    """The class may run code when unpickled; as JSON it can only be a contract fault."""
    (folder / "rewards.py").write_text(
        "from alignkit.types.score import Score\n"
        "class Evil(float):\n"
        "    def __reduce__(self): return (print, ('owned',))\n"
        "def evil(completion, task): return Score(value=Evil(0.5), parts={'evil': Evil(0.5)})\n"
    )
    task = question()
    with closing(make(folder, "evil")) as pool:
        value = score(pool, (task, rollouts(task, "x")))[0][0].value
    assert type(value) is float
    assert value == 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("final_numbr", {}, "did you mean 'final_number'"),
        ("length_penalty", {"max_token": 3, "buffer": 1}, "no option 'max_token' (did you mean 'max_tokens'?)"),
        ("length_penalty", {"max_tokens": 3}, "missing a required argument: 'buffer'"),
        ("./nowhere.py:f", {}, "there is no file"),
        ("./rewards.py:lenght", {}, "did you mean 'length'"),
        ("./broken.py:f", {}, "ZeroDivisionError"),
        ("./syntax.py:f", {}, "not valid Python"),
        ("./constant.py:f", {}, "wanted a function or a Reward"),
        ("./exits.py:f", {}, "SystemExit"),
        ("trl:acuracy_reward", {}, "did you mean 'accuracy_reward'"),
    ],
)
def test_a_reward_that_cannot_be_used_is_named_before_anything_starts(folder, name, options, message):
    (folder / "broken.py").write_text("def f(completion, task): ...\n1 / 0\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "constant.py").write_text("f = 3\n")
    (folder / "exits.py").write_text("def f(completion, task): ...\nimport sys; sys.exit()\n")
    with pytest.raises(RewardError) as caught:
        RewardPool([RewardSpec(name=name, options=options)], workers=1, beside=folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not own_workers()


def test_a_reward_that_kills_its_worker_while_it_is_imported_is_reported_and_not_retried_for_ever(folder):
    (folder / "rewards.py").write_text("import os\ndef f(completion, task): ...\nos._exit(9)\n")
    with pytest.raises(RewardError, match="end with code 9 while they load their rewards, 3 times"):
        make(folder, "f")


def test_gates_alone_cannot_make_a_reward():
    with pytest.raises(RewardError, match="at least one reward must add something"):
        RewardPool([RewardSpec(name="exact_match", gate=True)], workers=1)


def test_close_ends_every_process_even_hung_ones_and_their_children(folder):
    task = question()
    pool = make(folder, "faulty", deadline_s=60)
    score(pool, (task, rollouts(task, "fork")))
    workers = own_workers()
    families = {pid for keeper in workers for pid in descendants(keeper)}
    assert len(workers) == 2
    assert len(families) == 2 * 2 + 1  # of each worker another keeper and itself, and what the reward forked

    async def hang_then_close():
        waiting = asyncio.ensure_future(pool.score([(task, rollouts(task, "spin", "hang"))]))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pool.close)
        await waiting

    with pytest.raises(RewardError, match="closed"):
        asyncio.run(hang_then_close())
    assert gone(workers | families)
    pool.close()
    with pytest.raises(RewardError, match="closed"):
        score(pool, (task, rollouts(task, "x")))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_no_worker_outlives_a_parent_that_is_killed(folder):
    """The hung reward holds the interpreter's lock in C code, so nothing inside the worker could notice."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from reward_rollouts import question, rollouts
from alignkit.recipe.schema import RewardSpec
from alignkit.processes.family import descendants
from alignkit.rewards.pool.pool import RewardPool
pool = RewardPool([RewardSpec(name="./rewards.py:faulty", deadline_s=600)], workers=2, beside=Path({str(folder)!r}))
print("ready", flush=True)
task = question()
asyncio.run(pool.score([(task, rollouts(task, "hold", "spin"))]))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    workers = set[int]()
    for _ in range(3000):  # until both have started what they start
        workers = {*descendants(parent.pid)}
        if len(workers) == 2 * 3:
            break
        time.sleep(0.02)
    assert len(workers) == 2 * 3
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(workers)


def test_a_killed_worker_is_replaced_and_its_other_answers_are_not_lost(folder):
    task = question()
    with closing(make(folder, "faulty", workers=1, deadline_s=5)) as pool:
        for _ in range(3):
            while not (workers := own_workers()):  # one whose keeper was killed may answer once more before it goes
                time.sleep(0.02)
            [worker] = workers
            os.kill(worker, signal.SIGKILL)
            values = Counter(s.value for s in score(pool, (task, rollouts(task, *["abc"] * 50)))[0])
            assert values[3.0] >= 49  # at most the one it was told to score when it died


def test_simple_rewards_are_sent_in_large_parcels(folder, monkeypatch):
    """4,000 answers in parcels that shrink towards the end, or two processes would mostly wait for each other."""
    task = question()
    groups = [(task, rollouts(task, *["some answer"] * 8)) for _ in range(500)]
    sent = []
    send = Supervisor._send
    monkeypatch.setattr(Supervisor, "_send", lambda self, worker, message: sent.append(send(self, worker, message)))
    with closing(make(folder, "length")) as pool:
        assert {one.value for group in score(pool, *groups) for one in group} == {11.0}
    assert 2 + 4000 / 128 < len(sent) < 150
