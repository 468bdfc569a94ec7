"""What there is to say of judged answers and of mixtures."""

from __future__ import annotations

from alignkit.data.look.balance import Balance
from alignkit.run.look.mixed import Mixed, Part


def balance_sentences(balance: Balance) -> list[str]:
    """What there is to say of labels, pairs, steps and references."""
    said = []
    if balance.good or balance.bad or balance.neither:
        neither = f", {balance.neither:,} neither" if balance.neither else ""
        said.append(f"labels: {balance.good:,} good, {balance.bad:,} bad{neither}")
    if (pairs := balance.pairs) is not None:
        said.append(
            f"pairs: {pairs.count:,}, {pairs.equal:,} with equal sides; the chosen side is longer in "
            f"{pairs.chosen_longer:.0%}"
        )
        said += [
            f"pairs: {name} of the chosen side leads by {mean:.3g} on average, in {behind:.0%} it does not"
            for name, (mean, behind) in pairs.margins.items()
        ]
    if balance.steps:
        said.append(f"steps: {balance.steps_good:,} of {balance.steps:,} are called right")
    if balance.references:
        said.append(f"references: {balance.references:,} gold answers, {balance.distinct_references:,} different ones")
    return said


def mixed_cells(part: Part) -> tuple[str, str, str]:
    """Rows of a part of a mixture, its share of the rows that are drawn, and the passes over it in an epoch."""
    share = "unknown" if part.share is None else f"{part.share:.1%}"
    passes = "unknown" if part.passes is None else f"{part.passes:.3g}"
    return f"{part.look.read:,}{'' if part.look.whole else ' and more'}", share, passes


def between_sentences(mixed: Mixed) -> list[str]:
    """What the parts have in common."""
    return [
        f"{one.other}: {one.same:,} rows say what a row of {one.one} says, {one.nearly:,} nearly that, such as "
        f"{', '.join(one.examples)}"
        for one in mixed.between
    ]
