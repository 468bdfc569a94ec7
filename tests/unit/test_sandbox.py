"""What foreign programs may do and what they may not, behind each set of walls that this machine has."""

import ast
import itertools
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sandbox_attacks import FILES, FORGED, GREEDY, KERNEL_CALLS, LIBC, NETWORK, PROCESSES

from alignkit.errors import SandboxError
from alignkit.processes.clock import Clock
from alignkit.sandbox import choice, isolation
from alignkit.sandbox.bubblewrap import wrap
from alignkit.sandbox.isolation import NONE, Isolation, available, readable_paths
from alignkit.sandbox.limits import MIB, Limits
from alignkit.sandbox.process import Suite, run_script, run_tests
from alignkit.sandbox.seccomp import program

HERE = available()
WALLS = {
    "all that is here": HERE,
    "namespaces alone": Isolation(namespaces=HERE.namespaces),
    "Landlock and seccomp": Isolation(landlock=HERE.landlock, seccomp=HERE.seccomp),
    "bubblewrap and seccomp": Isolation(bubblewrap=HERE.bubblewrap, seccomp=HERE.bubblewrap is not None),
}
FAST = ("all that is here",)
SHORT = Limits(wall_s=1.0)
BRIEF = Limits(wall_s=0.3)
SQUARES = Suite(tests=("assert f(2) == 4", "assert f(3) == 9", "assert abs(f(5) - 25) < 1e-6"), names=("f",))


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in WALLS])
def walls(request):
    if not WALLS[request.param].is_enough:
        pytest.skip(f"this machine does not offer {request.param} (it has {HERE})")
    return WALLS[request.param]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Things that no program may reach: a secret in a file, in memory and in the environment, sockets, a process."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    monkeypatch.setenv("ALIGNKIT_CANARY", "canary")
    abstract = f"\0alignkit-{os.getpid()}"
    names = {"secret": str(secret), "folder": str(tmp_path), "parent": os.getpid(), "group": os.getpgid(0)}
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX) as hidden:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "socket"))
        hidden.bind(abstract)
        for listener in (tcp, unix, hidden):
            listener.listen()
        yield names | {"socket": str(tmp_path / "socket"), "abstract": abstract, "port": tcp.getsockname()[1]}
    assert secret.read_text() == "canary"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "socket"]


def run(source, walls, *, limits=SHORT, stdin=""):
    return run_script(source, stdin=stdin, limits=limits, isolation=walls)


@pytest.mark.parametrize("name", [*FILES, *NETWORK, *PROCESSES])
def test_no_program_gets_out(name, walls, outside):
    attack = (FILES | NETWORK | PROCESSES)[name]
    source = attack.format(**outside) if "{" in attack else attack
    descriptor = os.open(outside["secret"], os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    before = (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0))
    try:
        ran = run(source, walls, limits=Limits(wall_s=4.0))
    finally:
        os.close(descriptor)
    assert b"ESCAPED" not in ran.output, ran
    assert b"canary" not in ran.output + ran.errors
    assert before == (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0))


def test_the_attacks_succeed_where_nothing_is_in_their_way(outside):
    """Otherwise the test above would pass for programs that are merely broken."""
    for name in ("read a file outside", "connect by TCP", "connect to an abstract socket", "signal the parent"):
        source = (FILES | NETWORK | PROCESSES)[name].format(**outside)
        assert b"ESCAPED" in run(source, NONE).output, name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.skipif(not HERE.seccomp, reason="this kernel filters no system calls")
def test_kernel_calls_that_no_program_needs_are_refused():
    source = LIBC + f"for name, n in {KERNEL_CALLS!r}.items():\n    ctypes.set_errno(0)\n"
    source += "    result = libc.syscall(n, 0, 0, 0, 0, 0)\n    print(name, result, ctypes.get_errno())\n"
    refused = dict(line.split(maxsplit=1) for line in run(source, HERE).output.decode().splitlines())
    assert refused == dict.fromkeys(KERNEL_CALLS, "-1 1")


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_programs_are_stopped_and_leave_nothing_behind(name, walls):
    source, ended = GREEDY[name]
    marker = f"# {time.time_ns()}\n"
    ends_by_itself = ended in ("exit", "output")
    ran = run(marker + source, walls, limits=Limits(wall_s=60.0) if ends_by_itself else BRIEF)
    assert ended is None or ran.ended == ended, ran
    assert len(ran.output) < 6 * MIB
    assert len(ran.errors) < MIB
    deadline = time.monotonic() + 60.0
    while sandboxed_processes() and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel takes a moment to bury a whole namespace
    assert sandboxed_processes() == []


