"""What a task asks for, read from its own file and put into the order in which it can be done."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.suites import problem

TABLES = {f"{room}_table" for room in ("main", "kitchen", "living_room", "study", "coffee")} | {
    "floor"
}
DRAWERS = ("_top_region", "_middle_region", "_bottom_region")
ORDER = {"turnon": 0, "open": 1, "on": 2, "in": 2, "close": 3}
"""A drawer is closed after things were put into it, and a stove is turned on before."""


@dataclass(frozen=True)
class Goal:
    """One `(predicate target receptacle)` of a task.

    Attributes:
        predicate: on, in, open, close or turnon.
        target: an object; for open, close and turnon a fixture or a fixture's drawer.
        receptacle: what an object is put on or into: an object, or a region of the scene.
        prepares: the task does not ask for this, but the next goal needs it.
        turn, turns: this is object number `turn` of `turns` for the same receptacle.
    """

    predicate: str
    target: str
    receptacle: str | None = None
    prepares: bool = False
    turn: int = 0
    turns: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The predicate and its arguments, as LIBERO writes them."""
        parts = (self.predicate, self.target, self.receptacle)
        return tuple(part for part in parts if part is not None)


def task_goals(task: Task) -> tuple[Goal, ...]:
    """Returns the goals of a task in the order in which to bring them about.

    Raises:
        LibraError: there is no skill for one of them.
    """
    described = problem(task)
    asked = [(predicate.lower(), *names) for predicate, *names in described["goal_state"]]
    for goal in asked:
        if not _feasible(goal, described):
            raise LibraError(
                f"{task.suite} {task.index} ('{task.instruction}') asks for ({' '.join(goal)}), "
                "which the expert has no skill for"
            )
    return tuple(_ordered(asked, described))


def is_drawer(name: str) -> bool:
    """Tells whether a region is a cabinet's drawer."""
    return "cabinet" in name and name.endswith(DRAWERS)


def is_rack(name: str) -> bool:
    """Tells whether a region is one that bottles lie in."""
    return name.startswith("wine_rack")


def is_oven(name: str) -> bool:
    """Tells whether a region, or a fixture, is that of a microwave, which is open at the front."""
    return name.startswith("microwave") and not name.endswith("_top_side")


def is_pushed(goal: Goal) -> bool:
    """Tells whether an object is to be pushed over the table: a plate to some part of it."""
    return goal.target.startswith("plate") and _on_table(goal.receptacle or "")


def _on_table(region: str) -> bool:
    return any(region.startswith(f"{table}_") for table in TABLES)


def _ordered(asked: list[tuple[str, ...]], problem: dict[str, Any]) -> Iterator[Goal]:
    initially_open = {names[0] for word, *names in problem["initial_state"] if word == "open"}
    opened = initially_open | {goal[1] for goal in asked if goal[0] == "open"}
    receptacles = [goal[2] for goal in asked if len(goal) == 3]
    placed: dict[str, int] = {}
    for predicate, target, *rest in sorted(asked, key=lambda goal: ORDER[goal[0]]):
        if not rest:
            yield Goal(predicate, target)
            continue
        receptacle = rest[0]
        if is_drawer(receptacle) and receptacle not in opened:
            opened.add(receptacle)
            yield Goal("open", receptacle, prepares=True)
        turn = placed.get(receptacle, 0)
        placed[receptacle] = turn + 1
        turns = receptacles.count(receptacle)
        yield Goal(predicate, target, receptacle, turn=turn, turns=turns)


def _feasible(goal: tuple[str, ...], problem: dict[str, Any]) -> bool:
    """Tells whether there is a skill for a goal."""
    predicate, target, *rest = goal
    objects = {name for names in problem["objects"].values() for name in names}
    owners = {name: region["target"] for name, region in problem["regions"].items()}
    if predicate == "close":
        return is_drawer(target) or is_oven(target)
    if predicate == "open":
        return is_drawer(target)
    if predicate == "turnon":
        return target.startswith("flat_stove")
    if target not in objects or predicate not in ("on", "in"):
        return False
    (receptacle,) = rest
    owner = owners.get(receptacle, "")
    if predicate == "in":
        inside = is_drawer(receptacle) or is_oven(receptacle) or owner.startswith("desk_caddy")
        return inside or owner in objects
    return receptacle in objects or receptacle in owners
