"""What a recipe may say of its rewards, and of how one number is made of what they say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from alignkit.recipe.schema.section import Section


class Risk(Section):
    """One number from a distribution of rewards."""

    measure: Literal["cvar", "low_quantile", "entropic", "mean_minus_std", "mean"] = "cvar"
    """Mean of the worst outcomes, one low quantile, certainty equivalent, mean less some deviations, or the mean."""
    level: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of cvar the share of outcomes that is averaged, of low_quantile the quantile's level."""
    weight: float = 1.0
    """Of mean_minus_std the deviations taken off, of entropic the aversion to low outcomes; below 0 seeks high ones."""


class Ensemble(Section):
    """One number from several models that judge the same completions."""

    reducer: Literal["mean", "median", "worst", "mean_minus_variance", "mean_minus_std"] = "worst"
    """Of the members, each centred on its mean over the prompt's completions; their mean level is added again."""
    weight: NonNegativeFloat = 1.0
    """Of the variance or deviation among members that is taken off."""


class Steps(Section):
    """How the scores of a completion's steps become rewards."""

    returns: Literal["sum", "mean", "min_form", "difference", "last", "product"] = "min_form"
    """What a step and those after it are worth: their sum, sum / number, worst, the progress to the last, the last, or
    the product; a step is paid the difference to the next one's."""
    place: Literal["step", "turn", "end"] = "step"
    """Paid on the token that completes the step, at the end of its utterance, or all at the end."""


class Normalise(Section):
    """Mean 0 and standard deviation 1 over all that the reward said in a step of training; evaluation is as it is."""

    by: str | None = None
    """A column of the data, such as `source`: rows are normalised among those with the same value."""


class RewardSpec(Section):
    name: str
    """Name on the shelf (`alignkit ls rewards`), `./file.py:name`, `package.module:name`, or `trl:function`."""
    weight: float = 1.0
    """Factor in the sum."""
    gate: bool = False
    """A gate multiplies the sum of the others instead of being added to it."""
    deadline_s: PositiveFloat = 5.0
    """Seconds for one rollout; then its worker is killed and the score is None with a timeout fault."""
    memory_mib: PositiveInt = 4096
    """What a worker may hold, in MiB (the largest of its rewards' counts); beyond it, a memory fault."""
    isolate: bool = False
    """A process for each answer, so that it can touch no other answer's score; about 2 ms each."""
    secrets: tuple[str, ...] = ()
    """Environment variables that look like secrets and that it gets all the same."""
    options: dict[str, Any] = {}
    """Keyword arguments of the reward."""
    only: dict[str, Any] = {}
    """Rows that it is for, by column and value (or a list of values); to other rows it adds nothing."""
    risk: Risk | None = None
    """For rewards that say a distribution."""
    ensemble: Ensemble | None = None
    """For rewards that say several models' values."""
    steps: Steps | None = None
    """For rewards that score steps."""
    normalise: Normalise | None = None
    """Before the weight; `{}` is over everything."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value (of a step, where steps are scored); after normalising, before the weight."""
