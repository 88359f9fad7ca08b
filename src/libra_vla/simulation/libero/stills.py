"""Stills: what a scene looks like with the hand somewhere, and where its things are.

A demonstration of a hundred pictures shows one scene, and costs seconds of simulation. A still
costs a tenth of a second, since nothing moves: the arm is put into place by kinematics alone. Only
where a task goes on once its first goal holds, the expert brings that about in some scenes first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import Places, Still, Task
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.expert import ScriptedExpert
from libra_vla.simulation.libero.goals import Goal, is_drawer, is_pushed, task_goals
from libra_vla.simulation.libero.grasping import hand_rotation
from libra_vla.simulation.libero.reach import reach
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.grips import choose_grasp
from libra_vla.simulation.libero.skills.motion import lean
from libra_vla.simulation.libero.skills.placing import plan_placement
from libra_vla.simulation.libero.suites import SUITES, load_tasks, problem

GOALS = 2
"""Goals of a task that a still says what they are about: hardly any has more."""
ATTEMPTS = 5
"""Poses drawn for a still before it is given up."""
BEGUN, PATIENCE = 0.5, 250
"""Share of the scenes of tasks with several goals where the first one holds already, since things
look otherwise then; and the control steps that the expert has for it."""
HELD = 0.3
"""Share of the stills with an object in the hand, in tasks that are about one."""
SHUT = 0.25
"""Share of the other stills with closed fingers."""
WIDTH, OPEN = 0.08, (0.9, 1.0)
"""Metres between fingers that are wide open, and the part of it by which open ones are."""
NEAR, AROUND, ABOVE = 0.65, (0.02, 0.05, 0.10), 0.02
"""Share of the stills with the hand near one of the places; standard deviations (m) of its distance
to the side, one of which is drawn; and its least height (m) over the place."""
ROOM = np.array([[-0.25, 0.20], [-0.35, 0.35], [0.05, 0.40]])
"""Where the hand is otherwise: x and y in the world, and the height over the lowest place (m)."""
TURNED, ANYHOW, TILTED = 0.5, 0.3, 0.12
"""Standard deviation (rad) of the yaw; share of the stills with any yaw at all; standard deviation
(rad) of the tilt."""


@dataclass(frozen=True)
class Load:
    """An object in the hand: how it lies there, by its pose and that of a hand about to grasp it.

    Attributes:
        goal: number of the goal that it is the thing of.
        joints: where its pose is in the scene's joint positions: 3 m, then a quaternion.
        site, hand: grip site [3] (m) and rotation [3, 3] of that hand.
        position, rotation: of the object, [3] (m) and [3, 3].
        width: between the fingers, m.
    """

    goal: int
    joints: slice
    site: np.ndarray
    hand: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    width: float

    def above(self, places: np.ndarray) -> np.ndarray:
        """Where a hand is [3] that holds it right above the place where it is to go."""
        return places[2 * self.goal + 1] + [0.0, 0.0, self.site[2] - self.position[2]]

    def carried(self, site: np.ndarray, hand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the object is, position [3] and rotation [3, 3], once the hand is elsewhere."""
        turn = hand @ self.hand.T
        return site + turn @ (self.position - self.site), turn @ self.rotation


@cache
def place_names() -> tuple[str, ...]:
    """What LIBERO's scenes have places for: all objects, and what goals speak of besides."""
    names: set[str] = set()
    for task in (task for suite in SUITES for task in load_tasks(suite)):
        names.update(name for some in problem(task)["objects"].values() for name in some)
        try:
            names.update(asked(task_goals(task)))
        except LibraError:  # nothing that anybody demonstrates
            continue
    return tuple(sorted(names))


def asked(goals: tuple[Goal, ...]) -> tuple[str, ...]:
    """Names of the places [2 * GOALS] that a task is about.

    For each goal the thing and what it is to be put on or into; a fixture's part is its own
    receptacle, and a task's only goal is both.
    """
    pairs = [(goal.target, goal.receptacle or goal.target) for goal in (goals * GOALS)[:GOALS]]
    return tuple(name for pair in pairs for name in pair)


def places(scene: Scene) -> dict[str, np.ndarray]:
    """Where everything is that a scene has of `place_names`, metres [3] each."""
    known = scene.env.object_states_dict
    return {name: _place(scene, name) for name in place_names() if name in known}


def whereabouts(env: LiberoEnv) -> Callable[[], Places]:
    """A look at where everything is in a scene, just reset, at any later moment."""
    return partial(places, Scene(env.robosuite_env))


def asked_by(task: Task) -> tuple[str, ...]:
    """Names of the places [2 * GOALS] that a task is about."""
    return asked(task_goals(task))


