"""The packed batch. This file is the glossary of batch columns: a column exists only if it is documented here.

Layout. The batch is a run of blocks; a block is one prompt, stored once, followed by the own tokens of every sequence
that continues it (a GRPO group, the two sides of a pair, or a single SFT example):

    | prompt of block 0 | sequence 0 | sequence 1 | ... | prompt of block 1 | sequence k | ...

Everything is indexed by the *predicted* token: `logprobs[t]` is the log-prob of `tokens[t]` given its ancestors, which
are reached through `parent`. Token ids come from the sampler and are never re-tokenised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignkit.errors import BatchError
from alignkit.types.item import Item, members


@dataclass(frozen=True, slots=True)
class Block:
    """One shared prompt and its continuations. Lengths in tokens; `start` is the block's first packed index.

    forks: after how many tokens of the first continuation each one leaves it, in order; (): all go on from the prompt.
    """

    start: int
    prompt: int
    lengths: tuple[int, ...]
    forks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.forks and (list(self.forks) != sorted(self.forks) or self.forks[0] or self.forks[-1] > self.lengths[0]):
            raise BatchError(f"forks at {self.forks} of {self.lengths[0]} tokens: groups stay whole and in order")

    @property
    def end(self) -> int:
        return self.start + self.prompt + sum(self.lengths)

    @property
    def ahead(self) -> tuple[int, ...]:
        """Of each continuation the tokens before it, which begin at `start`."""
        return tuple(self.prompt + fork for fork in self.forks or [0] * len(self.lengths))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Columns over one token axis and one sequence axis. Optional columns are None until something fills them."""

    blocks: tuple[Block, ...]

    # token axis, always present
    tokens: Int[Tensor, " token"]
    """Token ids."""
    position: Int[Tensor, " token"]
    """Position in the sequence (prompt first), for rotary embeddings."""
    parent: Int[Tensor, " token"]
    """Packed index of the token before this one in its sequence; -1 for the first token of a prompt."""
    segment: Int[Tensor, " token"]
    """Index of the sequence the token belongs to; -1 for prompt tokens, which belong to all sequences of the block."""
    action_mask: Bool[Tensor, " token"]
    """True only where the trained policy chose the token; its stop token included."""
    turn: Int[Tensor, " token"]
    """Number of the turn in which the policy chose the token, from 0 in each sequence; -1 elsewhere."""

    # token axis, filled when an algorithm needs them; 0 outside action_mask
    sampler_logprobs: Float[Tensor, " token"] | None = None
    """Log-probs that the rollout engine reported for the tokens it drew, at its temperature."""
    old_logprobs: Float[Tensor, " token"] | None = None
    """The trainer's log-probs when the update phase began. None when each batch gets one single update: then they
    are the detached log-probs of that update's own forward."""
    ref_logprobs: Float[Tensor, " token"] | None = None
    """Log-probs of the frozen reference model."""
    advantages: Float[Tensor, " token"] | None = None
    """How much better than the baseline the choice of this token was."""
    rewards: Float[Tensor, " token"] | None = None
    """Reward paid after the token; over a sequence they sum to its `reward`. None: all of it after the last action."""
    returns: Float[Tensor, " token"] | Float[Tensor, "token critic"] | None = None
    """What the value before this token should have been: the critic's target, one for each of several heads."""

    # token axis, of every token, prompts included
    values: Float[Tensor, "token head"] | None = None
    """The critic's numbers for the state that ends with this token, as they were when the update phase began."""
    target_values: Float[Tensor, "token head"] | None = None
    """The same of the critic's slowly following copy."""
    value_targets: Float[Tensor, "token aim"] | None = None
    """What each critic should have said, on the last token of an utterance: of one that was played, or before it."""

    # sequence axis
    group: Int[Tensor, " sequence"]
    """Same prompt of the same step, same number; unique over the global batch."""
    member: Int[Tensor, " sequence"]
    """Number within the group."""
    reward: Float[Tensor, " sequence"]
    """Blended reward. Always finite: rollouts that could not be scored do not enter a batch."""
    truncated: Bool[Tensor, " sequence"]
    """The completion was cut at a length limit, so it has no stop token."""
    policy_version: Int[Tensor, " sequence"]
    """Updates behind the weights that sampled it; -1 for data that was not sampled."""
    side: Int[Tensor, " sequence"]
    """+1 preferred or good, -1 the opposite, 0 neither."""
    targets: Float[Tensor, "sequence target"] | None = None
    """What a regression on whole sequences aims at; the algorithm that writes them says what they are."""
    channels: dict[str, Float[Tensor, " sequence"]] = field(default_factory=dict)
    """Unweighted parts of the reward by name; NaN where a part has no value. `direction/<part>`: how much of that part
    the task asks for. `cost/<name>`, `multiplier/<name>`: of a constraint, for algorithms that weigh costs themselves.
    `turns`: of an episode that was gone back into, how many turns it had; `age`: draws since a past one was played."""

    # token axis, by name
    turn_channels: dict[str, Float[Tensor, " token"]] = field(default_factory=dict)
    """What an environment said of a turn (`Observation.info`), on each token that was chosen in it; 0 elsewhere, NaN
    where it said nothing. `before/<name>`: of the observation that the turn answers. Words count as they come.
    `critic_q`, `critic_v`: what critics of utterances said of the turn and of the state before it."""

    # of the whole batch
    controls: Mapping[str, float] = field(default_factory=dict)
    """Coefficients that the algorithm adapts from step to step, by name."""

    @property
    def num_tokens(self) -> int:
        return self.tokens.numel()

    @property
    def num_sequences(self) -> int:
        return self.group.numel()

    @property
    def num_actions(self) -> int:
        return int(self.action_mask.sum())

    def replace(self, **columns: Any) -> Batch:
        return replace(self, **columns)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        named = ("channels", "turn_channels")
        there = replace(self, **moved, **{n: {k: v.to(device) for k, v in getattr(self, n).items()} for n in named})
        there.__dict__["actions"] = self.actions.to(device)  # counted here: there the host would have to wait for it
        return there

    @cached_property
    def actions(self) -> Int[Tensor, " action"]:
        """Packed indices of the action tokens."""
        return self.action_mask.nonzero().squeeze(-1)

    def require(self, name: str) -> Tensor:
        """The optional column `name`; raises BatchError when nothing filled it."""
        column = getattr(self, name)
        if column is None:
            raise BatchError(f"the batch has no {name}: list it in the algorithm's `needs` so that the loop fills it")
        return column

    def actions_per_sequence(self) -> Int[Tensor, " sequence"]:
        """Number of action tokens of each sequence."""
        return torch.bincount(self.segment[self.action_mask], minlength=self.num_sequences)

    def sum_per_sequence(self, values: Float[Tensor, " token"]) -> Float[Tensor, " sequence"]:
        """Sum over the action tokens of each sequence."""
        mask = self.action_mask
        return values.new_zeros(self.num_sequences).index_add(0, self.segment[mask], values[mask])

    def last_action(self) -> Int[Tensor, " sequence"]:
        """Packed index of each sequence's last action token; -1 for a sequence without any."""
        index = self.actions
        blank = torch.full((self.num_sequences,), -1, device=index.device)
        return blank.scatter_reduce(0, self.segment[index], index, "amax")

    def first_action(self) -> Int[Tensor, " sequence"]:
        """Packed index of each sequence's first action token; the number of tokens for a sequence without any."""
        index = self.actions
        blank = torch.full((self.num_sequences,), self.num_tokens, device=index.device)
        return blank.scatter_reduce(0, self.segment[index], index, "amin")

    def last_token(self) -> Int[Tensor, " sequence"]:
        """Packed index of each sequence's last token, whoever wrote it."""
        own = (self.segment >= 0).nonzero().squeeze(-1)
        return torch.zeros_like(self.group).scatter_reduce(0, self.segment[own], own, "amax")

    def last_prompt_token(self) -> Int[Tensor, " sequence"]:
        """Packed index of the token ahead of each sequence's own."""
        begins = (self.segment >= 0) & (self.segment[self.parent.clamp(min=0)] != self.segment)
        return torch.zeros_like(self.group).index_put((self.segment[begins],), self.parent[begins])

    def placed_rewards(self) -> Float[Tensor, " token"]:
        """`rewards`, or `reward` placed after the last action token."""
        if self.rewards is not None:
            return self.rewards
        last = self.last_action()
        blank = self.reward.new_zeros(self.num_tokens)
        return blank.index_put((last[last >= 0],), self.reward[last >= 0])

    def scatter(self, values: Tensor) -> Float[Tensor, " token"]:
        """One value per action token, in packed order, written on the token axis; 0 elsewhere."""
        return values.new_zeros(self.num_tokens).masked_scatter(self.action_mask, values)

    def spread(self, values: Tensor) -> Float[Tensor, " token"]:
        """A per-sequence value written on each of its action tokens, 0 elsewhere."""
        return torch.where(self.action_mask, values[self.segment.clamp(min=0)], values.new_zeros(()))

    def select(self, sequences: Sequence[int]) -> Batch:
        """The batch of some sequences (or none), in this batch's order, each with its prompt and the same values."""
        wanted, blocks, start, first = set(sequences), [], 0, 0
        for block in self.blocks:
            if members := [m for m in range(len(block.lengths)) if first + m in wanted]:
                lengths, forks = (tuple(each[m] for m in members if each) for each in (block.lengths, block.forks))
                blocks.append(Block(start, block.prompt, lengths, forks * any(forks)))
                start = blocks[-1].end
            first += len(block.lengths)
        return self._rows(tuple(blocks), self.token_index(sequences), torch.tensor(sorted(wanted), dtype=torch.long))

    def token_index(self, sequences: Sequence[int]) -> Int[Tensor, " selected"]:
        """Packed indices of the tokens that `select(sequences)` holds, in its order."""
        wanted, pieces, first = set(sequences), [torch.zeros(0, dtype=torch.long)], 0
        for block in self.blocks:
            if members := [m for m in range(len(block.lengths)) if first + m in wanted]:
                begins = _begins(block)
                pieces.append(torch.arange(block.start, block.start + block.prompt))
                pieces += [torch.arange(begins[m], begins[m] + block.lengths[m]) for m in members]
            first += len(block.lengths)
        return torch.cat(pieces)

    def _rows(self, blocks: tuple[Block, ...], tokens: Tensor, sequences: Tensor) -> Batch:
        columns: dict[str, Any] = {"blocks": blocks, **structure(blocks)}
        for name in (column.name for column in fields(self)):
            value = getattr(self, name)
            if name in ("channels", "turn_channels"):
                rows = sequences if name == "channels" else tokens
                columns[name] = {channel: values[rows] for channel, values in value.items()}
            elif name == "controls":
                columns[name] = value
            elif name not in columns and value is not None:
                columns[name] = value[tokens if name in TOKEN_COLUMNS else sequences]
        return Batch(**columns)

    def validate(self) -> Batch:
        """Returns itself; raises BatchError naming the first broken rule of this file."""
        if any(block.prompt < 1 or min(block.lengths, default=0) < 1 for block in self.blocks):
            raise BatchError("every block needs a prompt of at least 1 token and sequences of at least 1 token")
        if bool((self.action_mask & (self.segment < 0)).any()):
            raise BatchError("action_mask is set on a prompt token; only tokens the policy chose may be trained on")
        if not bool(torch.isfinite(self.reward).all()):
            raise BatchError("reward holds NaN or inf; unscorable rollouts must leave before packing")
        for name in FLOAT_COLUMNS:
            column = getattr(self, name)
            if column is None:
                continue
            if not bool(torch.isfinite(column).all()):
                raise BatchError(f"{name} holds NaN or inf")
            if bool((column[~self.action_mask] != 0).any()):
                raise BatchError(f"{name} is not 0 outside action_mask")
        return self


