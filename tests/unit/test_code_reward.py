"""The code reward: finding the program, reading the tests, the pool around it, a remote sandbox."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from reward_rollouts import question, rollouts

from alignkit.errors import SandboxError
from alignkit.processes.family import descendants
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.lift import find_reward
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.verdict import Outcome, outcome_of
from alignkit.sandbox import remote
from alignkit.sandbox.choice import LocalSandbox
from alignkit.sandbox.completion import MOST_CHARACTERS, find_program, prompt_code
from alignkit.sandbox.isolation import available
from alignkit.sandbox.limits import Limits
from alignkit.sandbox.process import Suite
from alignkit.sandbox.remote import TOKEN_VARIABLE, RemoteSandbox
from alignkit.sandbox.server import make_server
from alignkit.sandbox.suites import BadTests, Example, read_tests
from alignkit.types.score import FaultKind
from alignkit.types.task import Task

needs_walls = pytest.mark.skipif(not available().is_enough, reason=f"nothing to lock programs in with: {available()}")
PROMPT = 'from math import pi\n\ndef helper(x):\n    return x\n\ndef area(r):\n    """Area.\n    >>> area(1)\n    """\n'
TOKEN = "a token of more than 16 characters"


def scored(completion, task, **options):
    [score] = asyncio.run(find_reward("code", options).score(task, rollouts(task, completion)))
    return score


@pytest.mark.parametrize(
    ("text", "name", "program"),
    [
        ("Sure:\n```python\ndef f(): pass\n```\nDone.", None, "def f(): pass\n"),
        ("```py\ndef f(): 1\n```\nor\n```py\ndef g(): 2\n```\n```text\nthe end\n```", "f", "def f(): 1\n"),
        ("```\nx = 1\n```\nthen\n```\ny = 2\n```", None, "y = 2\n"),
        ("```python\ndef f():\n    return 1", "f", "def f():\n    return 1"),
        ("~~~python\nx = 1\n~~~", None, "x = 1\n"),
        ("import os\ndef f(): pass", "f", "import os\ndef f(): pass"),
        ("```json\n{}\n```", None, None),
        ("I do not know.", "f", None),
        ("   \n", "f", None),
        ("```\n\n```", "f", None),
        ("def f(): pass\n" + "#" * MOST_CHARACTERS, "f", None),
    ],
)
def test_the_program_is_found_in_an_answer(text, name, program):
    assert find_program(text, name, "") == program


def test_a_continuation_is_put_behind_the_prompt_and_ends_where_the_function_does():
    body = "    return pi * r * r\n"
    for text in (
        body,
        body + "\nprint(area(3))\n",
        body + "\nif __name__ == '__main__':\n    main()",
        body + "\nThat's it!",
    ):
        program = find_program(text, "area", PROMPT)
        assert program is not None
        assert program.startswith(PROMPT + body)
        assert "print" not in program
        assert "main" not in program
        assert "That" not in program
    more = body + "\n\ndef other():\n    return 1\n"
    assert find_program(more, "area", PROMPT) == PROMPT + more
    assert find_program(f"```python\n{body}```", "area", PROMPT) == PROMPT + body


def test_an_answer_with_the_whole_function_keeps_the_prompts_imports_and_helpers():
    answer = "def area(r):\n    return helper(pi) * r * r\n"
    for text in (answer, f"```python\n{answer}```"):
        program = find_program(text, "area", PROMPT)
        assert program is not None
        space = {}
        exec(program, space)  # our own text
        assert space["area"](1) == pytest.approx(3.14159, abs=1e-4)


@pytest.mark.parametrize(
    "frame", ["{}", "Complete this function.\n\n{}", "Please finish:\n```python\n{}```\nThank you."]
)
def test_the_unfinished_function_is_found_in_the_prompt(frame):
    assert prompt_code(frame.format(PROMPT), "area") == PROMPT
    assert prompt_code(frame.format(PROMPT), "other") == ""
    assert prompt_code("Write a function area(r).", "area") == ""


@pytest.mark.parametrize(
    ("columns", "reference", "expected"),
    [
        ({"test_list": ["assert f(1) == 2"]}, None, ("f",)),
        ({}, ["assert set(f(g(1))) == {2}"], ("f", "g")),
        ({}, "assert f(math.pi) == sys.maxsize", ("f",)),
        ({}, '["assert f(1)"]', ("f",)),
        ({}, ["assert sum(1, 2) == 3"], ("sum",)),
        ({}, ["assert bisect([1], 2) == 1"], ("bisect",)),
        ({"entry_point": "f", "test": "def check(c):\n    assert c(1) == 2"}, None, ("f",)),
        ({"tests": [{"input": "1\n", "output": "2\n"}]}, None, (Example(stdin="1\n", output="2\n"),)),
        ({}, {"inputs": ["1"], "outputs": ["2"]}, (Example(stdin="1", output="2"),)),
        ({}, '{"inputs": [["1", "2"]], "outputs": ["3"]}', (Example(stdin="1\n2", output="3"),)),
    ],
)
def test_tests_are_read_in_every_form(columns, reference, expected):
    tests = read_tests(columns, reference, "")
    assert (set(tests.names) == set(expected)) if isinstance(tests, Suite) else tests == expected


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "",
        [],
        {},
        3,
        "assert f(1) ==",
        ["x = 1"],
        [1],
        [{"input": "1"}],
        [{"input": 1, "output": "2"}],
        "{",
        "[",
        {"inputs": ["1"], "outputs": []},
        ["assert 1 == 1"],
        ["assert f(1)", ""],
    ],
)
def test_tests_that_test_nothing_are_the_rows_fault(reference):
    with pytest.raises(BadTests):
        read_tests({}, reference, "")
    score = scored("def f(x): return x", question(reference))
    assert score.value is None
    assert outcome_of(score) is Outcome.GOLD_ERROR


def test_helpers_that_the_tests_use_come_from_the_prompt_and_not_from_the_program():
    """HumanEval's find_zero checks an answer with `poly` from the prompt; an answer may not bring its own."""
    prompt = "def poly(x):\n    return x - 3\n\ndef find_zero():\n    '''where poly is 0'''\n"
    columns = {"entry_point": "find_zero", "test": "def check(candidate):\n    assert poly(candidate()) == 0"}
    task = Task(id="t", text=prompt, columns=columns)
    assert scored("    return 3", task).value == 1.0
    assert scored("    return 4", task).value == 0.0
    assert scored("def poly(x):\n    return 0\n\ndef find_zero():\n    return 4", task).value == 0.0


