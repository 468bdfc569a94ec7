"""What is compared within a group, in either of two ways."""

from __future__ import annotations

from typing import Literal

from alignkit.ops.groups import STD_EPS, Group, Values, centre, leave_one_out, std


def relative(values: Values, among: Group, scale: Literal["std", "none"]) -> Values:
    """How much better each is than those of its number: in deviations from the mean, or less that of the others."""
    if scale == "none":
        return leave_one_out(values, among)
    return centre(values, among) / (std(values, among) + STD_EPS)