COST, MULTIPLIER = "cost/", "multiplier/"  # and a constraint's name: channels of what it limits and how it weighs
FLOAT_COLUMNS = ("sampler_logprobs", "old_logprobs", "ref_logprobs", "advantages", "rewards", "returns")
STATE_COLUMNS = ("values", "target_values", "value_targets")
TOKEN_COLUMNS = ("tokens", "position", "parent", "segment", "action_mask", "turn", *FLOAT_COLUMNS, *STATE_COLUMNS)


def _begins(block: Block) -> list[int]:
    """First packed index of each sequence of the block."""
    return list(accumulate(block.lengths, initial=block.start + block.prompt))[:-1]


def structure(blocks: Sequence[Block]) -> dict[str, Tensor]:
    """The columns position, parent and segment, which follow from the blocks alone."""
    none = torch.zeros(0, dtype=torch.long)
    position, parent, segment, sequence = [none], [none], [none], 0
    for block in blocks:
        prompt = torch.arange(block.prompt)
        position.append(prompt)
        parent.append(torch.where(prompt == 0, -1, block.start + prompt - 1))
        segment.append(torch.full((block.prompt,), -1))
        for begin, length, ahead in zip(_begins(block), block.lengths, block.ahead, strict=True):
            offset = torch.arange(length)
            position.append(ahead + offset)
            parent.append(torch.where(offset == 0, block.start + ahead - 1, begin + offset - 1))
            segment.append(torch.full((length,), sequence))
            sequence += 1
    return {"position": torch.cat(position), "parent": torch.cat(parent), "segment": torch.cat(segment)}


