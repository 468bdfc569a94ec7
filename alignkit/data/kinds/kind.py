"""The contract of a source of data: what a row is, how it becomes items, how it is judged, what it needs.

A kind is one value `KIND` in one file of this folder, which an algorithm names by `source="paired_preference"`; an
algorithm of another place may hold its own Kind instead of a name. No torch is imported here or in any kind's file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alignkit.data.offline.lengths import mean_length
from alignkit.data.offline.verdict import Verdict, by_reward

if TYPE_CHECKING:
    from alignkit.data.offline.row_filter import RowFilter
    from alignkit.types.batch import Batch
    from alignkit.types.item import Item
    from alignkit.types.outputs import Judgement
    from alignkit.types.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One source of data. It is given where it has `rows`; otherwise the engine samples it from the tasks' prompts.

    name: of the file. unit: what a row is called in reports.
    rows: (tasks, row_filter) -> the rows that can be learnt from; the filter has tokenizer and limits, and counts what
        it leaves out. A row has its `task`; where `table` is "sides", its `prompt`, too. Raises DataError for tasks
        that are no such data.
    items: (row, group) -> the sequences of one group that a row becomes.
    sides: (row) -> its completions, as `alignkit check` shows them; default: those of its items.
    describe: (rows) -> how long the completions are; default: their mean length.
    verdict: (judgement, batch, members) -> how far a model's numbers agree with a held-out row, which is these members.
    sided: beginnings of the columns that hold a rating of each side, where a row has two.
    table: what `alignkit check` tells of the rows: of their "sides" how many are kept, why others are left out, and how
        long they are; of "conversations" which of their tokens are learnt; None: nothing.
    beside_reference: a model that learnt from it reads an answer and the task's reference in one context.
    told: such a model reads episodes, and ahead of them what training knows of the task and the policy does not.
    environment: whether a stage "never" has one, "may" have one or "must" play in one.
    goes_back: sampled episodes are gone on with once more from one of their turns.
    candidates: several utterances are sampled after one state of each episode, and rewards judge these.
    replays: what was sampled is kept, and drawn from in later steps.
    """

    name: str
    unit: str = "completions"
    rows: Callable[[Sequence[Task], RowFilter], Sequence[Any]] | None = None
    items: Callable[[Any, int], list[Item]] | None = None
    sides: Callable[[Any], Sequence[Sequence[int]]] | None = None
    describe: Callable[[Sequence[Any]], str] | None = None
    verdict: Callable[[Judgement, Batch, Sequence[int]], Verdict] = by_reward
    sided: tuple[str, ...] = ()
    table: Literal["sides", "conversations"] | None = None
    beside_reference: bool = False
    told: bool = False
    environment: Literal["never", "may", "must"] = "never"
    goes_back: bool = False
    candidates: bool = False
    replays: bool = False

    @property
    def samples(self) -> bool:
        """Whether it needs an engine with the policy's present weights."""
        return self.rows is None

    @property
    def fresh(self) -> bool:
        """Whether every step's batch is sampled anew, rollouts.prompts x rollouts.group."""
        return self.samples and not self.replays

    def items_of(self, rows: Sequence[Any]) -> list[Item]:
        """The sequences of rows, in order, each row a group."""
        assert self.items is not None, "what has rows says what they become"
        return [item for group, row in enumerate(rows) for item in self.items(row, group)]

    def completions(self, row: Any) -> Sequence[Sequence[int]]:
        """Token ids of what is learnt from in a row."""
        return self.sides(row) if self.sides else [item.completion_ids for item in self.items_of([row])]

    def lengths(self, rows: Sequence[Any]) -> str:
        """One sentence on how long the completions of `rows` are."""
        return self.describe(rows) if self.describe else mean_length([s for row in rows for s in self.completions(row)])
