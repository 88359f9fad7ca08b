"""What happened in an episode, as the simulator saw it: what a failure is explained from."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thing:
    """What the hand did with one thing: an object, or the part of a fixture that moves.

    Attributes:
        part: whether it is a drawer, a door or a knob rather than an object.
        nearest: least distance from the grip site (between the finger tips) to its surface, m.
        touched: control steps in which a finger touched it.
        gripped: control steps in which it was squeezed between both fingers.
        moved: farthest it got from where it was at the start, m; of a knob or a door, the arc at
            its rim.
        lifted: highest it rose above where it was at the start while it was gripped, m.
        rests: objects and regions that hold it at the end, and did not at the start.
    """

    part: bool
    nearest: float
    touched: int = 0
    gripped: int = 0
    moved: float = 0.0
    lifted: float = 0.0
    rests: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoalEvents:
    """What became of one goal of the task.

    Attributes:
        predicate: on, in, open, close or turnon.
        thing: what is to be placed or moved, a key of `Events.things`.
        receptacle: what it is to be placed on or in, or None.
        met: whether the goal held at the end.
        gap: least distance over ground between the outlines of thing and receptacle since the
            thing first moved, m; None if it never did, or if there is no receptacle.
    """

    predicate: str
    thing: str
    receptacle: str | None
    met: bool
    gap: float | None = None


@dataclass(frozen=True)
class Events:
    """An episode in short.

    Attributes:
        goals: of the task.
        things: by name, everything that the hand can move.
    """

    goals: tuple[GoalEvents, ...]
    things: Mapping[str, Thing] = field(default_factory=dict)