def pack(items: Sequence[Item], *, share_prefix: bool = True) -> Batch:
    """A Batch of `items`, in order; with `share_prefix` a group's prompt is stored once.

    Raises BatchError when there is nothing to pack or an item's columns disagree in length.
    """
    if not items:
        raise BatchError("nothing to pack: every rollout of this step was dropped")
    blocks: list[Block] = []
    columns: dict[str, list] = {"tokens": [], "action": [], "sampler_logprobs": [], "rewards": [], "turn": []}
    previous: Item | None = None
    for item in items:
        _check_item(item)
        shares = share_prefix and previous is not None and item.group == previous.group
        shares = shares and tuple(item.prompt_ids) == tuple(previous.prompt_ids)  # type: ignore[union-attr]
        length = len(item.completion_ids)
        if shares:
            forks = (*(blocks[-1].forks or [0] * len(blocks[-1].lengths)), item.fork)
            blocks[-1] = replace(blocks[-1], lengths=(*blocks[-1].lengths, length), forks=forks * any(forks))
        else:
            nowhere = (item.fork,) * bool(item.fork)  # which no block allows
            blocks.append(Block(len(columns["tokens"]), len(item.prompt_ids), (length,), nowhere))
            columns["tokens"] += item.prompt_ids
            for name in ("action", "sampler_logprobs", "rewards"):
                columns[name] += [0] * len(item.prompt_ids)
            columns["turn"] += [-1] * len(item.prompt_ids)
        chosen = item.action if item.action is not None else [True] * length
        columns["tokens"] += item.completion_ids
        columns["action"] += chosen
        columns["turn"] += _turns(item, chosen)
        for name in ("sampler_logprobs", "rewards"):
            values = getattr(item, name) or [0.0] * length
            columns[name] += [value if on else 0.0 for value, on in zip(values, chosen, strict=True)]
        previous = item
    names = sorted({name for item in items for name in item.channels})

    def given(name: str) -> Tensor | None:
        complete = all(getattr(item, name) is not None for item in items)
        return torch.tensor(columns[name], dtype=torch.float32) if complete else None

    return Batch(
        blocks=tuple(blocks),
        tokens=torch.tensor(columns["tokens"]),
        action_mask=torch.tensor(columns["action"], dtype=torch.bool),
        turn=torch.tensor(columns["turn"]),
        group=torch.tensor([item.group for item in items]),
        member=torch.tensor(members(items)),
        reward=torch.tensor([item.reward for item in items], dtype=torch.float32),
        truncated=torch.tensor([item.truncated for item in items]),
        policy_version=torch.tensor([item.policy_version for item in items]),
        side=torch.tensor([item.side for item in items]),
        channels={n: torch.tensor([float(item.channels.get(n, float("nan"))) for item in items]) for n in names},
        turn_channels=_turn_channels(items, blocks, torch.tensor(columns["turn"])),
        sampler_logprobs=given("sampler_logprobs"),
        rewards=given("rewards"),
        **structure(blocks),  # ty: ignore[invalid-argument-type]  it cannot tell which names these are
    )


