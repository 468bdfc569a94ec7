"""What a recipe may say of how completions and episodes come about."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from alignkit.recipe.schema.section import Fraction, Section


class Tool(Section):
    """A function that the policy may call; in a recipe its name alone will do."""

    name: str
    """Name on the shelf (`alignkit ls tools`), `./file.py:name` or `package.module:name`."""
    options: dict[str, Any] = {}
    """Keyword arguments of a function that makes the tool; none: the function itself is the tool."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Environment(Section):
    """What the policy talks with over several turns: its first observation is the prompt, what it pays the reward."""

    name: str | None = None
    """Name on the shelf (`alignkit ls environments`), `./file.py:name` or `package.module:name`, of an environment or
    of a class with TRL's `reset`; null: the tasks of `data` are answered with `tools`, and `rewards` score the last
    answer."""
    options: dict[str, Any] = {}
    """Keyword arguments of the environment."""
    program: str | tuple[str, ...] | None = None
    """Instead of a `name`: an agent program that speaks to the policy as to OpenAI, at its own pace. `./file.py:name`
    of an async function of the task and its access, or a command as a list. What it says of its work is paid, else
    `rewards` score its last answer."""
    tools: tuple[Tool, ...] = ()
    """What the policy may call, in the tool-call format of its chat template."""
    max_turns: PositiveInt = 10
    """Most utterances of the policy in an episode; an episode that is cut there counts as truncated."""
    max_tokens: PositiveInt | None = None
    """Most tokens of a whole episode, observations included; null: the model's context."""
    deadline_s: PositiveFloat = 30.0
    """Seconds for one answer of the environment; then the episode is a timeout fault and leaves the batch. Of tools the
    calls of a turn share them, and one that is too slow is told to the policy. Of a `program` seconds for all of it."""
    max_seconds: PositiveFloat | None = None
    """Most seconds of an episode, sampling included; one that is cut there counts as truncated. Which are, a machine's
    load decides, so that a run with it does not repeat its bits."""
    max_tool_calls: PositiveInt | None = None
    """Most tool calls of an episode; one that asks for more is cut, and counts as truncated."""
    tool_characters: PositiveInt = 8000
    """Characters of a tool's result that the policy reads; the rest is cut."""
    pace: Literal["lockstep", "free"] = "lockstep"
    """`lockstep`: all living episodes take each turn together, which exact resume needs. `free`: each goes on as soon
    as it can, and fast episodes never wait for slow ones."""
    isolate: bool | None = None
    """Play each episode in a process of its own, which can be killed; null: all but what alignkit ships."""
    memory_mib: PositiveInt = 1024
    """Memory of such a process; more is a fault."""

    @property
    def title(self) -> str:
        """What faults and people call it."""
        program = self.program if isinstance(self.program, str) else " ".join(self.program or ())
        return self.name or program or ", ".join(tool.name for tool in self.tools)

    @property
    def pays(self) -> bool:
        """Whether episodes can have a return without `rewards`."""
        return self.name is not None or self.program is not None

    def grades(self, *, judged: bool) -> bool:
        """Whether the environment says which episodes succeed; judged: whether there are rewards that could."""
        return self.name is not None or (self.program is not None and not judged)

    @property
    def free_running(self) -> bool:
        """Whether each episode goes on as soon as it can."""
        return self.pace == "free" or self.program is not None


class Rollouts(Section):
    renamed = {
        "guided": "guide_roll_in",
        "finished": "guide_roll_out",
        "keep_zero_spread": "not dynamic_sampling",
    }

    engine: Literal["vllm", "hf"] = "vllm"
    """`vllm` (fast), or `hf` (slow, exact reference)."""
    prompts: PositiveInt = 16
    """Prompts per step."""
    group: PositiveInt = 8
    """Completions sampled for each prompt."""
    max_new_tokens: PositiveInt = 256
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the trainer computes its log-probs at the same temperature."""
    guide_roll_in: Fraction = 0.0
    """Share of prompts whose completions begin with part of the task's own `completion` (RLGF): scored, not trained."""
    guide_roll_out: Fraction = 0.0
    """Share of completions (of utterances, in an environment) that go over to a guide at a random place (RLGF): its
    part is scored, not trained."""
    guide: str | None = None
    """Model that finishes those, a transformers folder of the policy's tokens; null: the reference."""
    dynamic_sampling: bool = False
    """Drop groups whose rewards are all equal and sample new prompts instead (DAPO)."""
    refill_rounds: PositiveInt = 10
    """At most this many sampling rounds a step when groups are dropped."""
    memory_gib: PositiveInt = 2
    """vLLM on CPU: memory for its KV cache. On a GPU `gpu_memory_fraction` counts."""
    gpu_memory_fraction: Fraction = 0.45
    """vLLM on GPU: share of the device's memory."""
    canary_tolerance: PositiveFloat = 0.15
    """After each weight sync: largest allowed mean |log-prob difference| between engine and trainer on the probe."""
    reward_workers: PositiveInt = 2
    """Processes that run rewards."""
    max_unscorable: Fraction = 0.5
    """The run stops when more than this share of a step's rollouts cannot be scored."""


class Replay(Section):
    """Past episodes, for algorithms that learn from them again and again."""

    every: PositiveInt = 1
    """Steps between collections of rollouts.prompts x rollouts.group episodes."""
    capacity: PositiveInt = 100_000
    """Turns kept; the oldest episodes leave first."""
    newest: Fraction = 0.0
    """Share of each draw that is taken from the episodes of the latest collection; the rest from all."""