def sandboxed_processes():
    """Command lines of this checkout's sandboxed interpreters that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        own = b"alignkit.sandbox.child" in line and isolation.PACKAGE_ROOT.encode() in line
        if own and parent in (1, os.getpid()):
            found.append(line)
    return found


def test_a_script_sees_its_input_and_its_exit_code_is_told(walls):
    ran = run("import sys\nprint(input()[::-1], sys.stdin.read())\nsys.exit(3)", walls, stdin="abc\nüß\n")
    assert (ran.ended, ran.exit_code, ran.output.decode()) == ("exit", 3, "cba üß\n\n")
    ran = run("1 / 0", walls)
    assert ran.exit_code == 1
    assert ran.errors.strip().endswith(b"ZeroDivisionError: division by zero")


def test_ordinary_programs_work(walls):
    source = """
import bisect, cmath, collections, copy, ctypes, dataclasses, datetime, decimal, enum, fractions, functools, hashlib
import heapq, io, itertools, json, logging, math, operator, os, random, re, sqlite3, statistics, string, sys, tempfile
import threading, time, typing, unicodedata, uuid, zlib, zoneinfo
@dataclasses.dataclass
class Point:
    x: int
with open("notes", "w") as file:
    file.write("hello")
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print(open("notes").read(), Point(3), __name__, zoneinfo.ZoneInfo("Europe/Rome"), len(os.urandom(4)), sys.argv[0])
"""
    ran = run(source, walls)
    assert ran.output == b"hello Point(x=3) __main__ Europe/Rome 4 -c\n", ran
    threads = "import threading\nx = []\nt = [threading.Thread(target=x.append, args=(i,)) for i in range(16)]\n"
    threads += "[one.start() for one in t]; [one.join() for one in t]; print(sorted(x) == list(range(16)))"
    if walls.namespaces or walls.bubblewrap:
        assert run(threads, walls).output == b"True\n"


@pytest.mark.parametrize("name", FORGED)
def test_no_program_forges_a_pass(name, walls):
    verdict = run_tests(FORGED[name], SQUARES, limits=SHORT, isolation=walls)
    assert verdict.outcome in ("wrong", "crashed", "timeout"), verdict
    assert verdict.message
    assert "\n" not in verdict.message


def judged(source, *tests, **suite):
    names = suite.pop("names", ("f",))
    return run_tests(source, Suite(tests=tests, names=names, **suite), limits=SHORT, isolation=HERE)


needs_walls = pytest.mark.skipif(not HERE.is_enough, reason=f"nothing to lock programs in with: {HERE}")

PLAIN = [
    "None", "True", "3", "-(2 ** 200)", "1.5", "float('inf')", "2 - 3j", "'ünï\\ud800'", "b'\\x00'", "bytearray(b'a')",
    "[1, [2, (3, {4})]]", "(1,)", "{1, 2}", "frozenset({1})", "{'a': [1], (1, 2): None, 3: {}}", "range(2, 9, 3)",
    "__import__('collections').Counter('aab')", "__import__('collections').OrderedDict(b=1, a=2)",
    "__import__('collections').deque([1, 2])", "__import__('fractions').Fraction(1, 3)",
    "__import__('decimal').Decimal('1.10')",
]  # fmt: skip


@needs_walls
@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_arrive_there_and_back_as_they_were(value):
    test = f"v = {value}\nw = f(v)\nassert w == v and type(w) is type(v) and f(f) is f and repr(w) == repr(v)"
    if "'a': [1]" not in value and "{" in value:
        test = f"v = {value}\nassert f(v) == v and type(f(v)) is type(v)"
    assert judged("def f(x): return x", test).outcome == "right", judged("def f(x): return x", test)


@needs_walls
def test_subclasses_are_worth_what_they_inherit():
    source = "import collections\nP = collections.namedtuple('P', 'x y')\nclass S(str): pass\nclass I(int): pass\n"
    source += "def f(x): return [P(1, 2), S('a'), I(7), True, collections.defaultdict(list, a=[1])]"
    assert judged(source, "assert f(0) == [(1, 2), 'a', 7, True, {'a': [1]}]").outcome == "right"


@needs_walls
def test_classes_of_the_program_are_used_from_outside():
    source = "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
    source += "    def total(self): return self.a + self.b\n"
    source += "def f(pairs): return max(p.total() for p in pairs)\ndef g(n): return (i * i for i in range(n))"
    tests = ("assert f([Pair(5, 24), Pair(b=15, a=25)]) == 40", "p = Pair(1, 2)\nassert p.a == 1 and p.total() == 3")
    assert judged(source, *tests, "assert list(g(4)) == [0, 1, 4, 9]", names=("f", "g", "Pair")).outcome == "right"


@needs_walls
def test_errors_of_the_program_are_errors_for_the_tests():
    source = "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x"
    test = "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'negative'"
    assert judged(source, test).outcome == "right"
    assert judged("def f(x): return x", test).outcome == "wrong"
    assert judged("import os\ndef f(x): os._exit(0)", "try: f(1)\nexcept BaseException: pass").outcome != "wrong"


@needs_walls
def test_tests_that_do_not_load_are_the_rows_fault():
    assert judged("def f(x): return x", "assert f(1) ==").outcome == "gold_error"
    assert judged("def f(x): return x", "assert f(1)", setup="import nowhere").outcome == "gold_error"
    assert judged("def f(x): return x", "assert f(lambda: 3)").outcome == "gold_error"


@needs_walls
def test_arguments_are_copies_so_a_program_cannot_spoil_what_it_is_compared_with():
    source = "def f(x):\n    x.clear()\n    return []"
    assert judged(source, "v = [3, 1]\nassert f(v) == sorted(v)").outcome == "wrong"


def test_without_walls_it_refuses_unless_told_in_as_many_words(monkeypatch):
    monkeypatch.setattr(choice, "available", lambda: NONE)
    with pytest.raises(SandboxError, match=r"cannot be locked in on this machine .* `unsandboxed: i_accept_the_risk`"):
        choice.choose_sandbox()
    with pytest.raises(SandboxError, match="unsandboxed is 'yes'"):
        choice.choose_sandbox(unsandboxed="yes")
    sandbox = choice.choose_sandbox(unsandboxed="i_accept_the_risk")
    assert sandbox.run_tests("def f(x): return x * x", SQUARES, SHORT).outcome == "right"
    assert sandbox.run_script("print(input())", "hi", SHORT).output == b"hi\n"


@pytest.mark.parametrize(
    ("walls", "enough", "text"),
    [
        (NONE, False, "rlimits"),
        (Isolation(landlock=7), False, "Landlock 7, rlimits"),
        (Isolation(seccomp=True), False, "seccomp, rlimits"),
        (Isolation(landlock=1, seccomp=True), True, "Landlock 1, seccomp, rlimits"),
        (Isolation(namespaces=True), True, "namespaces, rlimits"),
        (Isolation(bubblewrap="/usr/bin/bwrap", seccomp=True), True, "bubblewrap, seccomp, rlimits"),
        (Isolation(bubblewrap="/usr/bin/bwrap", namespaces=True), False, "bubblewrap, rlimits"),
    ],
)
def test_what_counts_as_locked_in(walls, enough, text):
    assert walls.is_enough is enough
    assert str(walls) == text


def test_a_sandbox_that_cannot_be_set_up_says_nothing_about_the_program(monkeypatch):
    monkeypatch.setattr("alignkit.sandbox.process.readable_paths", lambda: ["/dev/null"])
    broken = Isolation(bubblewrap="/nowhere/bwrap")
    with pytest.raises(SandboxError, match="could not be started"):
        run("print(1)", broken)


def test_bubblewraps_command_line_shows_python_and_nothing_of_the_user(tmp_path):
    line = wrap("/usr/bin/bwrap", ["/usr/bin/python3", "-I", "-c", "pass"], readable_paths())
    options = line[1 : line.index("--")]
    assert line[line.index("--") + 1 :] == ["/usr/bin/python3", "-I", "-c", "pass"]
    assert {"--unshare-all", "--die-with-parent", "--new-session"} <= set(options)
    assert options[options.index("--cap-drop") + 1] == "ALL"
    assert "--bind" not in options
    assert "--share-net" not in options
    shown = [options[place + 2] for place, option in enumerate(options) if option in ("--ro-bind", "--dev-bind")]
    assert "/usr/lib" in shown
    assert not {"/", "/etc", "/home", "/root", "/tmp", "/proc", str(Path.home())} & set(shown)
    writable = [options[place + 1] for place, option in enumerate(options) if option == "--tmpfs"]
    assert writable == ["/tmp"]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_takes_the_command_line():
    line = wrap(str(shutil.which("bwrap")), ["/usr/bin/true"], [*readable_paths(), "/usr/bin"])
    assert subprocess.run(line, capture_output=True, env={}, check=False).returncode == 0


def test_only_time_in_which_the_machine_let_the_program_run_counts(monkeypatch):
    now, waited = [100.0], [10.0]
    monkeypatch.setattr("alignkit.processes.clock.starved_s", lambda processes: waited[0])
    monkeypatch.setattr("alignkit.processes.clock.time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = Clock([1], 2.0, most_grace=24)
    assert (clock.left_s(), clock.used_s()) == (2.0, 0.0)
    now[0] = 102.5  # half a second late, of which it waited for a whole one
    assert clock.left_s() == -0.5
    waited[0] = 11.0
    assert (clock.left_s(), clock.used_s()) == (0.5, 1.5)
    now[0], waited[0] = 200.0, 109.5  # starved of nearly everything, but not for ever
    assert clock.left_s() == 2.0 - 100.0 + 24 * 2.0


@needs_walls
@pytest.mark.slow
def test_a_programs_threads_do_not_stretch_its_time_beyond_the_kernels_limit(monkeypatch):
    """Threads that starve one another look like a busy machine; the limit on processor time ends them."""
    starved = itertools.count(0, 1000)
    monkeypatch.setattr("alignkit.processes.clock.starved_s", lambda processes: next(starved))
    ran = run("while True: pass", HERE, limits=Limits(wall_s=1.0))
    assert (ran.ended, ran.exit_code) == ("exit", 128 + signal.SIGKILL)


@needs_walls
@pytest.mark.slow
def test_a_right_program_on_a_crowded_machine_is_right():
    """Twelve busy neighbours on these cores leave it a small part of its time."""
    burn = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(burn, start_new_session=True) for _ in range(6 * len(os.sched_getaffinity(0)))]
    try:
        source = "def f(x):\n    n = 0\n    for i in range(4_000_000): n += i % 7\n    return x * x"
        suite = Suite(tests=("assert f(2) == 4",), names=("f",))
        verdict = run_tests(source, suite, limits=Limits(wall_s=0.8), isolation=HERE)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert verdict.outcome == "right"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_the_kernel_takes(machine):
    """Every jump lands inside, every path ends in a verdict, the last of which allows."""
    code = program(machine, process=1, threads=True)
    assert len(code) < 4096
    for place, (operation, if_true, if_false, _) in enumerate(code):
        if operation & 0x07 == 0x05:
            assert place + 1 + max(if_true, if_false) < len(code)
    assert code[-1] == (0x06, 0, 0, 0x7FFF0000)


def test_the_child_needs_the_standard_library_only():
    for name in ("child", "conversation", "values", "not_a_number", "landlock", "seccomp", "namespaces"):
        tree = ast.parse((Path(isolation.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for module in filter(None, modules):
                assert module.startswith("alignkit.sandbox") or module.split(".")[0] in sys.stdlib_module_names


def test_the_doctor_says_what_locks_programs_in(monkeypatch):
    from alignkit.run.check.diagnosis import findings
    from alignkit.run.check.machine import this_machine

    [finding] = [finding for finding in findings(this_machine()) if finding.name == "code sandbox"]
    assert finding.found == str(HERE)
    monkeypatch.setattr(isolation, "available", lambda: NONE)
    [finding] = [finding for finding in findings(this_machine()) if finding.name == "code sandbox"]
    assert (finding.found, finding.level) == ("rlimits", "note")
    assert "install bubblewrap" in finding.cure
