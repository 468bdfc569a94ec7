"""Logs of inspect compared like our own results; files that are no logs are named."""

import json

import pytest

from alignkit.errors import DataError
from alignkit.evaluate.results.compare import compare_folders
from alignkit.evaluate.results.logs import read_results


def inspect_log(model, right, *, epochs=1, temperature=0.0):
    """As `inspect eval --log-format json` writes it, its fields that matter here."""
    samples = [
        {
            "id": index,
            "epoch": epoch,
            "input": f"What is {index}?",
            "target": "4",
            "output": {
                "model": model,
                "completion": "4",
                "choices": [{"stop_reason": "max_tokens" if index == 0 else "stop"}],
            },
            "scores": {"match": {"value": "C" if index < right else "I", "answer": "4"}},
        }
        for index in range(20)
        for epoch in range(1, epochs + 1)
    ]
    samples[-1]["scores"], samples[-1]["error"] = {}, {"message": "timeout"}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "task": "sums",
            "task_version": 1,
            "model": model,
            "dataset": {"name": "sums", "samples": 20},
            "config": {"epochs": epochs},
        },
        "plan": {"steps": [{"solver": "generate", "params": {}}], "config": {"temperature": temperature}},
        "samples": samples,
    }


def write_inspect(path, log, *, zipped=False):
    if not zipped:
        path.write_text(json.dumps(log))
        return path
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_inspects_logs_are_compared_like_our_own(tmp_path, zipped):
    """5 right before, 15 after; the sample that failed has no score, and its task is left out."""
    name = "log.eval" if zipped else "log.json"
    sides = []
    for side, right in (("a", 5), ("b", 15)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "other.json").write_text("[]")
        sides.append(
            read_results(write_inspect(tmp_path / side / name, inspect_log(side, right), zipped=zipped).parent)
        )
    result = sides[0].results["sums"]
    assert (result.model, result.counts["samples"], result.counts["failed"], result.counts["truncated"]) == (
        "a",
        20,
        1,
        1,
    )
    (change,) = compare_folders(*sides).changes
    assert (change.metric, change.comparison.tasks, change.comparison.p_value) == ("match", 19, 2 / 2**10)
    assert change.verdict == "better"


def test_inspect_logs_of_other_settings_are_refused(tmp_path):
    first = write_inspect(tmp_path / "a.json", inspect_log("m", 5))
    second = write_inspect(tmp_path / "b.json", inspect_log("m", 5, temperature=1.0))
    with pytest.raises(DataError, match=r"generation\.temperature is 0\.0 in A and 1\.0 in B"):
        compare_folders(read_results(first), read_results(second))


def test_epochs_are_samples_of_one_task(tmp_path):
    folder = read_results(write_inspect(tmp_path / "a.json", inspect_log("m", 10, epochs=3)))
    result = folder.results["sums"]
    assert (result.counts["tasks"], result.counts["samples"]) == (20, 60)
    assert result.metrics["match"].n == 59


def test_answers_are_found_in_older_logs_and_in_messages_of_several_parts(tmp_path):
    log = inspect_log("m", 10)
    for content, sample in zip(
        ("four", [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]), log["samples"], strict=False
    ):
        del sample["output"]["completion"]
        sample["output"]["choices"][0]["message"] = {"role": "assistant", "content": content}
    result = read_results(write_inspect(tmp_path / "a.json", log)).results["sums"]
    assert [sample.completion for sample in result.samples[:3]] == ["four", "four", "4"]


def test_only_questions_of_the_same_content_are_paired(tmp_path):
    """B has 10 of the 20 questions, and one of them asks for something else."""
    log = inspect_log("m", 20)
    log["samples"] = log["samples"][:10]
    log["samples"][3]["target"] = "5"
    first = read_results(write_inspect(tmp_path / "a.json", inspect_log("m", 5)))
    (change,) = compare_folders(first, read_results(write_inspect(tmp_path / "b.json", log))).changes
    assert (change.comparison.tasks, change.left_out) == (9, 11)


def test_a_log_of_another_shape_is_one_line(tmp_path):
    log = inspect_log("m", 5)
    del log["samples"][3]["id"]
    with pytest.raises(DataError, match="not as lm-eval or inspect writes them: KeyError"):
        read_results(write_inspect(tmp_path / "a.json", log))


def test_files_that_are_no_logs_are_one_line(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="no lm-eval samples"):
        read_results(tmp_path)
    (tmp_path / "y.eval").write_bytes(b"no zip")
    with pytest.raises(DataError, match="inspect log convert"):
        read_results(tmp_path)
    bad = tmp_path / "samples_sums_2026-01-01T00-00-00.000000.jsonl"
    bad.write_text('{"doc_id": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"jsonl:2: is no lm-eval sample"):
        read_results(bad)
