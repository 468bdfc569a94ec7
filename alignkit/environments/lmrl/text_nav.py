"""LMRL-Gym's Text-Nav: carry the stale food from the living room into the fridge of the kitchen and close it. Pays 1.

The house is the one of `multiturn/textnav_game.json.gz` (8 rooms, a game of TextWorld); its rules are played here, so
that neither TextWorld nor a compiler of games is needed, and told in sentences of our own. Not repeated from the
reference (abdulhaim/LMRL-Gym at 911d726b5b37): its environment raises at the first step (`true` is no name of Python)
and gives an observation as a tuple of single letters; it pays the score so far at every step and not what a step has
earned; its first room hangs on a generator that no seed sets. Each has a test.
"""

from __future__ import annotations

import ast
from collections import deque
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

WANTED, TARGET, HELD = "stale food", "fridge", "inventory"
EDIBLE = ("stale food", "fresh food", "fruit")
GOAL = "Your objective is to put the stale food on the table in the living room into the fridge in the kitchen."
SIDES = ("north", "south", "east", "west")


class House(NamedTuple):
    """exits: room -> side -> room. inside: chest, fridge and tables -> their room; where: things -> what they are on
    or in. Tables carry the name of their room, as there are three."""

    exits: dict[str, dict[str, str]]
    inside: dict[str, str]
    where: dict[str, str]


class State(NamedTuple):
    """places: (thing, where it is) of all things, sorted; `inventory` is in hand, a room is its floor, `` is eaten.
    opened: the containers that are open."""

    room: str
    places: tuple[tuple[str, str], ...]
    opened: frozenset[str]


class TextNav(Game):
    """A command that is not possible costs a turn and changes nothing. Eating the stale food ends it."""

    state: State

    def __init__(self, *, observed: str, max_steps: int):
        super().__init__()
        if observed not in ("full", "partial") or max_steps < 1:
            raise EpisodeError(
                f"text_nav: wanted observed full or partial and max_steps >= 1; got {observed!r} and {max_steps}"
            )
        self._full, self._left = observed == "full", max_steps
        house()

    def choices(self) -> list[str]:
        return commands(self.state)

    def best(self) -> str:
        return optimal_command(self.state)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        rooms = sorted(house().exits)
        places = tuple(sorted(house().where.items()))
        self.state = State(rooms[int(random.integers(len(rooms)))], places, frozenset())
        return Observation(text=f"{GOAL}\n{describe(self.state, self._full)}", success=False)

    def _act(self, text: str) -> Observation:
        command = " ".join(text.lower().split())
        self._left -= 1
        possible = command in commands(self.state)
        if possible:
            self.state = after(self.state, command)
        if solved(self.state):
            return Observation(text="You have put the stale food away.\n", reward=1.0, done=True, success=True)
        over = self._left == 0 or (WANTED, "") in self.state.places
        said = describe(self.state, self._full)
        return Observation(text=said if possible else f"That is not possible.\n{said}", done=over, success=False)


def text_nav(*, observed: str = "full", max_steps: int = 15) -> TextNav:
    """One errand from a room drawn from the eight.

    Reads: what is to be seen and done; with `observed: full` also the room's name and what one holds
    Says: `go west`, `take stale food from table`, `open fridge`, `insert stale food into fridge`
    Pays: 1 when the stale food is in the closed fridge, else 0
    Ends: then, with the stale food eaten, or after `max_steps` commands
    Optimum: exact, by breadth-first search (`fewest_steps`): 1 from every room
    """
    return TextNav(observed=observed, max_steps=max_steps)


@cache
def house() -> House:
    """The house of the shared game. Raises EpisodeError when the file is missing."""
    game: dict[str, Any] = ast.literal_eval(shared_file("textnav_game.json.gz"))
    names = {key: entry["name"] or key for key, entry in game["infos"]}
    exits: dict[str, dict[str, str]] = {name: {} for key, name in names.items() if key.startswith("r_")}
    inside, where = {}, {}
    facts = [(fact["name"], [argument["name"] for argument in fact["arguments"]]) for fact in game["world"]]
    rooms = {first: second for name, (first, *rest) in facts if name == "at" for second in rest}
    for key, room in rooms.items():
        if key != "P":
            names[key] = f"{names[key]} of {names[room]}" if names[key] == "table" else names[key]
            inside[names[key]] = names[room]
    for name, (first, *rest) in facts:
        if name.endswith("_of"):
            exits[names[rest[0]]][name.removesuffix("_of")] = names[first]
        elif name in ("in", "on"):
            where[names[first]] = names[rest[0]]
    return House(exits, inside, where)


