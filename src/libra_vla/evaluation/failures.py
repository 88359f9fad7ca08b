"""Why an episode failed, told from what happened in it.

In this order:

1. **asynchrony-induced**: the same initial state and seed succeed in synchronous mode without
   delay. Only a paired re-run tells; see `libra_vla.evaluation.trial.run_trial`.
2. **semantic**: the wrong object or target. The hand took hold of something that no goal is about,
   and of nothing that an unmet goal is about; or it took the right object to a wrong place.
3. **actuation**: the right ones, but the motion failed, in the phase that was reached:
   *reach*, the hand did not get to the thing; *grasp*, it did, without taking hold of it; *move*, a
   drawer, door or knob moved, but not far enough; *carry*, an object was lifted and then dropped or
   never set down; *place*, it came over its receptacle or was set down elsewhere.
4. **other**: the hand stayed away from everything that matters, or the benchmark does not tell.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from libra_vla.simulation.events import Events, GoalEvents, Thing

FailureClass = Literal["semantic", "actuation", "asynchrony-induced", "other"]
Phase = Literal["reach", "grasp", "move", "carry", "place"]
CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)
PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which a task goes through them."""

MOVED = 0.02
"""Metres by which the hand lifts an object, or moves a part, that it has taken hold of."""
GRIPPED = 10
"""Control steps between the fingers after which a thing counts as taken hold of all the same."""
AT_HAND = 0.02
"""Metres from the grip site to a thing's surface at which the hand has got to it."""
AIMED = 0.15
"""Metres within which the hand has to come for its aim to be known."""
DROPPED = 0.04
"""Metres that an object falls that was dropped rather than set down."""


def classify(events: Events | None) -> tuple[FailureClass, Phase | None]:
    """Returns the class of a failed episode and, of an actuation failure, its phase.

    Of several goals that do not hold, the one counts that got furthest.

    Args:
        events: of the episode; None where the benchmark does not tell.
    """
    unmet = [goal for goal in events.goals if not goal.met] if events is not None else []
    if events is None or not unmet:
        return "other", None
    if _wrong_object(events, unmet) or any(_wrong_place(events, goal) for goal in unmet):
        return "semantic", None
    reached = {_phase(events.things.get(goal.thing), goal) for goal in unmet}
    furthest: Phase | None = next((p for p in reversed(PHASES) if p in reached), None)
    return ("other" if furthest is None else "actuation"), furthest


def _taken(thing: Thing) -> bool:
    """Whether the hand took hold of it."""
    if thing.part:
        return thing.touched > 0 and thing.moved >= MOVED
    return thing.lifted >= MOVED or thing.gripped >= GRIPPED


def _wrong_object(events: Events, unmet: Sequence[GoalEvents]) -> bool:
    taken = {name for name, thing in events.things.items() if _taken(thing)}
    # A drawer has to be opened for what goes into it, but a plate is not to be taken.
    drawers = {goal.receptacle for goal in events.goals if goal.receptacle in events.things}
    drawers = {name for name in drawers if name is not None and events.things[name].part}
    strangers = taken - drawers - {goal.thing for goal in events.goals}
    return bool(strangers) and not any(goal.thing in taken for goal in unmet)


def _wrong_place(events: Events, goal: GoalEvents) -> bool:
    thing = events.things.get(goal.thing)
    return thing is not None and _taken(thing) and bool(set(thing.rests) - {goal.receptacle})


def _phase(thing: Thing | None, goal: GoalEvents) -> Phase | None:
    """How far the hand came with what a goal is about."""
    if thing is None:
        return None
    if thing.part and _taken(thing):
        return "move"
    if not thing.part and (thing.lifted >= MOVED or goal.over):  # carried, or pushed there
        set_down = thing.fell is not None and thing.fell < DROPPED
        return "place" if goal.over or set_down else "carry"
    if thing.touched or thing.nearest <= AT_HAND:
        return "grasp"
    return "reach" if thing.nearest <= AIMED else None