@needs_walls
@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("def f(x): return x + 1", Outcome.RIGHT),
        ("<think>def f(x): return 0</think>\n```python\ndef f(x): return x + 1\n```", Outcome.RIGHT),
        ("<think>```python\ndef f(x): return x + 1\n```", Outcome.UNPARSED),
        ("I will not.", Outcome.UNPARSED),
        ("", Outcome.UNPARSED),
        ("def f(x): return x", Outcome.WRONG),
        ("def g(x): return x + 1", Outcome.UNPARSED),
        ("def f(x): return x +", Outcome.CRASHED),
        ("import os\ndef f(x): os._exit(0)", Outcome.CRASHED),
        ("def f(x):\n    while True: pass", Outcome.TIMEOUT),
    ],
)
def test_every_outcome_is_named_and_only_right_pays(completion, outcome):
    score = scored(completion, question(["assert f(1) == 2"]), timeout_s=0.5 if outcome is Outcome.TIMEOUT else 60.0)
    assert score.value == (1.0 if outcome is Outcome.RIGHT else 0.0)
    assert outcome_of(score) in ({outcome} if "def g" not in completion else {Outcome.WRONG, Outcome.UNPARSED})


def becomes_true(condition):
    """Given a minute, on however busy a machine."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children_of(pid, name):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in found if name in command_line(child)]


@needs_walls
def test_scripts_are_compared_line_by_line_and_stop_at_the_first_wrong_output():
    task = question([{"input": "2\n3\n", "output": "5 \n\n"}, {"input": "1\n1\n", "output": "2"}])
    assert scored("print(int(input()) + int(input()))", task).value == 0.0  # no fence, no definition: no program
    assert scored("```\nprint(int(input()) + int(input()))\n```", task).value == 1.0
    assert outcome_of(scored("```\nprint(5)\n```", task)) is Outcome.WRONG
    failed = scored("```\nprint(int(input()) / 0)\n```", task)
    assert failed.fault.message == "test 1 of 2: ZeroDivisionError: division by zero"
    late = scored("```\na = input()\nif a == '1':\n    while True: pass\nprint(5)\n```", task, timeout_s=0.5)
    assert late.fault.message == "killed after 0.5 s in test 2 of 2"
    assert outcome_of(late) is Outcome.TIMEOUT


def alive():
    """The command lines of sandboxed interpreters that this process started, or that nobody has any more."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if b"alignkit.sandbox.child" in line and starter_of(process) in (1, os.getpid()):
                lines.append(line)
        except OSError:
            continue
    return lines


def starter_of(process):
    """The first process above one of alignkit's that is none of alignkit's: tests that run beside have another one."""
    while True:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        process = process.with_name(str(parent))
        if parent in (1, os.getpid()) or b"alignkit" not in (process / "cmdline").read_bytes():
            return parent


HANGS = "def f(x):\n    while True: pass"


@needs_walls
def test_a_program_that_is_slower_than_the_pools_deadline_is_wrong_and_keeps_its_score():
    """The sandbox ends it; the pool, whose deadline is shorter here, has to wait for that."""
    task = question(["assert f(1) == 2"])
    spec = RewardSpec(name="code", deadline_s=0.2, options={"timeout_s": 1.0})
    with closing(RewardPool([spec], workers=1)) as pool:
        [scores] = asyncio.run(pool.score([(task, rollouts(task, HANGS, "def f(x): return x + 1"))]))
    assert [score.value for score in scores] == [0.0, 1.0]
    assert outcome_of(scores[0]) is Outcome.TIMEOUT


