"""Privileged view of a LIBERO scene: poses, joints and collision surfaces.

Only scripted experts look here; policies see images and proprioception.
"""

from typing import Any

import numpy as np

from libra_vla.simulation.libero.goals import Goal

SPACING = 0.006
"""Metres between surface samples; the narrowest part of the hand is 19 mm wide."""
FLOOR_GAP = 0.02
"""Metres by which a region's box may end above the floor of a compartment."""
SURFACE_RADIUS = 0.03
"""Metres around a receptacle's centre in which its highest point is its surface."""
ELBOW = 3
"""The arm's joint, counted from the base, that bends its elbow."""
FLAT = 0.005
"""Half height (m) of a region up to which it is a place on top of its owner, no compartment."""


class Scene:
    """Live poses and collision surfaces of one simulation.

    Must be made anew after every reset: robosuite may compile a new model.

    Args:
        robosuite_env: LIBERO's robosuite environment.

    Attributes:
        fingers: where the two fingers are in `qpos`.
        base: position of the robot's base [3], metres.
    """

    def __init__(self, robosuite_env: Any) -> None:
        self.env = robosuite_env
        self.model = robosuite_env.sim.model._model
        self.data = robosuite_env.sim.data._data
        robot = robosuite_env.robots[0]
        self._site = robot.eef_site_id
        self._elbow = robot._ref_joint_pos_indexes[ELBOW]
        self._straight = self.model.jnt_range[robot._ref_joint_indexes[ELBOW], 1]
        self.fingers = robot._ref_gripper_joint_pos_indexes
        self._finger_of = {
            self.model.geom(name).id: side
            for side in ("left", "right")
            for name in robot.gripper.important_geoms[f"{side}_finger"]
        }
        self.base = np.array(self.data.body("robot0_base").xpos)
        self._surfaces = self._sample_surfaces()

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] (m) and rotation [3, 3] of the grip site; its z axis is the approach."""
        position = np.array(self.data.site_xpos[self._site])
        return position, np.array(self.data.site_xmat[self._site]).reshape(3, 3)

    def elbow(self) -> float:
        """Angle (rad) by which the elbow is bent; 0 where it can be no straighter."""
        return float(self._straight - self.data.qpos[self._elbow])

    def fingers_on(self, root: int) -> int:
        """How many of the two fingers touch something that hangs on the body `root`."""
        touched = set()
        for contact in self.data.contact[: self.data.ncon]:
            pair = int(contact.geom1), int(contact.geom2)
            for geom, other in (pair, pair[::-1]):
                finger = self._finger_of.get(geom)
                if finger and self._hangs_on(int(self.model.geom_bodyid[other]), root):
                    touched.add(finger)
        return len(touched)

    def _hangs_on(self, body: int, root: int) -> bool:
        while body > root:  # a body's number is larger than its parent's
            body = int(self.model.body_parentid[body])
        return body == root

    def opening(self) -> float:
        """Metres between the fingers, 0 to 0.08."""
        left, right = self.data.qpos[self.fingers]
        return float(left - right)

    def pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] (m) and rotation [3, 3] of an object's origin."""
        body = self.env.obj_body_id[name]
        return np.array(self.data.xpos[body]), np.array(self.data.xmat[body]).reshape(3, 3)

    def free_joint(self, name: str) -> slice:
        """Where the pose of a movable object is in `qpos`: 3 m, then a quaternion, w first."""
        body = self.env.obj_body_id[name]
        start = int(self.model.jnt_qposadr[self.model.body_jntadr[body]])
        return slice(start, start + 7)

    def speed(self, name: str) -> float:
        """Speed of an object in m/s."""
        return float(np.linalg.norm(self.data.cvel[self.env.obj_body_id[name]][3:]))

    def holds(self, goal: Goal) -> bool:
        """LIBERO's own check of one goal."""
        return bool(self.env._eval_predicate(list(goal.names)))

    def rests(self, goal: Goal) -> bool:
        """Tells whether an object lies in the region that it was put into, down to its floor.

        The box that LIBERO checks need not reach down to where an object comes to rest: a book
        that stands in the caddy has its origin 3 mm below.
        """
        receptacle = goal.receptacle
        if goal.predicate != "in" or receptacle not in self.env.object_sites_dict:
            return False
        assert receptacle is not None
        centre, half = self.region(receptacle)
        off = self.pose(goal.target)[0] - centre
        return bool((np.abs(off) < half + np.array([0.0, 0.0, FLOOR_GAP])).all())

    def succeeded(self) -> bool:
        """LIBERO's own check of the whole task."""
        return bool(self.env._check_success())

    def points(self, *, only: str | None = None, without: str | None = None) -> np.ndarray:
        """World positions [K, 3] of samples on collision surfaces, tables left out.

        Args:
            only: an object or fixture; by default all of them.
            without: an object to leave out.
        """
        chosen = []
        for root, bodies in self._surfaces.items():
            if (only is None or root == self._root(only)) and (
                without is None or root != self._root(without)
            ):
                for body, local in bodies.items():
                    rotation = self.data.xmat[body].reshape(3, 3)
                    chosen.append(local @ rotation.T + self.data.xpos[body])
        return np.concatenate(chosen) if chosen else np.empty((0, 3))

    def receptacle(self, name: str) -> tuple[np.ndarray, float]:
        """Centre [2] (m) and height (m) of the surface on which a receptacle carries objects."""
        if name in self.env.obj_body_id:
            owner, centre = name, self.pose(name)[0]
            points = self.points(only=owner)
        else:
            owner, (centre, half) = self.owner(name), self.region(name)
            if owner is None:
                return centre[:2].copy(), float(centre[2])
            points = self.points(only=owner)
            if half[2] > FLAT:
                # Walls and other drawers rise above the region's middle; what carries is below.
                # A flat region may lie inside of its owner: the stove's is 2 cm below the burner.
                points = points[points[:, 2] < centre[2] + SURFACE_RADIUS / 2]
        near = np.linalg.norm(points[:, :2] - centre[:2], axis=1) < SURFACE_RADIUS
        if not near.any():
            return centre[:2], float(centre[2])
        return centre[:2], float(points[near, 2].max())

    def region(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Centre [3] and half sizes along the world's axes [3] of a region, metres."""
        site = self.data.site(name)
        half = np.abs(site.xmat.reshape(3, 3)) @ self.model.site(name).size
        return np.array(site.xpos), half

    def upright(self, region: str) -> np.ndarray:
        """Unit vector [3] along which an object stands in a region; a rack's is tipped over."""
        return np.array(self.data.site(region).xmat.reshape(3, 3)[:, 2])

    def front(self, region: str) -> np.ndarray:
        """Unit vector [3] out of the front of the fixture that a region belongs to."""
        owner = self.owner(region)
        assert owner is not None
        return -self.pose(owner)[1][:, 1]

    def owner(self, region: str) -> str | None:
        """The object or fixture that a region belongs to; None for a region of the table."""
        parent = self.env.object_states_dict[region].parent_name
        return parent if parent in self.env.obj_body_id else None

    def joint(self, name: str) -> "Joint":
        """The joint of a fixture (a stove's knob, a microwave's door) or of a cabinet's drawer."""
        holder = self.env.object_sites_dict.get(name) or self.env.get_object(name)
        return Joint(self, self.model.joint(holder.joints[0]).id)

    def body_points(self, body: int) -> np.ndarray:
        """World positions [K, 3] of samples on the collision surfaces of one body."""
        local = self._surfaces[int(self.model.body_rootid[body])][body]
        return local @ self.data.xmat[body].reshape(3, 3).T + self.data.xpos[body]

    def _root(self, name: str) -> int:
        return int(self.model.body_rootid[self.env.obj_body_id[name]])

    def _sample_surfaces(self) -> dict[int, dict[int, np.ndarray]]:
        """Samples all collision boxes but the robot's and the table's, by root body and body."""
        import mujoco

        model = self.model
        known = {int(model.body_rootid[body]) for body in self.env.obj_body_id.values()}
        surfaces: dict[int, dict[int, list[np.ndarray]]] = {}
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            root = int(model.body_rootid[body])
            collides = model.geom_contype[geom] or model.geom_conaffinity[geom]
            if root not in known or not collides:
                continue
            if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_BOX:
                continue  # LIBERO's objects and fixtures collide as boxes
            rotation = np.empty(9)
            mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            local = _box_surface(model.geom_size[geom]) @ rotation.reshape(3, 3).T
            surfaces.setdefault(root, {}).setdefault(body, []).append(local + model.geom_pos[geom])
        return {
            root: {body: _thin(np.concatenate(parts)) for body, parts in bodies.items()}
            for root, bodies in surfaces.items()
        }


class Joint:
    """A hinge or slide of a fixture.

    Attributes:
        body: what it moves.
    """

    def __init__(self, scene: Scene, index: int) -> None:
        self._data, self._index = scene.data, index
        self._address = int(scene.model.jnt_qposadr[index])
        self.body = int(scene.model.jnt_bodyid[index])

    @property
    def value(self) -> float:
        """Angle (rad) or way (m)."""
        return float(self._data.qpos[self._address])

    @property
    def axis(self) -> np.ndarray:
        """Unit vector [3] about or along which it moves."""
        return np.array(self._data.xaxis[self._index])

    @property
    def anchor(self) -> np.ndarray:
        """A point [3] on a hinge's axis, metres."""
        return np.array(self._data.xanchor[self._index])


def _box_surface(half: np.ndarray) -> np.ndarray:
    """Samples the surface of a box with half sizes [3] (m); returns points [K, 3]."""
    axes = [np.linspace(-h, h, max(2, int(np.ceil(2 * h / SPACING)) + 1)) for h in half]
    faces = []
    for axis in range(3):
        ends = [axes[i] if i != axis else axes[i][[0, -1]] for i in range(3)]
        faces.append(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    return np.concatenate(faces)


def _thin(points: np.ndarray) -> np.ndarray:
    """Keeps one of the samples [K, 3] in each cell of half the spacing: boxes overlap."""
    cells = np.round(points / (SPACING / 2)).astype(np.int64)
    _, kept = np.unique(cells, axis=0, return_index=True)
    return points[np.sort(kept)]