def _place(scene: Scene, name: str) -> np.ndarray:
    """An object's origin, the middle of a drawer or of a fixture's knob or door, or the surface of
    a region."""
    if is_drawer(name) or name in scene.env.fixtures_dict:
        return scene.body_points(scene.joint(name).body).mean(axis=0)
    if name in scene.env.objects_dict:
        return scene.pose(name)[0]
    centre, height = scene.receptacle(name)
    return np.array([*centre, height])


def stills(env: LiberoEnv, count: int, rng: np.random.Generator) -> list[Still]:
    """Looks at a scene, just reset, with the hand in up to `count` places that are drawn.

    Most are near something that the task is about yet, where centimetres count; those out of the
    arm's reach are left out.
    """
    goals = task_goals(env.task)
    met = 1 if len(goals) > 1 and rng.random() < BEGUN and _begin(env, goals[0]) else 0
    scene, names = Scene(env.robosuite_env), asked(goals)
    initial, found = np.array(env.robosuite_env.sim.data.qpos), places(scene)
    where = np.array([found[name] for name in names])
    left = range(met, min(GOALS, len(goals)))
    loads = [load for number in left if (load := _load(scene, goals, number))]
    taken = []
    for _ in range(count):
        load = loads[rng.integers(len(loads))] if loads and rng.random() < HELD else None
        if _put(env, scene, where, where[2 * met :], load, rng):
            taken.append(Still(env.observe(), places(scene), names))
        env.pose(initial)
    return taken


def _begin(env: LiberoEnv, first: Goal) -> bool:
    """Has the expert bring the first goal about, and returns whether it holds; without that the
    scene is as it was."""
    initial = np.array(env.robosuite_env.sim.data.qpos)
    expert = ScriptedExpert(env)
    expert.reset()
    for _ in range(PATIENCE):
        env.step(expert.act())
        if expert.done or expert.goal != first:
            break
    if expert.goal != first and Scene(env.robosuite_env).holds(first):
        return True
    env.pose(initial)
    return False


def _put(
    env: LiberoEnv,
    scene: Scene,
    where: np.ndarray,
    wanted: np.ndarray,
    load: Load | None,
    rng: np.random.Generator,
) -> bool:
    """Puts the hand somewhere, most often near one of the `wanted` places [n, 3], and in it what it
    holds; returns whether anything was in reach.

    `where` [2 * GOALS, 3] are all places that the task is about.
    """
    initial = np.array(env.robosuite_env.sim.data.qpos)
    for _ in range(ATTEMPTS):
        near = load.above(where) if load else wanted[rng.integers(len(wanted))]
        joints = reach(env.robosuite_env, initial, *_hand(near, where[:, 2].min(), rng))
        if joints is not None:
            break
    else:
        return False
    shut = rng.random() < SHUT
    width = load.width if load else 0.0 if shut else WIDTH * rng.uniform(*OPEN)
    joints[scene.fingers] = width / 2, -width / 2
    env.pose(joints)
    if load is not None:
        position, rotation = load.carried(*scene.hand())
        joints[load.joints] = *position, *_quaternion(rotation)
        env.pose(joints)
    return True


def _hand(
    near: np.ndarray, lowest: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a grip site [3] (m) and the rotation [3, 3] of a hand that points down, roughly."""
    if rng.random() < NEAR:
        spread = rng.choice(AROUND)
        off = [*rng.normal(0.0, spread, 2), rng.uniform(ABOVE, 0.1 + 2.0 * spread)]
        site = near + np.array(off)
    else:
        site = rng.uniform(*ROOM.T) + np.array([0.0, 0.0, lowest])
    yaw = rng.uniform(-np.pi / 2, np.pi / 2) if rng.random() < ANYHOW else rng.normal(0.0, TURNED)
    way = rng.uniform(0.0, 2.0 * np.pi)
    tilt = lean(np.array([np.cos(way), np.sin(way), 0.0]), abs(rng.normal(0.0, TILTED)))
    return site, tilt @ hand_rotation(yaw)


def _load(scene: Scene, goals: tuple[Goal, ...], number: int) -> Load | None:
    """The thing of a goal as the expert would hold it; None where nothing is to be carried."""
    goal = goals[number]
    if goal.receptacle is None or is_pushed(goal):
        return None
    position, rotation = scene.pose(goal.target)
    place = plan_placement(scene, goal, scene.points(only=goal.target), position).position
    grasp = choose_grasp(scene, goal, place, [])
    if grasp is None:
        return None
    return Load(
        goal=number,
        joints=scene.free_joint(goal.target),
        site=position + rotation @ grasp.offset,
        hand=grasp.hand(grasp.yaw_of(rotation @ grasp.axis)),
        position=position,
        rotation=rotation,
        width=grasp.width,
    )


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] -> MuJoCo's quaternion [4], w first."""
    import mujoco

    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    return quaternion
