"""The tasks of Meta-World 3 and their instructions, known without starting a simulator.

Meta-World tells tasks apart by name; the sentences are ours.
"""

import numpy as np

from libra_vla.errors import unknown
from libra_vla.simulation.benchmark import Task

INSTRUCTIONS = {
    "assembly": "pick up the ring by its handle and put it over the peg",
    "basketball": "put the ball into the basket",
    "bin-picking": "move the cube from one bin into the other",
    "box-close": "put the lid on the box",
    "button-press-topdown": "press the button down from above",
    "button-press-topdown-wall": "press the button behind the wall down from above",
    "button-press": "push the button in",
    "button-press-wall": "reach around the wall and push the button in",
    "coffee-button": "push the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "lift the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "hand-insert": "take the block down into the hole",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-open": "turn the faucet on",
    "faucet-close": "turn the faucet off",
    "hammer": "drive the nail into the wall with the hammer",
    "handle-press-side": "press the handle down from the side",
    "handle-press": "press the handle down",
    "handle-pull-side": "pull the handle up from the side",
    "handle-pull": "pull the handle up",
    "lever-pull": "pull the lever up",
    "pick-place-wall": "pick up the puck and bring it to the goal over the wall",
    "pick-out-of-hole": "lift the puck out of the hole",
    "pick-place": "pick up the puck and bring it to the goal",
    "plate-slide": "slide the plate into the cabinet",
    "plate-slide-side": "slide the plate sideways into the cabinet",
    "plate-slide-back": "slide the plate back out of the cabinet",
    "plate-slide-back-side": "slide the plate sideways out of the cabinet",
    "peg-insert-side": "insert the peg into the hole from the side",
    "peg-unplug-side": "pull the peg out of its socket",
    "soccer": "kick the ball into the net",
    "stick-push": "push the thermos with the stick",
    "stick-pull": "pull the thermos with the stick",
    "push": "push the puck to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "push-back": "push the block back to the goal",
    "reach": "reach for the goal",
    "reach-wall": "reach for the goal past the wall",
    "shelf-place": "put the block on the shelf",
    "sweep-into": "sweep the block into the hole",
    "sweep": "sweep the block off the table",
    "window-open": "slide the window open",
    "window-close": "slide the window closed",
}
"""Name -> instruction, in Meta-World's order of MT50."""

SUITES = {
    "metaworld_mt10": (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "window-close",
    ),
    "metaworld_mt50": tuple(INSTRUCTIONS),
}
"""Suite -> names of its tasks, in Meta-World's order."""

ACTION_REPEAT = 2
"""Simulator steps of 12.5 ms that one action is held for: a control step of 25 ms."""
STEP_BUDGET = 500 // ACTION_REPEAT
"""Control steps per episode: Meta-World's own 500 simulator steps."""
OFFICIAL_TRIALS = 50
FIRST_OFFICIAL_SEED = 2**31
"""Evaluations start from this seed and those after it; demonstrations from lower ones."""


def load_tasks(suite: str) -> list[Task]:
    """Returns the tasks of a suite.

    Raises:
        LibraError: unknown suite, with the nearest match.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    return [
        Task(suite, index, name, INSTRUCTIONS[name], STEP_BUDGET)
        for index, name in enumerate(SUITES[suite])
    ]


def official_states(task: Task) -> np.ndarray:
    """Returns the seeds that stand for the evaluation's initial states, float64 [50, 1].

    Meta-World draws everything that varies (objects and goals) from a seed, and publishes no
    states of its own. The same seed gives the same scene of a task in both suites.
    """
    return FIRST_OFFICIAL_SEED + np.arange(OFFICIAL_TRIALS, dtype=np.float64)[:, None]
