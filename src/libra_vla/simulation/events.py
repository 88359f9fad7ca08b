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
        fell: how far below the place where the fingers last let go of it it is at the end, m; None
            if they still hold it or never did.
        rests: objects and regions that hold it at the end, and did not at the start.
    """

    part: bool
    nearest: float
    touched: int = 0
    gripped: int = 0
    moved: float = 0.0
    lifted: float = 0.0
    fell: float | None = None
    rests: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoalEvents:
    """What became of one goal of the task.

    Attributes:
        predicate: on, in, open, close or turnon.
        thing: what is to be placed or moved, a key of `Events.things`.
        receptacle: what it is to be placed on or in, or None.
        met: whether the goal held at the end.
        over: whether the thing was ever above the receptacle's outline after it had moved.
    """

    predicate: str
    thing: str
    receptacle: str | None
    met: bool
    over: bool = False


@dataclass(frozen=True)
class Events:
    """An episode in short.

    Attributes:
        goals: of the task.
        things: by name, everything that the hand can move.
    """

    goals: tuple[GoalEvents, ...]
    things: Mapping[str, Thing] = field(default_factory=dict)
