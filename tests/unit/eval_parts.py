"""A protocol, its data and a scripted engine for the tests of evaluation. Texts are their own characters' codes."""

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from alignkit.errors import EngineError
from alignkit.evaluate.benchmark.answers import Model
from alignkit.evaluate.benchmark.protocol import Named, Protocol
from alignkit.types.rollout import Completion, StopReason

END = 0


def ids(text):
    return tuple(map(ord, text))


@dataclass
class ScriptedEngine:
    """Answers prompts by a function from prompt text and seed to text; counts what it was asked; dies on demand."""

    answer: object
    dies_after: int | None = None
    asked: list = field(default_factory=list)

    async def generate(self, requests):
        if self.dies_after is not None and len(self.asked) + len(requests) > self.dies_after:
            raise EngineError("scripted engine: it died")
        self.asked += [("".join(map(chr, request.prompt_ids)), request.seed) for request in requests]
        return [self._complete(request) for request in requests]

    async def score(self, sequences):
        self.asked += [("".join(map(chr, sequence)), None) for sequence in sequences]
        return [[-float(token % 7) for token in sequence[1:]] for sequence in sequences]

    def _complete(self, request):
        text = self.answer("".join(map(chr, request.prompt_ids)), request.seed)
        tokens = (*ids(text), END)[: request.max_new_tokens]
        stop = StopReason.END_OF_TEXT if tokens[-1] == END else StopReason.LENGTH
        return Completion(token_ids=tokens, logprobs=(0.0,) * len(tokens), stop=stop, versions=((0, 0),))


def scripted_model(engine, *, context=10_000, hash="model"):
    def decode(tokens):
        return "".join(chr(token) for token in tokens if token != END)

    def encode(task):
        return ids(task.text if task.text is not None else task.messages[-1]["content"])

    return Model(
        name="scripted", hash=hash, engine=engine, kind="scripted", context=context, stop_token_ids=(END,),
        encode=encode, decode=decode,
    )  # fmt: skip


def write_rows(folder: Path, name: str, rows) -> str:
    """Writes a .jsonl.gz file of rows; its sha256, uncompressed."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text))
    return hashlib.sha256(text).hexdigest()


def sums(folder: Path, count: int = 20, **changes) -> Named:
    """A protocol of `count` sums with its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"q": f"{n}+{n}=", "a": str(2 * n), "kind": "even" if n % 2 == 0 else "odd"} for n in range(count)]
    sha256 = write_rows(folder, "sums.jsonl.gz", rows)
    fields = {
        "version": 1,
        "about": "sums",
        "category": "math",
        "licence": "none",
        "source": {"file": "sums.jsonl.gz", "sha256": sha256},
        "prompt": {"chat": False, "template": "{{q}}"},
        "gold": "a",
        "group": "kind",
        "sampling": {"max_new_tokens": 30, "stop": ["\n"]},
        "metrics": {"accuracy": {"reward": "final_number"}},
        **changes,
    }
    file = folder / "sums.yaml"
    file.write_text(yaml.safe_dump(fields))
    return Named("sums", Protocol.model_validate(fields), file)
