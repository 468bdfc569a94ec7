"""The arithmetic of the benchmark harness; nothing here is timed."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from alignkit.types.batch import pack
from alignkit.types.item import Item
from benchmarks import readme, results
from benchmarks.agreement import Agreement, cosine
from benchmarks.calibrate import Calibration, drift
from benchmarks.shapes import SHAPES
from benchmarks.update_profile import useful_flops

QUIET = Calibration(bfloat16_gemm=800, float32_gemm=170, model_gemm=700, read=20, copy=20)


def test_drift_is_the_largest_relative_change_of_any_figure():
    slower = dataclasses.replace(QUIET, bfloat16_gemm=640, copy=18)
    assert drift([QUIET, QUIET]) == 0
    assert drift([QUIET, slower, QUIET]) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["A1", "A2"])
def test_a_shapes_lengths_have_its_mean_and_its_maximum(name):
    shape = SHAPES[name]
    assert len(shape.lengths) == len(shape.rewards) == shape.samples
    assert sum(shape.lengths) / shape.samples == pytest.approx(shape.mean_completion, rel=0.01)
    assert max(shape.lengths) == shape.longest_completion


def test_the_cosine_is_taken_over_all_weights_together():
    ours = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    trl = {"a": torch.tensor([6.0, 0.0]), "b": torch.tensor([0.0])}
    assert cosine(ours, trl) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="different weights"):
        cosine(ours, {"a": ours["a"]})


@pytest.mark.parametrize(
    ("change", "holds"),
    [({}, True), ({"our_error": 1.3e-3}, False), ({"our_loss": -0.2003}, False), ({"trl_error": 0.0}, False)],
)
def test_sides_agree_when_losses_match_and_our_gradient_is_as_near_the_exact_one_as_trls(change, holds):
    values = {"our_loss": -0.2, "trl_loss": -0.2, "our_entropy": 1.0, "trl_entropy": 1.0, "cosine": 0.998}
    agreement = Agreement(**{**values, "our_error": 1e-3, "trl_error": 1e-3, **change})
    assert agreement.holds is holds


def test_useful_flops_count_a_shared_prompt_once():
    """3 prompt tokens and two completions of 2: 7 tokens, 4 of them trained, 6 + 2 (6 + 3) = 24 query-key pairs.

    Forward: body 2 x 10 x 7 = 140, head 2 x 30 x 4 = 240, attention 4 x 24 x 2 heads x 4 channels x 1 layer = 768.
    """
    items = [Item(prompt_ids=[1, 2, 3], completion_ids=[4, 5]) for _ in range(2)]
    weight = torch.nn.Linear(10, 1, bias=False)
    model = SimpleNamespace(
        config=SimpleNamespace(num_attention_heads=2, head_dim=4, num_hidden_layers=1),
        get_output_embeddings=lambda: torch.nn.Linear(10, 3, bias=False),
        get_decoder=lambda: SimpleNamespace(layers=torch.nn.ModuleList([weight, torch.nn.LayerNorm(10)])),
    )
    assert useful_flops(pack(items), model) == 3 * (140 + 240 + 768)


def test_the_readme_shows_every_result_and_marks_the_noisy_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(readme, "FOLDER", tmp_path)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "FRONT", tmp_path / "front.md")
    (tmp_path / "front.md").write_text(f"{readme.BEGIN}\n{readme.END}\n")
    machine = results.Machine(cpu="Test CPU", cores=2, memory_gib=24, load=0.5)
    table = results.Table(caption="Seconds", columns=["", "ours"], rows=[["step", "1.5"]])
    noisy = [QUIET, dataclasses.replace(QUIET, copy=10)]
    for order, calibrations in ((2, noisy), (1, [QUIET, QUIET])):
        results.Result(
            order=order,
            name=f"r{order}",
            title=f"Result {order}",
            machine=machine,
            tables=[table],
            notes=["Target missed."],
            calibrations=calibrations,
        ).save()
    text = readme.write().read_text()
    assert text.index("## Result 1\n") < text.index("## Result 2 **noisy**\n")
    assert text.count("| step | 1.5 |") == 2
    assert "Test CPU, 2 cores, 24 GiB, load 0.5 before it" in text
    assert json.loads((tmp_path / "r2.json").read_text())["noisy"] is True
