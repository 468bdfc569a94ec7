"""What every algorithm on the shelf makes of the batches computed by hand beside it, which are found by themselves.

Batch and outputs are the real ones, the numbers go through `estimate` and `train/step.py`, in float64. In front of each
completion lies a token that the policy did not choose, and there as everywhere outside the mask every column says
nonsense. Turning a sign, dropping the mask or reading one token beside the right one must each miss the number, which
is how we know that these tests can fail.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.algorithms import base
from alignkit.algorithms.base import Algorithm
from alignkit.parallel.group import Group
from alignkit.recipe.lookup.find import Found, list_content, load
from alignkit.train.step import Step
from alignkit.types.batch import FLOAT_COLUMNS, STATE_COLUMNS, Batch, pack
from alignkit.types.example import WorkedExample
from alignkit.types.item import Item
from alignkit.types.metric import Metric
from alignkit.types.outputs import Loss, Outputs
from tests.tiny import Recorder

PROMPT, OTHERS, CHOSEN = (5, 9), 3, 7  # tokens: of the prompt, of an environment, of the policy
TOLERANCE, NOTICED, STEP = 1e-6, 1e-3, 1e-7
SAID = ("logprobs", "entropy", "normaliser", "ref_kl")
FOUND = list_content("algorithms")


@dataclass(frozen=True)
class Worked:
    """One example of one algorithm, with its settings."""

    algorithm: Algorithm
    config: Any
    example: WorkedExample


def examples_of(found: Found) -> tuple[WorkedExample, ...]:
    """EXAMPLES of examples/<name>.py beside the algorithm's file; none where there is no such file."""
    room = str(found.module).rpartition(".")[0]
    name = f"{room}.examples.{found.name}"
    return importlib.import_module(name).EXAMPLES if importlib.util.find_spec(name) else ()


def worked() -> Iterator[Any]:
    for found in FOUND:
        algorithm = load(found)
        assert isinstance(algorithm, Algorithm)
        for number, example in enumerate(examples_of(found), 1):
            config = algorithm.config(type=found.name, **example.settings)
            yield pytest.param(Worked(algorithm, config, example), id=f"{found.name}-{number}")


every_example = pytest.mark.parametrize("case", list(worked()))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Said(nn.Module):
    """Stands for a model and its forward pass: says the example's numbers of whatever part of the batch it is shown."""

    device = torch.device("cpu")

    def __init__(self, whole: Batch, columns: Mapping[str, Tensor]):
        super().__init__()
        self.whole, self.columns = whole, {name: nn.Parameter(column) for name, column in columns.items()}
        self.parts = nn.ParameterList(self.columns.values())

    def forward(self, batch: Batch, *, temperature: float) -> Outputs:
        numbers = {key: number for number, key in enumerate(keys(self.whole))}
        index = self.whole.token_index([numbers[key] for key in keys(batch)])
        return Outputs(**{name: column[index] for name, column in self.columns.items()})


def keys(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.group.tolist(), batch.member.tolist(), strict=True))


def lengths(example: WorkedExample) -> list[int]:
    """Of each completion, in tokens."""
    if "logprobs" in example.outputs:
        return [len(said) for said in example.outputs["logprobs"]]
    return [len(said) - 1 for said in example.outputs["values"]]


def blank(example: WorkedExample) -> Batch:
    """The example's sequences, each after a token of its own that the policy did not choose, without any column."""
    size = lengths(example)
    groups = list(example.batch.get("group", [0] * len(size)))
    chosen = example.batch.get("action_mask", [[True] * n for n in size])
    tokens = example.batch.get("tokens", [[CHOSEN] * n for n in size])
    return pack(
        [
            Item(
                prompt_ids=PROMPT,
                completion_ids=(OTHERS, *tokens[number]),
                action=(False, *chosen[number]),
                group=group,
                member=groups[:number].count(group),
            )
            for number, group in enumerate(groups)
        ]
    )