def commands(state: State) -> list[str]:
    """All that can be done, in a fixed order."""
    home = house()
    able = [f"go {side}" for side in SIDES if side in home.exits[state.room]]
    here = [place for place, room in home.inside.items() if room == state.room]
    shut = [place for place in here if not _is_table(place) and place not in state.opened]
    for place in here:
        if not _is_table(place):
            able.append(f"{'open' if place in shut else 'close'} {place}")
    for thing, place in state.places:
        if place == HELD:
            able.append(f"drop {thing}")
            able += [f"eat {thing}"] if thing in EDIBLE else []
            able += [_put(thing, target) for target in here if target not in shut]
        elif place == state.room:
            able.append(f"take {thing}")
        elif place in here and place not in shut:
            able.append(f"take {thing} from {_plain(place)}")
    return able


def after(state: State, command: str) -> State:
    """The state after one of `commands`."""
    room, places, opened = state
    verb, _, rest = command.partition(" ")
    if verb == "go":
        return state._replace(room=house().exits[room][rest])
    if verb in ("open", "close"):
        return state._replace(opened=opened | {rest} if verb == "open" else opened - {rest})
    thing, _, target = rest.partition({"take": " from ", "put": " on ", "insert": " into "}.get(verb, "\n"))
    here = {_plain(place): place for place, its in house().inside.items() if its == room}
    moved = {"take": HELD, "drop": room, "eat": ""}.get(verb)
    moved = here[target] if moved is None else moved
    return state._replace(places=tuple(sorted((dict(places) | {thing: moved}).items())))


def solved(state: State) -> bool:
    return (WANTED, TARGET) in state.places and TARGET not in state.opened


def describe(state: State, full: bool) -> str:
    """What is read of a state: what there is, the ways out, and all commands; the room and what one holds if `full`."""
    home, lines = house(), []
    for place in (place for place, room in home.inside.items() if room == state.room):
        things = [thing for thing, its in state.places if its == place]
        if _is_table(place):
            lines.append(f"You see a table with {_listed(things)}.")
        elif place in state.opened:
            lines.append(f"You see an open {place} with {_listed(things)}.")
        else:
            lines.append(f"You see a closed {place}.")
    if floor := [thing for thing, its in state.places if its == state.room]:
        lines.append(f"On the floor you see {_listed(floor)}.")
    lines.append(f"There are exits to the {_listed([side for side in SIDES if side in home.exits[state.room]])}.")
    if full:
        held = [thing for thing, place in state.places if place == HELD]
        lines = [f"You are in the {state.room}.", *lines, f"You are carrying {_listed(held)}."]
    return "\n".join([*lines, f"Admissible commands: {', '.join(commands(state))}\n"])


def fewest_steps(state: State) -> int:
    """The least number of commands that solves the errand, by breadth-first search.

    Only moves that can matter are followed: walking, containers of the kitchen, and the stale food.
    """
    return _search(_relevant(state))[0]


def optimal_command(state: State) -> str:
    """The first command of a shortest way; the first possible one when there is none, after the food is eaten."""
    return _search(_relevant(state))[1] or commands(state)[0]


def _relevant(state: State) -> State:
    """The state with all other things out of the way."""
    places = tuple((thing, place) for thing, place in state.places if thing == WANTED)
    return State(state.room, places, state.opened)


@cache
def _search(begun: State) -> tuple[int, str]:
    """(steps, first command); (0, "") when there is nothing to do or no way."""
    waiting, known = deque([(begun, 0, "")]), {begun}
    while waiting:
        state, steps, first = waiting.popleft()
        if solved(state):
            return steps, first
        for command in commands(state):
            later = after(state, command)
            if later not in known:
                known.add(later)
                waiting.append((later, steps + 1, first or command))
    return 0, ""


def _put(thing: str, target: str) -> str:
    return f"put {thing} on table" if _is_table(target) else f"insert {thing} into {target}"


def _is_table(place: str) -> bool:
    return place.startswith("table")


def _plain(place: str) -> str:
    return "table" if _is_table(place) else place


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else (words or ["nothing"])[0]
