"""Watches a LIBERO scene while an episode runs, at a fraction of a control step's cost."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.events import Events, GoalEvents, Thing
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.probes import goal_here

SQUEEZED = 0.7
"""Least cosine between a contact's normal and the way of the fingers when these squeeze."""
STIRRED = 0.02
"""Metres that a thing moves before it counts as over its receptacle: it may begin there."""


@dataclass(frozen=True)
class Part:
    """A drawer, door or knob.

    Attributes:
        body: what its joint moves.
        address: of the joint in `qpos`.
        reach: metres that its rim moves per unit of the joint: 1 for a drawer.
    """

    body: int
    address: int
    reach: float


class LiberoWitness:
    """Takes note of the state after every control step; nothing is rendered or changed.

    Made right after a reset: how the scene is then is the start of the episode.

    Args:
        env: the environment that is going to be stepped.
        task: whose goals count, its own by default; see
            `libra_vla.simulation.libero.probes.goal_here`.
    """

    def __init__(self, env: LiberoEnv, task: Task | None = None) -> None:
        self._env = scene = env.robosuite_env
        self._model, self._data = scene.sim.model._model, scene.sim.data._data
        self._site = scene.robots[0].eef_site_id
        self._objects = list(scene.objects_dict)
        self._bodies = np.array([scene.obj_body_id[name] for name in self._objects], dtype=int)
        self._parts = dict(_parts(scene))
        self._names = [*self._objects, *self._parts]
        told = None if task in (None, env.task) else goal_here(env.task, task)
        self._goals = [tuple(goal) for goal in told or scene.parsed_problem["goal_state"]]
        self._placed = [(i, g[1], g[2]) for i, g in enumerate(self._goals) if len(g) == 3]
        self._index_geoms()
        count = len(self._names)
        self._nearest, self._moved, self._lifted = np.full(count, np.inf), *np.zeros((2, count))
        self._touched, self._gripped = np.zeros((2, count), dtype=int)
        self._over = np.zeros(len(self._goals), dtype=bool)
        self._held, self._left = np.zeros(count, dtype=bool), np.zeros(count)
        self._start, self._joints_start = self._data.xpos[self._bodies].copy(), self._joints()
        self._held_before = {name: self._holders(name) for name in self._objects}

    def look(self) -> None:
        """Takes note of the present moment."""
        self._nearest = np.minimum(self._nearest, self._distances())
        touched, gripped = self._contacts()
        self._touched += touched
        self._gripped += gripped
        way = self._data.xpos[self._bodies] - self._start
        moved = np.linalg.norm(way, axis=1), abs(self._joints() - self._joints_start)
        self._moved = np.maximum(self._moved, np.concatenate(moved))
        objects = slice(len(self._objects))
        up = np.where(gripped[objects], way[:, 2], 0.0)
        self._lifted[objects] = np.maximum(self._lifted[objects], up)
        self._held = gripped
        self._left[objects] = np.where(gripped[objects], way[:, 2], self._left[objects])
        for index, name, receptacle in self._placed:
            if self._moved[self._names.index(name)] >= STIRRED and not self._over[index]:
                self._over[index] = self._is_over(name, receptacle)

    def events(self) -> Events:
        """What has happened so far, and how things stand."""
        goals = tuple(
            GoalEvents(
                predicate=goal[0],
                thing=goal[1],
                receptacle=goal[2] if len(goal) == 3 else None,
                met=bool(self._env._eval_predicate(list(goal))),
                over=bool(over),
            )
            for goal, over in zip(self._goals, self._over, strict=True)
        )
        return Events(goals, {name: self._thing(i, name) for i, name in enumerate(self._names)})

    def _thing(self, index: int, name: str) -> Thing:
        thing = Thing(
            part=name in self._parts,
            nearest=float(self._nearest[index]),
            touched=int(self._touched[index]),
            gripped=int(self._gripped[index]),
            moved=float(self._moved[index]),
            lifted=float(self._lifted[index]),
        )
        if thing.part or not thing.touched:
            return thing
        risen = self._data.xpos[self._bodies[index], 2] - self._start[index, 2]
        left_alone = thing.gripped > 0 and not self._held[index]
        return replace(
            thing,
            fell=float(self._left[index] - risen) if left_alone else None,
            rests=tuple(sorted(self._holders(name) - self._held_before[name])),
        )

    def _index_geoms(self) -> None:
        """Whose every geom is, and the colliding ones of all things, thing by thing."""
        import mujoco

        model, parents = self._model, self._model.body_parentid
        owner_of_body = np.full(model.nbody, -1)
        owner_of_body[self._bodies] = np.arange(len(self._bodies))
        for index, part in enumerate(self._parts.values(), start=len(self._bodies)):
            owner_of_body[part.body] = index
        for body in range(1, model.nbody):  # parents come before their children
            if owner_of_body[body] < 0:
                owner_of_body[body] = owner_of_body[parents[body]]
        self._owner = owner_of_body[model.geom_bodyid]
        collides = (model.geom_contype | model.geom_conaffinity) > 0
        geoms = np.flatnonzero(collides & (self._owner >= 0))
        self._geoms = geoms[np.argsort(self._owner[geoms], kind="stable")]
        self._solid, self._first = np.unique(self._owner[self._geoms], return_index=True)
        # LIBERO's objects and fixtures collide as boxes; of anything else, its bounding sphere's.
        boxes = (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)[self._geoms, None]
        spheres = model.geom_rbound[self._geoms, None]
        self._half = np.where(boxes, model.geom_size[self._geoms], spheres)
        fingers = self._env.robots[0].gripper.important_geoms
        self._finger = np.zeros(model.ngeom, dtype=int)
        self._pads = []
        for side, name in enumerate(("left_finger", "right_finger"), start=1):
            ids = [model.geom(geom).id for geom in fingers[name]]
            self._finger[ids] = side
            self._pads.append(ids[-1])

    def _joints(self) -> np.ndarray:
        """Where the rims of all parts are along their ways, m [P]."""
        reach = np.array([part.reach for part in self._parts.values()])
        return reach * self._data.qpos[[part.address for part in self._parts.values()]]

    def _distances(self) -> np.ndarray:
        """Metres from the grip site to the surface of every thing [T]; 0 within it."""
        data, geoms = self._data, self._geoms
        off = data.site_xpos[self._site] - data.geom_xpos[geoms]
        local = np.einsum("gji,gj->gi", data.geom_xmat[geoms].reshape(-1, 3, 3), off)
        outside = np.linalg.norm(np.maximum(abs(local) - self._half, 0.0), axis=1)
        found = np.full(len(self._names), np.inf)
        found[self._solid] = np.minimum.reduceat(outside, self._first)
        return found

    def _contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """Which things a finger touches, and which both fingers squeeze, bool [T] each."""
        contacts = self._data.contact
        one, two = contacts.geom1, contacts.geom2
        side = self._finger[one] + self._finger[two]
        thing = np.maximum(self._owner[one], self._owner[two])
        of_finger = np.flatnonzero((side > 0) & (thing >= 0))
        touched = np.zeros(len(self._names), dtype=bool)
        squeezed = np.zeros((3, len(self._names)), dtype=bool)
        if len(of_finger):
            left, right = self._data.geom_xpos[self._pads]
            across = (right - left) / max(float(np.linalg.norm(right - left)), 1e-9)
            normals = contacts.frame.reshape(-1, 9)[of_finger, :3]
            touched[thing[of_finger]] = True
            pressing = of_finger[abs(normals @ across) > SQUEEZED]
            squeezed[side[pressing], thing[pressing]] = True
        return touched, squeezed[1] & squeezed[2]

    def _is_over(self, name: str, receptacle: str) -> bool:
        """Whether an object's origin is above the outline of a receptacle."""
        env, data = self._env, self._data
        if receptacle in env.obj_body_id:
            centre = data.xpos[env.obj_body_id[receptacle]]
            half = np.full(2, env.get_object(receptacle).horizontal_radius)
        else:
            site = data.site(receptacle)
            centre = site.xpos
            half = (abs(site.xmat.reshape(3, 3)) @ self._model.site(receptacle).size)[:2]
        off = (data.xpos[env.obj_body_id[name]] - centre)[:2]
        return bool((abs(off) < half).all())

    def _holders(self, name: str) -> set[str]:
        """Other objects, and regions of objects and fixtures, that hold an object now."""
        env, states = self._env, self._env.object_states_dict
        questions = [("on", other) for other in self._objects if other != name]
        for region in env.object_sites_dict:
            owner = states[region].parent_name  # None of a region of the table, which holds nothing
            if owner in env.obj_body_id and owner != name:
                questions += [("on", region), ("in", region)]
        return {other for word, other in questions if env._eval_predicate([word, name, other])}


def _parts(scene: Any) -> Iterator[tuple[str, Part]]:
    """The parts that move, by the names that goals have for them: a drawer's region, a fixture."""
    import mujoco

    model = scene.sim.model._model
    regions = {
        joint: name for name, site in scene.object_sites_dict.items() for joint in site.joints or ()
    }
    for fixture in scene.fixtures_dict.values():
        for name in fixture.joints:
            joint = model.joint(name).id
            body = int(model.jnt_bodyid[joint])
            mine = np.flatnonzero(model.geom_bodyid == body)
            rim = np.linalg.norm(model.geom_pos[mine] - model.jnt_pos[joint], axis=1)
            slides = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE
            reach = 1.0 if slides else float((rim + model.geom_rbound[mine]).max(initial=0.0))
            yield regions.get(name, fixture.name), Part(body, int(model.jnt_qposadr[joint]), reach)
