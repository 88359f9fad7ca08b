"""Failures that were brought about on purpose, and whether they get the class they deserve."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.evaluation.failures import CLASSES, PHASES, classify
from libra_vla.simulation.events import Events, GoalEvents, Thing

# Rules

UNTOUCHED = Thing(part=False, nearest=0.3)
HELD = Thing(part=False, nearest=0.0, touched=40, gripped=40, moved=0.2, lifted=0.1)
OPENED = Thing(part=True, nearest=0.0, touched=20, gripped=10, moved=0.1)
BOWL = GoalEvents("on", "bowl", "plate", met=False)


def events(goal: GoalEvents = BOWL, **things: Thing) -> Events:
    known = {"bowl": UNTOUCHED, "plate": UNTOUCHED, "bottle": UNTOUCHED}
    return Events((goal,), known | {"drawer": replace(UNTOUCHED, part=True)} | things)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (events(), ("other", None)),
        (events(bowl=replace(UNTOUCHED, nearest=0.08)), ("actuation", "reach")),
        (events(bowl=replace(UNTOUCHED, nearest=0.01)), ("actuation", "grasp")),
        (events(bowl=replace(UNTOUCHED, touched=3, moved=0.05)), ("actuation", "grasp")),
        (events(bowl=HELD), ("actuation", "carry")),
        (events(bowl=replace(HELD, fell=0.1)), ("actuation", "carry")),
        (events(bowl=replace(HELD, fell=0.01)), ("actuation", "place")),
        (events(replace(BOWL, over=True), bowl=HELD), ("actuation", "place")),
        (events(replace(BOWL, over=True), bowl=replace(HELD, gripped=0, lifted=0.0)),
         ("actuation", "place")),  # pushed there
        (events(bowl=replace(HELD, gripped=0, lifted=0.0)), ("actuation", "grasp")),  # dragged
        (events(bottle=HELD), ("semantic", None)),
        (events(plate=HELD), ("semantic", None)),
        (events(drawer=OPENED), ("semantic", None)),
        (events(bottle=replace(HELD, gripped=0, lifted=0.0)), ("other", None)),  # knocked over
        (events(drawer=replace(OPENED, touched=0)), ("other", None)),  # slid open by itself
        (events(replace(BOWL, over=True), bowl=HELD, bottle=HELD), ("actuation", "place")),
        (events(bowl=replace(HELD, rests=("stove",))), ("semantic", None)),
        (events(replace(BOWL, receptacle="drawer"), drawer=OPENED), ("other", None)),
        (events(replace(BOWL, receptacle="drawer"), drawer=OPENED, bowl=HELD),
         ("actuation", "carry")),
        (events(GoalEvents("open", "drawer", None, met=False), drawer=OPENED),
         ("actuation", "move")),
        (events(GoalEvents("open", "drawer", None, met=False), bowl=HELD), ("semantic", None)),
        (events(replace(BOWL, met=True)), ("other", None)),
        (None, ("other", None)),
    ],
)  # fmt: skip
def test_rules(what: Events | None, expected: tuple[str, str | None]):
    assert classify(what) == expected


def test_of_two_goals_the_one_that_got_furthest_counts():
    both = events(replace(BOWL, over=True), bowl=HELD, bottle=replace(UNTOUCHED, nearest=0.1))
    both = replace(both, goals=(GoalEvents("on", "bottle", "rack", met=False), *both.goals))
    assert classify(both) == ("actuation", "place")
    done = replace(both, goals=(both.goals[0], replace(both.goals[1], met=True)))
    assert classify(done) == ("actuation", "reach"), "what is done already is no stranger"


metres = st.floats(0.0, 0.5)
things = st.builds(
    Thing, part=st.booleans(), nearest=st.floats(0.0), touched=st.integers(0, 300),
    gripped=st.integers(0, 300), moved=metres, lifted=metres, fell=st.none() | metres,
    rests=st.lists(st.sampled_from(["plate", "stove"])).map(tuple),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["bowl", "bottle", "drawer"]), things), st.booleans())
def test_whatever_happened_has_one_class_and_actuation_a_phase(seen, over):
    kind, phase = classify(Events((replace(BOWL, over=over),), seen))
    assert kind in CLASSES and kind != "asynchrony-induced"
    assert (phase in PHASES) == (kind == "actuation")


# On the simulator: the expert, made to fail

Spoil = Callable[[object, np.ndarray], np.ndarray]


def attempt(suite: str, index: int, *, goal: tuple[str, ...] | None = None, spoil: Spoil) -> Events:
    """What a witness sees of the expert, told another goal, with spoilt actions."""
    pytest.importorskip("libero")
    from libra_vla.simulation.benchmark import keep_environment
    from libra_vla.simulation.libero.expert import ScriptedExpert
    from libra_vla.simulation.libero.goals import Goal
    from libra_vla.simulation.libero.witness import LiberoWitness
    from libra_vla.simulation.registry import LIBERO

    env = keep_environment(LIBERO, LIBERO.tasks(suite)[index], render=False)
    env.reset(seed=100_000)
    expert = ScriptedExpert(env)
    if goal is not None:
        expert._goals = (Goal(*goal),)
    expert.reset()
    witness = LiberoWitness(env)
    while not expert.done and env.steps_taken < 150 and not env.success:
        env.step(spoil(expert, expert.act()))
        witness.look()
    assert not env.success
    return witness.events()


def well(expert, action):
    return action


def never_closing(expert, action):
    return np.array([*action[:6], -1.0])


def letting_go(expert, action):
    """From when the object is carried on, the hand is open."""
    expert.lost = getattr(expert, "lost", False) or expert.phase == "carry"
    return never_closing(expert, action) if expert.lost else action


def too_high(expert, action):
    """Reaches, but does not come down."""
    return np.zeros(7) if expert.phase in ("descend", "close") else action


def half_way(expert, action):
    """Lets go of a drawer that has begun to move."""
    expert.tired = getattr(expert, "tired", 0) + (expert.phase == "pull")
    return never_closing(expert, np.zeros(7)) if expert.tired > 7 else action


def idle(expert, action):
    expert.done = expert.env.steps_taken > 20
    return np.zeros(7)


CABINET = "wooden_cabinet_1"


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("suite", "index", "goal", "spoil", "expected"),
    [
        ("libero_goal", 1, ("on", "cream_cheese_1", "flat_stove_1_cook_region"), well,
         ("semantic", None)),
        pytest.param("libero_goal", 1, ("on", "akita_black_bowl_1", f"{CABINET}_top_side"), well,
                     ("semantic", None), marks=pytest.mark.slow),
        ("libero_goal", 1, None, never_closing, ("actuation", "grasp")),
        ("libero_goal", 1, None, too_high, ("actuation", "reach")),
        ("libero_goal", 1, None, letting_go, ("actuation", "carry")),
        ("libero_goal", 1, None, idle, ("other", None)),
        ("libero_goal", 0, ("open", f"{CABINET}_top_region"), well, ("semantic", None)),
        ("libero_goal", 0, None, half_way, ("actuation", "move")),
        pytest.param("libero_spatial", 0, ("on", "akita_black_bowl_2", "plate_1"), well,
                     ("semantic", None), marks=pytest.mark.slow),
        ("libero_spatial", 0, ("on", "akita_black_bowl_1", "main_table_next_to_plate_region"),
         well, ("actuation", "place")),
    ],
)  # fmt: skip
def test_failures_made_on_purpose(suite, index, goal, spoil, expected):
    seen = attempt(suite, index, goal=goal, spoil=spoil)
    assert classify(seen) == expected, seen
