"""The run folder: strict JSON, kill at any byte, exact resume, and parquet that says what it does not know."""

import json
import math

import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import ContentError, DataError
from alignkit.run_folder import json_lines
from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import COLUMNS, RunFolder, comparable, step_of
from alignkit.types.files import write_atomically
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


def rollout(*texts, member=0, value=1.0, fault=None):
    task = Task(id="add-4", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}))
    turns = tuple(
        Turn(
            prompt_ids=(1, 2, 3),
            completion_ids=(7, 8),
            sampler_logprobs=(-0.5, -0.1),
            stop=StopReason.END_OF_TEXT,
            text=text,
        )
        for text in texts
    )
    score = Score(value=value, parts={"exact": value}, fault=fault)
    return Rollout(task=task, group=4, member=member, turns=turns, policy_version=2, score=score)


def folder_with(tmp_path, steps):
    folder = RunFolder(tmp_path / "run", clock=lambda: 1000.0)
    for step in range(steps):
        folder.metrics(step, {"reward/mean": step / 10, "time/step_s": 3.0})
        folder.consumed(step, [f"task-{step}"])
        folder.lights(step, [Light(name="signal", level="warn", sentence=f"seen at {step}")])
        folder.rollouts(step, [rollout("4")])
    return folder


def test_a_metric_line_holds_stage_step_metrics_and_the_clock(tmp_path):
    folder = RunFolder(tmp_path, clock=lambda: 12.3456)
    folder.metrics(0, {"reward/mean": 0.5, "policy/kl_reference": None}, stage="warmup")
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == (
        '{"stage": "warmup", "step": 0, "reward/mean": 0.5, "policy/kl_reference": null, "time/clock_s": 12.346}\n'
    )


def test_what_is_not_finite_is_strict_json_and_reads_back(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics(0, {"loss/policy": math.nan, "optim/grad_norm": math.inf, "policy/ratio_max": -math.inf})
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
    (record,) = json_lines.read(tmp_path / "metrics.jsonl")
    assert math.isnan(record["loss/policy"])
    assert (record["optim/grad_norm"], record["policy/ratio_max"]) == (math.inf, -math.inf)


def test_an_undeclared_metric_is_refused_before_it_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ContentError, match="reward/maen"):
        folder.metrics(0, {"reward/maen": 1.0})
    assert not folder.metrics_file.exists()


def test_a_step_cannot_be_written_twice_even_by_the_next_process(tmp_path):
    folder_with(tmp_path, 3)
    with pytest.raises(DataError, match=r"step 2 comes after step 2; call truncate\(2\) when resuming there"):
        RunFolder(tmp_path / "run").metrics(2, {"reward/mean": 0.0})


def test_truncate_makes_the_folder_what_it_was_before_the_step(tmp_path):
    folder = folder_with(tmp_path / "a", 5)
    folder.evaluation(3, [{"task_id": "t", "correct": True}])
    folder.evaluation(4, [{"task_id": "t", "correct": True}])
    folder.event("note", text="disk was full")
    folder.truncate(3)
    short = folder_with(tmp_path / "b", 3)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert (folder.path / name).read_bytes() == (short.path / name).read_bytes()
    assert sorted(map(step_of, (folder.path / "rollouts").iterdir())) == [0, 1, 2]
    assert sorted(map(step_of, (folder.path / "evaluations").iterdir())) == [3]
    events = json_lines.read(folder.events_file)
    assert [(event["kind"], event.get("step")) for event in events] == [
        *(("health", step) for step in range(3)),
        ("note", None),
    ]
    folder.metrics(3, {"reward/mean": 0.3})
    assert [record["step"] for record in json_lines.read(folder.metrics_file)] == [0, 1, 2, 3]


def test_two_runs_are_compared_without_their_clocks(tmp_path):
    for name, clock in (("a", 1.0), ("b", 2.0)):
        folder = RunFolder(tmp_path / name, clock=lambda clock=clock: clock)
        folder.metrics(0, {"reward/mean": 0.5, "time/step_s": clock, "memory/peak_gib": clock})
    assert (
        comparable(tmp_path / "a") == comparable(tmp_path / "b") == [{"stage": "main", "step": 0, "reward/mean": 0.5}]
    )


