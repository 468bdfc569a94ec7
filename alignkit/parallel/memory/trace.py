"""What was allocated and freed, in order, and what was held when a phase held the most."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

Held = dict[str, int]
"""Bytes by role."""
Peaks = dict[str, dict[str, Held]]
"""Of each phase, and of each role that grew in it beside the same others."""


@dataclass
class Trace:
    """Blocks of memory, each with the role that it was allocated for until a better one is known.

    events: (phase, role's block, bytes gained or lost). roles: of each block, by its number.
    """

    events: list[tuple[str, int, int]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def allocate(self, phase: str, size: int, role: str) -> int:
        """The number of a new block of `size` bytes."""
        self.roles.append(role)
        self.events.append((phase, len(self.roles) - 1, size))
        return len(self.roles) - 1

    def free(self, phase: str, block: int, size: int) -> None:
        self.events.append((phase, block, -size))

    def enter(self, phase: str) -> None:
        """A phase begins, with what is held already."""
        self.allocate(phase, 0, "")

    def peaks(self) -> Peaks:
        """Phase -> what grew beside what -> bytes by role at the moment at which this growth led to the most."""
        held: dict[str, int] = defaultdict(int)
        highest: dict[tuple[str, str], int] = {}
        peaks: Peaks = defaultdict(dict)
        now = 0
        for phase, block, change in self.events:
            role = self.roles[block]
            now += change
            held[role] += change
            if change < 0:
                continue
            kept = {name: size for name, size in held.items() if size}
            growth = " ".join([role, "beside", *sorted(kept)])
            if now > highest.get((phase, growth), -1):
                highest[phase, growth], peaks[phase][growth] = now, kept
        return dict(peaks)


def total(held: Held) -> int:
    """All bytes of all roles."""
    return sum(held.values())


def most(peaks: Peaks) -> dict[str, Held]:
    """Phase -> bytes by role when it holds the most."""
    return {phase: max(found.values(), key=total) for phase, found in peaks.items()}


def deeper(few: Peaks, more: Peaks, *, layers: tuple[int, int, int]) -> Peaks:
    """The peaks of a model with layers[2] like layers, from those with layers[0] and layers[1] of them.

    What is held when something grows is a constant and a share of every layer. Which growth leads to the most can
    change with the depth; so each is continued by itself, and only then compared.
    """
    begin, end, whole = layers

    def continued(a: Held, b: Held) -> Held:
        roles = {**a, **b}
        return {
            role: a.get(role, 0) + (b.get(role, 0) - a.get(role, 0)) * (whole - begin) // (end - begin)
            for role in roles
        }

    return {
        phase: {growth: continued(few[phase].get(growth, held), held) for growth, held in found.items()}
        for phase, found in more.items()
    }
