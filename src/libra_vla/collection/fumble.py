"""A grasp or a placement that misses: what small policies do, and then do not get out of."""

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import Environment, Expert

FIRST = 2 / 3
"""How often it is the first change of the gripper that goes wrong, which is mostly a grasp, and not
the second, mostly a placement."""
BACK = 12
"""Most control steps that are undone before the hand is shifted."""
ASIDE = (1, 5)
"""Control steps of the shift at full speed."""
KEPT = 8
"""Control steps for which the fingers are then closed, or open, beside the place."""
UNAWARE = 1 / 2
"""How often the hand then goes back the way it came, as one that has noticed nothing: where a
policy sees its closed, empty fingers, it is on its way already."""


def fumble(
    env: Environment, expert: Expert, *, rng: np.random.Generator, noise: float, max_steps: int
) -> int:
    """Lets the expert work until it closes or opens its fingers, and spoils that.

    The last actions are undone, the hand is moved aside, the actions are done again, and there the
    fingers move: beside the object, which may be knocked over, or beside its target. Sometimes the
    hand goes away from there before the expert gets to look.

    Args:
        rng: of the moment, the shift and the noise.
        noise: standard deviation of what is added to the expert's commands.
        max_steps: control steps that the expert has until then.

    Returns:
        Control steps that were taken; 0 where such a moment never came.

    Raises:
        LibraError: there is no gripper.
    """
    convention = env.convention
    if convention.gripper is None:
        raise LibraError("this robot has no gripper to fumble with: leave out --fumble")
    moving = np.arange(convention.size) != convention.gripper
    to_come = 1 if rng.random() < FIRST else 2
    done: list[np.ndarray] = []
    expert.reset()
    while not expert.done and len(done) < max_steps:
        action = expert.act()
        if done and action[convention.gripper] != done[-1][convention.gripper]:
            to_come -= 1
            if to_come == 0:
                missed = _miss(done, float(action[convention.gripper]), env, rng)
                for spoilt in missed:
                    env.step(spoilt)
                return len(done) + len(missed)
        action = action.copy()
        action[moving] += noise * rng.standard_normal(moving.sum())
        done.append(np.clip(action, -1.0, 1.0))
        env.step(done[-1])
    return 0


def _miss(
    done: list[np.ndarray], fingers: float, env: Environment, rng: np.random.Generator
) -> list[np.ndarray]:
    """The actions that miss, after those that were `done`."""
    convention, gripper = env.convention, env.convention.gripper
    last = done[-BACK:]
    again = last[len(last) - int(rng.integers(len(last) + 1)) :]
    lengths = np.array([not unit.endswith("rad") for unit in convention.units])
    lengths &= np.arange(convention.size) != gripper
    aside = np.where(lengths, rng.standard_normal(convention.size), 0.0)
    # Across the way that led here, or it would only be a longer or a shorter one.
    way = np.where(lengths, np.sum(last, axis=0), 0.0)
    aside -= way * (aside @ way) / max(float(way @ way), 1e-9)
    aside /= np.linalg.norm(aside)
    approach = [*(-a for a in reversed(again)), *[aside] * int(rng.integers(*ASIDE)), *again]
    away = list(reversed(last))[: int(rng.integers(1, len(last) + 1))]
    away = [-a for a in away] if rng.random() < UNAWARE else []
    spoilt = np.array([*approach, *[np.zeros(convention.size)] * KEPT, *away])
    spoilt[: len(approach), gripper] = done[-1][gripper]
    spoilt[len(approach) :, gripper] = fingers
    return list(spoilt)