def test_a_kill_at_any_byte_of_the_last_line_loses_only_that_line(tmp_path):
    folder = folder_with(tmp_path, 3)
    whole = folder.metrics_file.read_bytes()
    second_end = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for length in range(second_end, len(whole)):
        folder.metrics_file.write_bytes(whole[:length])
        again = RunFolder(folder.path, clock=lambda: 1000.0)
        again.metrics(2, {"reward/mean": 0.2, "time/step_s": 3.0})
        assert folder.metrics_file.read_bytes() == whole


def test_a_torn_line_longer_than_a_block_is_removed(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n' + b"x" * 200_000)
    json_lines.append(file, {"a": 2})
    assert file.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    file.write_bytes(b"y" * 200_000)
    json_lines.append(file, {"a": 3})
    assert json_lines.read(file) == [{"a": 3}]


def test_a_damaged_line_in_the_middle_is_named_with_its_place(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n\x00\x00\n[1]\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: is not a JSON object"):
        json_lines.read(file)
    assert json_lines.read_tolerant(file) == ([{"a": 1}, {"a": 2}], 2)


@given(
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()), max_size=5)
)
def test_any_record_stays_on_one_line_of_strict_json(record):
    line = json_lines.dumps(record)
    assert "\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "recipe.json"
    write_atomically(file, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"


def test_rollouts_keep_every_sample_with_faults_and_absences(tmp_path):
    fault = Fault(kind=FaultKind.TIMEOUT, where="math_answer", message="5.0 s passed")
    path = RunFolder(tmp_path).rollouts(
        7, [rollout("4"), rollout("2+2", "4", member=1, value=None, fault=fault)], advantages=[0.5, None], stage="a/b"
    )
    first, second = parquet.read_table(path).to_pylist()
    assert path.name == "a_b-000007.parquet"
    assert list(first) == list(COLUMNS)
    assert first["prompt"] == "system: Be brief.\nuser: 2+2?"
    assert (first["completion"], first["reward"], first["fault"], first["advantage"]) == ("4", 1.0, None, 0.5)
    assert (first["prompt_tokens"], first["completion_tokens"]) == (3, 2)
    assert (first["group"], first["member"], first["policy_version"]) == (4, 0, 2)
    assert json.loads(first["parts"]) == {"exact": 1.0}
    assert (second["completion"], second["completion_tokens"]) == ("2+2\n4", 4)
    assert (second["reward"], second["advantage"]) == (None, None)
    assert second["fault"] == "timeout in math_answer: 5.0 s passed"
    assert json.loads(second["parts"]) == {"exact": None}


def test_half_a_surrogate_pair_in_a_completion_is_written_as_a_question_mark(tmp_path):
    path = RunFolder(tmp_path).rollouts(0, [rollout("x\ud83d")])
    assert parquet.read_table(path)["completion"].to_pylist() == ["x?"]


def test_as_many_advantages_as_rollouts_are_wanted(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        RunFolder(tmp_path).rollouts(0, [rollout("4")], advantages=[1.0, 2.0])


def test_an_evaluation_counts_only_what_could_be_scored(tmp_path):
    rows = [{"task_id": str(i), "correct": value, "text": "4"} for i, value in enumerate([True, False, True, None])]
    record = json.loads(RunFolder(tmp_path).evaluation(0, rows, truncated_frac=0.25).read_text())
    assert record["accuracy"] == pytest.approx(2 / 3)
    assert (record["n"], record["truncated_frac"], record["stage"], record["step"]) == (3, 0.25, "main", 0)
    assert record["results"] == rows
    nothing = json.loads(RunFolder(tmp_path).evaluation(1, rows[3:]).read_text())
    assert (nothing["accuracy"], nothing["n"]) == (None, 0)


def test_the_start_event_records_the_versions(tmp_path):
    folder = RunFolder(tmp_path, clock=lambda: 5.0)
    folder.started()
    folder.started(step=4)
    start, resume = json_lines.read(folder.events_file)
    assert (start["kind"], resume["kind"], resume["step"]) == ("start", "resume", 4)
    assert {"python", "platform", "torch", "numpy"} <= start["versions"].keys()