def token_column(batch: Batch, name: str, numbers: Sequence[Sequence[float]]) -> Tensor:
    """The numbers on the token axis, and nonsense outside the mask."""
    result = nonsense(batch, name)
    for sequence, said in enumerate(numbers):
        result[batch.segment == sequence] = torch.tensor([0.0, *said])
    return result.where(batch.action_mask, nonsense(batch, name))


def state_column(batch: Batch, name: str, numbers: Sequence[Sequence[Any]]) -> Tensor:
    """The numbers of states, the first after the prompt and again after the token that follows it."""
    states = [torch.tensor(said, dtype=torch.float64).reshape(len(said), -1) for said in numbers]
    result = nonsense(batch, name)[:, None].repeat(1, states[0].shape[1])
    for sequence, state in enumerate(states):
        result[batch.segment == sequence] = state
        result[batch.last_prompt_token()[sequence]] = state[0]
    return result


def nonsense(batch: Batch, name: str) -> Tensor:
    """Another number for each column and token, as are the differences of columns."""
    number = (*FLOAT_COLUMNS, *STATE_COLUMNS, *SAID).index(name)
    return -1 - (number + 1) * (torch.arange(batch.num_tokens) + 8) / 32


def column(batch: Batch, name: str, numbers: Any) -> Any:
    if name in STATE_COLUMNS:
        return state_column(batch, name, numbers)
    if name in (*FLOAT_COLUMNS, *SAID):
        return token_column(batch, name, numbers)
    if name == "channels":
        return {channel: torch.tensor(values) for channel, values in numbers.items()}
    return torch.tensor(numbers)


def built(case: Worked) -> Batch:
    """The batch as the loop hands it over to `estimate`."""
    example, batch = case.example, blank(case.example)
    old = example.batch.get("old_logprobs", example.outputs.get("logprobs"))
    usual = {"sampler_logprobs": old, "old_logprobs": old, "values": example.outputs.get("values")}
    needed = {name: usual[name] for name in case.algorithm.needs(case.config).columns if name in usual}
    given = {name: numbers for name, numbers in example.batch.items() if name not in ("action_mask", "tokens")}
    columns = {name: column(batch, name, numbers) for name, numbers in (needed | given).items()}
    return batch.replace(controls=case.algorithm.controls(case.config), **columns)


def model(case: Worked) -> Said:
    batch = blank(case.example)
    said = {name: nonsense(batch, name) for name in SAID}
    said |= {name: column(batch, name, numbers) for name, numbers in case.example.outputs.items()}
    return Said(batch, said)


def minimised(case: Worked, role: str, batch: Batch, said: Said) -> float:
    """What a step minimises on a batch that has been estimated."""
    return stepped(case, role, batch, said)[0].loss


def stepped(case: Worked, role: str, batch: Batch, said: Said) -> tuple[Recorder, Mapping[str, Metric]]:
    """A step of one role: loss and gradient, and what it reports."""
    recorder = Recorder(said)
    step = Step(
        algorithm=case.algorithm,
        config=case.config,
        trainer=recorder,
        forward=said,
        group=Group(),
        temperature=1.0,
        max_tokens=10_000,
        roles=(role,),
    )
    metrics, _ = step.update(batch, range(batch.num_sequences), lr=1.0)
    return recorder, metrics


def estimated(case: Worked, batch: Batch) -> Batch:
    return case.algorithm.estimate(case.config, batch)


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_an_algorithm_has_examples_of_all_that_it_trains(found: Found):
    examples = examples_of(found)
    assert examples, f"{found.path}: no examples/{found.name}.py beside it: compute a batch by hand and add EXAMPLES"
    for example in examples:
        assert example.loss.keys() == load(found).losses.keys()
        if said := example.outputs.get("values"):
            heads = load(found).heads(load(found).config(type=found.name, **example.settings))
            assert len(heads) == torch.tensor(said[0][0]).numel()
    assert load(found).judge is None or any(example.judged for example in examples), f"{found.name}: no `judged`"


