"""What a recipe may say of its rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from alignkit.recipe.schema.section import Section


class Rows(Section):
    source: str = ""
    """Where tasks come from: a file (.jsonl .json .parquet .csv .tsv, those of text also .gz), a folder of
    `datasets.save_to_disk`, `hub:ORG/NAME`, `generator:NAME`, or a function of your own, `./file.py:NAME` or
    `package.module:NAME`. Required unless there is a `mixture`."""
    split: str = "train"
    """Split of a hub dataset or saved folder (or of a generator or function)."""
    revision: str | None = None
    """Revision of a hub dataset."""
    options: dict[str, Any] = {}
    """Arguments of the generator or function (or, under `name`, the configuration of a hub dataset)."""
    columns: dict[str, str] = {}
    """Renames: ours (prompt, completion, chosen, rejected, label, messages, system, tools, reference; `id`; `solution`,
    which TRL's rewards read) from theirs: a column, or a path into one (`reward_model.ground_truth`, `answers[0]`)."""
    template: str | None = None
    """Format string over the row's columns (and paths) that makes the prompt (`{question}`); default: column `prompt`.
    Braces of its own are doubled (`{{`), but for `{}`."""
    limit: PositiveInt | None = None
    """Use only the first N rows."""


class Part(Rows):
    weight: PositiveFloat | None = None
    """Of the rows that are drawn its share, in proportion to the weights of the other parts, which then have one, too.
    null: every row of every part once in each pass."""


class Data(Rows):
    mixture: dict[str, Part] = {}
    """Several sources by names of your own, in place of one, each with the settings above and perhaps a `weight`. The
    column `source` of each row then says its name."""
    window: PositiveInt | None = None
    """Read rows as they are needed, so many at a time, in the source's order, shuffled within each window. A hub
    dataset is streamed then, and a function may never end. null: all rows at once."""
    system: str | None = None
    """System message put before the prompt of chat models."""
    chat: bool = True
    """Render prompts with the chat template; False feeds the prompt's text as it is."""
    chat_template_kwargs: dict[str, Any] = {}
    """Passed to the chat template (`enable_thinking: false`). A row's own column of this name comes before it."""
    turns: Literal["all", "last"] = "all"
    """Which assistant turns of a whole conversation (column `messages`) are learnt."""
    holdout: NonNegativeInt = 0
    """Rows kept out of training (chosen by the seed) for evaluation."""
    max_prompt_tokens: PositiveInt = 1024
    """Longest prompt, in tokens."""
    long_prompts: Literal["error", "filter", "truncate"] = "error"
    """What to do with longer prompts; `truncate` keeps the end. Counts are reported."""
    max_completion_tokens: PositiveInt | None = None
    """Longest given completion, in tokens, the same for both sides of a pair; null: what the model's context leaves."""
    long_completions: Literal["error", "filter", "truncate"] = "error"
    """What to do with longer ones; `truncate` keeps the beginning, without a stop token. Counts are reported."""
    shuffle: bool = True
    """New order each epoch, by the seed; False keeps the file's order."""

    @property
    def name(self) -> str:
        """What messages call it: the source, or all of a mixture's."""
        return self.source or " + ".join(rows.source for rows in self.mixture.values())
