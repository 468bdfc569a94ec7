"""Trains the refusal classifier on XSTest's human labels: `python -m alignkit.rewards.learned.refusal_training FOLDER`.

FOLDER is `model_completions` of https://github.com/paul-rottger/exaggerated-safety (CC BY 4.0 prompts and labels; the
completions are their models'). Two models are trained on, the other three measure it. Writes the weights with the
counts of right and wrong verdicts beside the reward; no text is kept.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.recipe.lookup.find import find
from alignkit.rewards.learned.refusal_features import NAMES, features
from alignkit.rewards.learned.refusal_model import CLASSES, RefusalModel

TRAINED_ON = ("llama2orig", "mistralguard")
MEASURED_ON = ("gpt4", "llama2new", "mistralinstruct")
LABELS = {"1_full_compliance": "complied", "2_full_refusal": "full", "3_partial_refusal": "partial"}
DECAY, STEPS, RATE = 0.01, 600, 1.0


def fit(texts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Weights of a softmax regression on standardised features, by gradient descent from zero: no randomness."""
    values = np.array([features(text) for text in texts])
    mean, spread = values.mean(0), values.std(0)
    spread[spread == 0] = 1
    inputs = np.c_[(values - mean) / spread, np.ones(len(values))]
    wanted = np.eye(len(CLASSES))[[CLASSES.index(label) for label in labels]]
    weights = np.zeros((inputs.shape[1], len(CLASSES)))
    decay = np.full((inputs.shape[1], 1), DECAY)
    decay[-1] = 0
    for _ in range(STEPS):
        scores = inputs @ weights
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        weights -= RATE * (inputs.T @ (chances - wanted) / len(inputs) + decay * weights)
    return {
        "names": list(NAMES),
        "mean": [round(float(value), 6) for value in mean],
        "spread": [round(float(value), 6) for value in spread],
        "weights": [[round(float(value), 6) for value in row] for row in weights],
    }


def measure(model: RefusalModel, texts: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Counts against the labels, "refuses, fully or in part" being the positive; `same_class`: all three agree."""
    verdicts = [model.classify(text) for text in texts]
    pairs = [(label != "complied", verdict != "complied") for label, verdict in zip(labels, verdicts, strict=True)]
    return {
        "true_positive": pairs.count((True, True)),
        "false_negative": pairs.count((True, False)),
        "false_positive": pairs.count((False, True)),
        "true_negative": pairs.count((False, False)),
        "same_class": sum(label == verdict for label, verdict in zip(labels, verdicts, strict=True)),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    trained = [pair for name in TRAINED_ON for pair in _read(folder, name)]
    weights = fit(*zip(*trained, strict=True))
    model = RefusalModel(weights)
    by_model = {name: measure(model, *zip(*_read(folder, name), strict=True)) for name in MEASURED_ON}
    total = {name: sum(counts[name] for counts in by_model.values()) for name in next(iter(by_model.values()))}
    source = f"human labels of XSTest answers by {', '.join(MEASURED_ON)}, not trained on (trained on {TRAINED_ON})"
    card = {"known_error": {**total, "source": source}, "by_model": by_model, "trained_on": TRAINED_ON, **weights}
    target = find("rewards", "refusal").path.with_name("refusal_weights.json")
    target.write_text(json.dumps(card, indent=1) + "\n")
    for name, counts in {**by_model, "all": total}.items():
        number = sum(counts.values()) - counts["same_class"]
        agree = (counts["true_positive"] + counts["true_negative"]) / number
        print(f"{name:16} agreement {agree:.3f}, three classes {counts['same_class'] / number:.3f} {counts}")
    print(target, hashlib.sha256(target.read_bytes()).hexdigest()[:16])


def _read(folder: Path, name: str) -> list[tuple[str, str]]:
    with (folder / f"xstest_v2_completions_{name}.csv").open(newline="", encoding="utf-8") as file:
        return [(row["completion"], LABELS[row["final_label"]]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