def test_no_examples_are_left_of_an_algorithm_that_is_gone():
    beside = {found.path.parent / "examples" / found.path.name for found in FOUND}
    assert set(Path(base.__file__).parent.rglob("examples/[!_]*.py")) == beside


@every_example
def test_an_algorithm_makes_of_its_examples_what_was_computed_by_hand(case: Worked):
    batch = estimated(case, built(case))
    got = {role: minimised(case, role, batch, model(case)) for role in case.algorithm.losses}
    assert got == pytest.approx(case.example.loss, abs=TOLERANCE)
    if case.example.advantages is not None:
        said = [batch.require("advantages")[batch.action_mask & (batch.segment == i)] for i in range(len(batch.group))]
        for mine, wanted in zip(said, case.example.advantages, strict=True):
            wanted = wanted if isinstance(wanted, tuple) else (wanted,) * len(mine)
            assert mine.tolist() == pytest.approx(wanted, abs=TOLERANCE)


@every_example
def test_an_algorithm_reports_of_its_examples_what_was_computed_by_hand(case: Worked):
    """And it reads nothing outside the mask to do so."""
    batch, said, reported = estimated(case, built(case)), model(case), {}
    for name in SAID:
        said.columns[name].data[~blank(case.example).action_mask] = torch.nan
    for role, wanted in case.example.loss.items():
        _, metrics = stepped(case, role, batch, said)
        assert metrics[f"loss/{role}"].value == pytest.approx(wanted, abs=TOLERANCE)
        reported |= metrics
    assert [name for name, metric in reported.items() if not math.isfinite(metric.value or 0.0)] == []
    got = {name: reported[name].value for name in case.example.metrics}
    assert got == pytest.approx(case.example.metrics, abs=TOLERANCE)


@every_example
def test_an_example_gives_a_reference_where_the_algorithm_says_that_it_needs_one(case: Worked):
    needs_one = "ref_logprobs" in case.algorithm.needs(case.config).columns
    assert needs_one == ("ref_logprobs" in case.example.batch)


JUDGED = [param for param in worked() if param.values[0].example.judged]


@pytest.mark.parametrize("case", JUDGED)
def test_a_reward_model_says_of_its_examples_what_was_computed_by_hand(case: Worked):
    batch, said = built(case), model(case)
    judgement = case.algorithm.judge(case.config, said(blank(case.example), temperature=1.0), batch)
    for name, wanted in case.example.judged.items():
        got = getattr(judgement, name)
        if name == "parts":
            wanted, got = list(wanted.items()), list(got.items())
            assert [part for part, _ in got] == [part for part, _ in wanted]
            wanted, got = [numbers for _, numbers in wanted], torch.stack([numbers for _, numbers in got])
        if wanted is None:
            assert got is None
        else:
            wanted = by_hand(batch, name, wanted) if name == "steps" else torch.tensor(wanted)
            assert_same(got.detach(), wanted, name)


@every_example
def test_the_gradient_of_an_example_is_what_was_computed_by_hand_or_else_the_slope_of_its_loss(case: Worked):
    batch, given = estimated(case, built(case)), case.example
    for name, got in gradients(case, batch, model(case)).items():
        if name in given.gradient:
            wanted = by_hand(blank(given), name, given.gradient[name])
            assert_same(folded(blank(given), got), wanted, name)
        elif name in given.outputs:
            for seed in range(3):  # as many directions as leave nothing to chance
                way = torch.randn(got.shape, generator=torch.Generator().manual_seed(seed))
                assert_same((got * way).sum(), slope(case, batch, name, way), name)
        else:
            assert_same(got, torch.zeros_like(got), name)


def assert_same(got: Tensor, wanted: Tensor, name: str) -> None:
    torch.testing.assert_close(got, wanted, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda said: f"{name}: {said}")


