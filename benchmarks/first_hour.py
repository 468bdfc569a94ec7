"""The first hour: from an empty folder with only the wheel to three trained models, as GGUF and talked to.

python -m benchmarks.first_hour [--folder runs/first-hour]    (make first-hour; ALIGNKIT_DATA; 10 min of two idle cores)

Rows are the shortest of public ones (pairs of LLaMA-Factory's demo, training questions of GSM8K). A job whose numbers
are there already is not run again. Writes the table of docs/first-hour.md.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.algorithms import put
from benchmarks.results import this_machine
from benchmarks.wheel import ROOT, Installed, build, install

PAGE = ROOT / "docs" / "first-hour.md"
BEGIN, END = "<!-- table of make first-hour -->", "<!-- end of the table -->"
REWARD = '''\
from alignkit.rewards.base import reward


@reward
def brief(completion, task):
    """1 up to ten words, less for each word more."""
    return min(1.0, 10 / max(len(completion.split()), 1))
'''
QUESTION = "What is the capital of France?\n"
MODEL = "model.path=smollm2-135m-instruct"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One method from one command. metric: what of metrics.jsonl is shown, of the first and of the last step."""

    name: str
    command: str
    metric: str


JOBS = (
    Job(
        name="SFT with LoRA on conversations",
        command=f"train sft {MODEL} data.source=chats.jsonl model.lora.rank=16 optimizer.lr=1e-4 train.batch=4",
        metric="loss/policy",
    ),
    Job(
        name="DPO on pairs",
        command=f"train dpo {MODEL} data.source=pairs.jsonl model.lora.rank=16 optimizer.lr=5e-6 train.batch=4",
        metric="pairs/margin",
    ),
    Job(
        name="GRPO with a reward of one's own",
        command=f"train grpo {MODEL} data.source=questions.jsonl rewards.0.name=./mine.py:brief model.lora.rank=16 "
        "optimizer.lr=1e-4 rollouts.prompts=2 rollouts.max_new_tokens=32 optimizer.warmup_steps=0 train.steps=3",
        metric="reward/mean",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "first-hour")
    folder = parser.parse_args().folder.resolve()
    work = folder / "empty"
    work.mkdir(parents=True, exist_ok=True)
    if not (folder / "installed").is_dir():
        install(build(ROOT, folder / "wheel"), folder / "installed")
        write_rows(work, Path(os.environ.get("ALIGNKIT_DATA", ROOT.parent / "shared" / "data")))
    rows = [measured(job, Installed(folder / "installed"), work) for job in JOBS]
    put(PAGE, BEGIN, END, table(rows))


def write_rows(work: Path, data: Path) -> None:
    """chats.jsonl, pairs.jsonl, questions.jsonl and mine.py, as a user would have them."""
    pairs = [row for row in read(data / "pref_demo" / "dpo_en_demo.jsonl.gz") if len(row["conversations"]) == 1]
    pairs.sort(key=lambda row: len(json.dumps(row)))
    triples = [[row["conversations"][0]["value"], row["chosen"]["value"], row["rejected"]["value"]] for row in pairs]
    chats = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b, _ in triples]
    write(work / "chats.jsonl", chats[:16])
    write(work / "pairs.jsonl", [{"prompt": a, "chosen": b, "rejected": c} for a, b, c in triples[:8]])
    questions = sorted(read(data / "gsm8k" / "train.jsonl.gz"), key=lambda row: len(row["question"]))
    write(work / "questions.jsonl", [{"prompt": row["question"]} for row in questions[:64]])
    (work / "mine.py").write_text(REWARD)


def read(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measured(job: Job, installed: Installed, work: Path) -> dict[str, Any]:
    """What the three commands of a job took, read from the folder where they were run before."""
    words = shlex.split(job.command)
    run = f"runs/{words[1]}"
    told = work / f"{words[1]}.json"
    if not told.exists():
        parts = {}
        for name, arguments in (
            ("train", words),
            ("export", ["export", run, "--to", "gguf", "--type", "q8_0", "--json"]),
            ("chat", ["chat", run, "--max-tokens", "16"]),
        ):
            done = installed.run(arguments, at=work, said=QUESTION if name == "chat" else "")
            if done.code:
                raise SystemExit(f"{job.name}, {name}: {done.code}\n{done.out}\n{done.err}")
            parts[name] = asdict(done)
        machine = this_machine()
        told.write_text(json.dumps({"date": datetime.date.today().isoformat(), "machine": str(machine), **parts}))
    result = json.loads(told.read_text())
    lines = [json.loads(line) for line in (work / run / "metrics.jsonl").read_text().splitlines()]
    values = [line[job.metric] for line in lines if line.get(job.metric) is not None]
    return {**result, "job": job, "steps": len(lines), "values": values}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    cells, notes = [], []
    for row in rows:
        job, proof = row["job"], json.loads(row["export"]["out"])
        values = f"{row['values'][0]:.3f} -> {row['values'][-1]:.3f}"
        cells.append(
            f"| {job.name} | {' | '.join(taken(row[part]) for part in ('train', 'export', 'chat'))} | {row['steps']} "
            f"| `{job.metric}` {values} | {proof['gaps']['gap']:.3f} |"
        )
        notes.append(f"{row['date']}, {row['machine']}")
    head = (
        "| job | train | export, proven | chat | steps | first and last step | gap of Q8_0, nats |\n" + "|---" * 7 + "|"
    )
    made = "\n".join(dict.fromkeys(notes))
    commands = "\n".join(f"alignkit {row['job'].command}" for row in rows)
    return f"{head}\n" + "\n".join(cells) + f"\n\n{made}. The commands:\n\n```bash\n{commands}\n```"


def taken(part: Mapping[str, Any]) -> str:
    return f"{clock(part['wall_s'])} ({clock(part['cpu_s'])})"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    main()