@needs_walls
def test_in_the_pool_a_killed_worker_takes_its_sandboxes_with_it(tmp_path, monkeypatch):
    task = question(["assert f(1) == 2"])
    others = len(alive())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with closing(RewardPool([RewardSpec(name="code", options={"timeout_s": 60})], workers=1)) as pool:
        with ThreadPoolExecutor(1) as thread:
            scoring = thread.submit(asyncio.run, pool.score([(task, rollouts(task, HANGS))]))
            runs = b"alignkit.sandbox.child import main"  # not the probe of what this machine offers
            assert becomes_true(lambda: len([line for line in alive() if runs in line]) >= others + 2)
            starters = [pid for pid in descendants(os.getpid()) if children_of(pid, runs)]
            os.kill(max(starters, key=lambda pid: b"alignkit.processes.keeper" in command_line(pid)), signal.SIGKILL)
            [[score]] = scoring.result()
        assert score.fault.kind is FaultKind.CRASH
        assert becomes_true(lambda: len(alive()) <= others)
        [[score]] = asyncio.run(pool.score([(task, rollouts(task, "def f(x): return x + 1"))]))
        assert score.value == 1.0
    left = {path.name for path in tmp_path.iterdir()}
    assert not available().namespaces or left == {f"alignkit-empty-{os.getuid()}"}


def test_without_a_sandbox_nothing_runs_and_the_score_says_why(monkeypatch):
    monkeypatch.setattr("alignkit.sandbox.choice.available", lambda: available().__class__())
    score = scored("def f(x): return x + 1", question(["assert f(1) == 2"]))
    assert score.value is None
    assert "cannot be locked in on this machine" in score.fault.message
    score = scored("def f(x): return x + 1", question(["assert f(1) == 2"]), unsandboxed="i_accept_the_risk")
    assert score.value == 1.0


@pytest.fixture
def server():
    made = make_server(0, TOKEN, LocalSandbox(available()), workers=2)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()
    thread.join()


@needs_walls
def test_a_remote_sandbox_says_what_the_local_one_says(server, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    task = question(["assert f(1) == 2"])
    for completion, value in (("def f(x): return x + 1", 1.0), ("def f(x): return x", 0.0)):
        assert scored(completion, task, remote=server).value == value
    near, far = LocalSandbox(available()), RemoteSandbox(server, TOKEN)
    source = "import sys\nprint(input(), 'ü')\nprint('e', file=sys.stderr)\nsys.exit(4)"
    assert near.run_script(source, "x", Limits()) == far.run_script(source, "x", Limits())
    slow = Limits(wall_s=0.3)
    assert far.run_script("while True: pass", "", slow).ended == "timeout"
    assert (
        far.run_tests("def f(x): pass", Suite(tests=("assert f(lambda: 1)",), names=("f",)), slow).outcome
        == "gold_error"
    )


@needs_walls
def test_the_server_refuses_strangers_and_jobs_that_it_cannot_read(server):
    assert "401" in refusal(RemoteSandbox(server, "wrong"))
    assert "401" in refusal(RemoteSandbox(server))
    assert "400" in refusal(RemoteSandbox(server, TOKEN), Limits(wall_s=1e6))
    assert "wall_s is 1000000.0; wanted a number above 0 and at most 60" in refusal(
        RemoteSandbox(server, TOKEN), Limits(wall_s=1e6)
    )
    assert "400" in refusal(RemoteSandbox(server + "/elsewhere", TOKEN))
    assert refusal(RemoteSandbox(server, TOKEN), source="#" * (5 << 20))  # 413, or the server hangs up meanwhile


def refusal(sandbox, limits=None, source="print(1)"):
    with pytest.raises(SandboxError) as caught:
        sandbox.run_script(source, "", limits or Limits())
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Flaky(BaseHTTPRequestHandler):
    """Fails as often as the class says, then answers."""

    failures = 0
    reply = b'{"outcome": "right", "message": ""}'

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Flaky.failures -= 1
        self.send_response(503 if Flaky.failures >= 0 else 200)
        self.end_headers()
        self.wfile.write(b"busy" if Flaky.failures >= 0 else Flaky.reply)

    def log_message(self, *_):
        pass


def test_a_server_that_fails_is_asked_again_and_at_last_the_score_is_missing(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    with HTTPServer(("127.0.0.1", 0), Flaky) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{served.server_address[1]}"
        task = question(["assert f(1) == 2"])
        for failures, reply, value in (
            (2, Flaky.reply, 1.0),
            (3, Flaky.reply, None),
            (0, b"[]", None),
            (0, b"{", None),
        ):
            monkeypatch.setattr(Flaky, "failures", failures)
            monkeypatch.setattr(Flaky, "reply", reply)
            score = scored("def f(x): return 0", task, remote=url)
            assert score.value == value
            assert value is not None or score.fault.kind is FaultKind.UNREACHABLE
        served.shutdown()
    assert scored("def f(x): return 0", task, remote=url).fault.kind is FaultKind.UNREACHABLE
    assert "wanted http://HOST:PORT" in scored("def f(x): return 0", task, remote="file:///etc").fault.message