def gradients(case: Worked, batch: Batch, said: Said) -> dict[str, Tensor]:
    """Of the sum of all roles' losses, by the name of the output."""
    each = [stepped(case, role, batch, said)[0].gradient for role in case.algorithm.losses]
    parts = torch.stack(each).sum(0).split([column.numel() for column in said.columns.values()])
    return {name: part.view_as(column) for (name, column), part in zip(said.columns.items(), parts, strict=True)}


def slope(case: Worked, batch: Batch, name: str, way: Tensor) -> Tensor:
    """Of the same sum in a direction of one output, by central differences."""
    ends = []
    for step in (STEP, -STEP):
        said = model(case)
        said.columns[name].data += step * way
        ends.append(sum(minimised(case, role, batch, said) for role in case.algorithm.losses))
    return torch.tensor((ends[0] - ends[1]) / (2 * STEP))


def by_hand(batch: Batch, name: str, numbers: Sequence[Sequence[Any]]) -> Tensor:
    """A gradient on the token axis: of states as they stand, else of a number for each token of a completion."""
    rows = [torch.tensor(said, dtype=torch.float64) for said in numbers]
    result = rows[0].new_zeros(batch.num_tokens, *rows[0].shape[1:])
    for sequence, said in enumerate(rows):
        result[batch.segment == sequence] = said if name == "values" else torch.cat([said.new_zeros(1), said])
    return result.reshape(batch.num_tokens, -1) if name == "values" else result


def folded(batch: Batch, gradient: Tensor) -> Tensor:
    """The gradient with that of the state after a prompt where examples have it, on the token that follows."""
    result = gradient.clone()
    for block in batch.blocks:
        first = block.start + block.prompt
        result[first] += result[first - 1]
        result[first - 1] = 0
    return result


@every_example
def test_an_example_misses_its_number_when_a_sign_is_turned_or_another_token_is_read(case: Worked):
    for role in case.example.loss:
        missed = {way: distance(case, role, spoilt) for way, spoilt in ways(case, role).items()}
        assert {way: by for way, by in missed.items() if by < NOTICED} == {}


def distance(case: Worked, role: str, spoilt: tuple[Worked, Batch, Said]) -> float:
    """By how much a role's loss misses its number, or a gradient what was computed by hand: the larger."""
    turned, batch, said = spoilt
    off = [abs(minimised(turned, role, batch, said) - case.example.loss[role])]
    got = gradients(turned, batch, said) if case.example.gradient else {}
    for name, numbers in case.example.gradient.items():
        off.append(float((folded(batch, got[name]) - by_hand(batch, name, numbers)).abs().max()))
    return max(off)


def ways(case: Worked, role: str) -> dict[str, tuple[Worked, Batch, Said]]:
    """What can be done to the step of a role so that its example must miss."""
    said, batch = model(case), estimated(case, built(case))
    found = {"the sign of the loss": (with_the_loss_turned(case, role), batch, said)}
    if role == "policy" and batch.advantages is not None:
        found["the sign of the advantages"] = (case, batch.replace(advantages=-batch.advantages), said)
    if role == "reward" and case.algorithm.heads(case.config) and case.algorithm.source != "stepwise_supervision":
        late = {**said.columns, "values": said.columns["values"].detach().roll(1, 0)}
        return found | {"the token that is read": (case, batch, Said(said.whole, late))}  # the last one, mask or not
    everything = built(case)
    everything = everything.replace(action_mask=everything.segment >= 0)
    return found | {"the mask": (case, estimated(case, everything), said)}


def with_the_loss_turned(case: Worked, role: str) -> Worked:
    def turned(config: Any, outputs: Outputs, batch: Batch) -> Loss:
        own = case.algorithm.losses[role](config, outputs, batch)
        return replace(own, total=-own.total)

    return replace(case, algorithm=replace(case.algorithm, losses={**case.algorithm.losses, role: turned}))