def _turns(item: Item, chosen: Sequence[bool]) -> list[int]:
    """Per completion token, the number of its turn; -1 for what was not chosen."""
    if item.turn is not None:
        return [number if on else -1 for number, on in zip(item.turn, chosen, strict=True)]
    begins = accumulate(on and not before for on, before in zip(chosen, [False, *chosen], strict=False))
    return [number - 1 if on else -1 for number, on in zip(begins, chosen, strict=True)]


def _turn_channels(
    items: Sequence[Item], blocks: Sequence[Block], turn: Int[Tensor, " token"]
) -> dict[str, Float[Tensor, " token"]]:
    """Each item's values, one per turn, on the tokens of that turn."""
    result: dict[str, Tensor] = {}
    words: dict[str, dict[str, float]] = defaultdict(dict)
    for name in sorted({name for item in items for name in item.turn_channels}):
        result[name] = torch.where(turn >= 0, float("nan"), 0.0)
    begins = [begin for block in blocks for begin in _begins(block)] if result else []
    for item, begin in zip(items, begins, strict=False):
        own = turn[begin : begin + len(item.completion_ids)]
        for name, values in item.turn_channels.items():
            number = words[name]
            said = [number.setdefault(v, float(len(number))) if isinstance(v, str) else v for v in values]
            told = torch.tensor([*said, float("nan")])[own.clamp(0, len(said))]  # turns beyond what it said
            result[name][begin : begin + len(own)] = torch.where(own >= 0, told, 0.0)
    return result


def _check_item(item: Item) -> None:
    for name in ("action", "sampler_logprobs", "rewards", "turn"):
        column = getattr(item, name)
        if column is not None and len(column) != len(item.completion_ids):
            raise BatchError(
                f"group {item.group} member {item.member}: {name} has {len(column)} entries for "
                f"{len(item.completion_ids)} completion tokens"
            )
    if item.rewards is not None:
        _check_rewards(item, item.rewards)


def _check_rewards(item: Item, rewards: Sequence[float]) -> None:
    chosen = item.action if item.action is not None else [True] * len(item.completion_ids)
    where = f"group {item.group} member {item.member}: rewards"
    stray = next((i for i, (paid, on) in enumerate(zip(rewards, chosen, strict=True)) if paid and not on), None)
    if stray is not None:
        raise BatchError(f"{where} pay token {stray}, which the policy did not choose: pay its last action before that")
    if abs(sum(rewards) - item.reward) > 1e-4 * max(1.0, abs(item.reward)):
        raise BatchError(f"{where} sum to {sum(rewards):.6g}, its reward is {item.reward:.6g}: they must agree")
