"""1 when the program in the completion passes the row's tests, else 0. Runs it in a sandbox (docs/sandbox.md).

The program is the last fenced block (the one that defines `entry_point`, if the row names it), a whole file, or the
continuation of the prompt's function. Tests: HumanEval's `test` and `entry_point`, MBPP's `test_list`, or `tests` / the
reference as assert statements or as inputs with outputs. `timeout_s` is for all tests of a row together. Too slow,
crashed and failed are worth 0; so is a completion without a program. Without a sandbox it refuses to run; `remote` is
the URL of one on another machine.
"""

from alignkit.errors import SandboxError
from alignkit.rewards.base import reward, unscorable
from alignkit.rewards.verdict import Case, Outcome, bad_gold, judged
from alignkit.rewards.verify.thoughts import spoken
from alignkit.sandbox.choice import Sandbox, choose_sandbox
from alignkit.sandbox.completion import find_program, prompt_code
from alignkit.sandbox.conversation import line_of
from alignkit.sandbox.limits import MIB, Limits
from alignkit.sandbox.process import MOST_GRACE, START_DEADLINE_S, Suite
from alignkit.sandbox.suites import BadTests, Example, read_tests
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

SECRETS = ("ALIGNKIT_SANDBOX_TOKEN",)


@reward
def code(
    completion: str,
    task: Task,
    *,
    timeout_s: float = 4.0,
    memory_mib: int = 512,
    remote: str | None = None,
    unsandboxed: str | None = None,
) -> Score:
    name = task.columns.get("entry_point")
    started = prompt_code(asked(task), name)
    try:
        tests = read_tests(task.columns, task.reference, started)
    except BadTests as error:
        return bad_gold(task, "code", f"tests: {error}")
    program = find_program(spoken(completion), name, started)
    if program is None:
        return judged(Outcome.UNPARSED, "code", "no program in the completion")
    limits = Limits(wall_s=timeout_s, memory_bytes=memory_mib * MIB)
    try:
        sandbox = choose_sandbox(remote=remote, unsandboxed=unsandboxed)
        outcome, message = run(sandbox, program, tests, limits)
    except SandboxError as error:
        return unscorable(FaultKind.UNREACHABLE if remote else FaultKind.CRASH, "code", str(error))
    if outcome is Outcome.GOLD_ERROR:
        return bad_gold(task, "code", f"tests: {message}")
    return judged(outcome, "code", message)


def longest_s(*, timeout_s: float = 4.0, **_: object) -> float:
    """Seconds in which the sandbox has ended any program, also on a machine that is busy with others."""
    return (1 + MOST_GRACE) * (timeout_s + START_DEADLINE_S)


def asked(task: Task) -> str:
    """The text of the prompt, of a chat its last user message."""
    if task.text is not None:
        return task.text
    said = [message["content"] for message in task.messages or () if message["role"] == "user"]
    return said[-1] if said and isinstance(said[-1], str) else ""


def run(sandbox: Sandbox, program: str, tests: Suite | tuple[Example, ...], limits: Limits) -> tuple[Outcome, str]:
    if isinstance(tests, Suite):
        verdict = sandbox.run_tests(program, tests, limits)
        return Outcome(verdict.outcome), verdict.message
    left_s = limits.wall_s
    for number, example in enumerate(tests, start=1):
        left = Limits(wall_s=max(0.1, left_s), memory_bytes=limits.memory_bytes)
        ran = sandbox.run_script(program, example.stdin, left)
        left_s -= ran.used_s
        if ran.ended == "timeout":
            return Outcome.TIMEOUT, f"killed after {limits.wall_s:g} s in test {number} of {len(tests)}"
        if ran.ended == "output" or ran.exit_code != 0:
            return Outcome.CRASHED, f"test {number} of {len(tests)}: {last_line(ran.errors) or 'no end of output'}"
        if not same_output(ran.output.decode(errors="replace"), example.output):
            return Outcome.WRONG, ""
    return Outcome.RIGHT, ""


def last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return line_of(lines[-1]) if lines else ""


def same_output(output: str, wanted: str) -> bool:
    """Equal line by line; white space at the ends of lines and empty lines at the end do not count."""
    return [line.rstrip() for line in output.rstrip().split("\n")] == [
        line.rstrip() for line in wanted.rstrip().split("\n")
    ]


ADD = ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]
DOUBLE = [{"input": "4\n", "output": "8\n"}, {"input": "-1\n", "output": "-2"}]

SELF_TEST = (
    Case(completion="```python\ndef add(a, b):\n    return a + b\n```", reference=ADD, expected=1),
    Case(completion="def add(a, b): return a - b", reference=ADD, expected=0),
    Case(completion="def add(a, b): return a +", reference=ADD, expected=0),
    Case(completion="import os\ndef add(a, b): os._exit(0)", reference=ADD, expected=0),
    Case(completion="I would add them.", reference=ADD, expected=0),
    Case(completion="```\nprint(2 * int(input()))\n```", reference=DOUBLE, expected=1),
    Case(completion="```\nprint(8)\n```", reference=DOUBLE, expected=0),
    Case(completion="def add(a, b): return a + b", reference=["assert add(2, 3) =="], expected=FaultKind.GOLD),
    Case(completion="def add(a, b): return a + b", reference=None, expected=FaultKind.GOLD),
)
