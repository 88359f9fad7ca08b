"""Pictures of a simulated scene by software, without the work that changes no pixel."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from libra_vla.images import resize
from libra_vla.simulation.libero.meshes import decimate
from libra_vla.simulation.rendering import drawing_only, visible_geoms

RESTS = np.repeat([1e-4, 1e-3], [3, 9])
"""By how much a resting geom's position (m) and the entries of its rotation may change [12]: far
less than a pixel."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """A picture of what rests before a camera that does not move.

    Attributes:
        geoms: which rest, bool [geoms].
        pose: of all geoms when it was drawn, position and rotation [geoms, 12].
        pixels: uint8 [size, size, 3], as OpenGL has it.
        depth: of what is seen, float32 [size, size] in [0, 1]; the sky's is nearly 1.
        glass: depth of what can be seen through, 1 where nothing can.
    """

    geoms: np.ndarray
    pose: np.ndarray
    pixels: np.ndarray
    depth: np.ndarray
    glass: np.ndarray

    def holds(self, rests: np.ndarray, pose: np.ndarray) -> bool:
        """Whether it shows all that rests, and nothing of it has moved since."""
        return not (rests & ~self.geoms).any() and bool(_alike(self.pose, pose)[self.geoms].all())


class Renderer:
    """An offscreen context of robosuite's, drawn from a copy of the simulation.

    Args:
        sim: robosuite's simulation.
        coarse: draw fewer faces, the mean of `FINER`^2 pixels in place of multisampling, what
            rests once and not at every step, and reflections of nothing that moves, and none
            before a camera that does: the wrist's looks down on mirrors, which show it next to
            nothing. For demonstrations, never for an evaluation. It changes the meshes of `sim`'s
            model.
    """

    FINER = 2
    """Coarse pictures are drawn so many times larger. Drawing them is bound by faces, not by
    pixels; stock ones are smooth, and a policy that learned from jagged ones misplaces things."""
    SAME = 2
    """Levels of 255 by which a pixel may differ from that of the empty scene and still show it."""

    def __init__(self, sim: Any, *, coarse: bool) -> None:
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        self.sim, self.model = sim, sim.model._model
        self.coarse = coarse
        if self.coarse:
            decimate(self.model)
            self.model.vis.quality.offsamples = 0
        self.context = MjRenderContextOffscreen(sim, device_id=-1)
        self.context.vopt.geomgroup[0] = 0  # collision geoms
        self.context.vopt.geomgroup[1] = 1  # visual geoms
        self.mirrors = _mirrors(self.model)
        self.fixed = self.model.body_weldid[self.model.geom_bodyid] == 0
        self.glass = _glass(self.model)
        self.drawn = np.isin(self.model.geom_group, np.flatnonzero(self.context.vopt.geomgroup))
        self.arm = _moved_by_actuators(self.model)
        self._layers: dict[tuple[int, int], _Layer] = {}
        self._poses: dict[int, np.ndarray] = {}
        self._mirrored: dict[tuple[int, int, bytes], tuple[np.ndarray, np.ndarray]] = {}

    def render(self, data: Any, camera: str, size: int) -> np.ndarray:
        """Returns uint8 [size, size, 3], upright."""
        number = self.sim.model.camera_name2id(camera)
        visible = visible_geoms(self.model, data, number) & self.drawn
        mirrors = visible & self.mirrors
        wanted, size = size, size * (self.FINER if self.coarse else 1)
        if not self.coarse or (mirrors & ~self.fixed).any():
            mirrored = bool(mirrors.any())
            pixels = self._draw(data, number, size, visible | mirrored, mirrored=mirrored)
        elif self.model.body_weldid[self.model.cam_bodyid[number]] == 0:
            pixels = self._draw_in_layers(data, number, size, visible)
        else:
            pixels = self._draw(data, number, size, visible, mirrored=False)
        pixels = resize(pixels, wanted)
        # The stock sensor returns OpenGL's rows, the lowest first; the protocol turns them by 180
        # degrees.
        return np.ascontiguousarray(pixels[::-1, ::-1])

    def _draw_in_layers(self, data: Any, camera: int, size: int, visible: np.ndarray) -> np.ndarray:
        """Returns uint8 [size, size, 3], as OpenGL has it, of a camera that does not move.

        Most things rest at most times: they are drawn once, and what moves is drawn by itself and
        put in front of them where it is nearer. LIBERO's lights let nothing cast a shadow.
        """
        pose = np.hstack([data.geom_xpos, data.geom_xmat])
        before = self._poses.get(camera, np.full_like(pose, np.inf))
        self._poses[camera] = pose
        rests = visible & ~self.arm & _alike(before, pose)
        if not rests.any():
            return self._draw_whole(data, camera, size, visible)
        layer = self._layers.get((camera, size))
        if layer is None or not layer.holds(rests, pose):
            layer = self._layers[camera, size] = self._layer(data, camera, size, rests, pose)
        moves = visible & ~layer.geoms
        if (moves & self.glass).any():
            return self._draw_whole(data, camera, size, visible)
        depth = np.empty((size, size), dtype=np.float32)
        pixels = self._draw(data, camera, size, moves, mirrored=False, depth=depth)
        nearer = depth < layer.depth
        if (nearer & (depth > layer.glass)).any():
            return self._draw_whole(data, camera, size, visible)
        np.copyto(pixels, layer.pixels, where=~nearer[..., None])
        return pixels

    def _draw_whole(self, data: Any, camera: int, size: int, visible: np.ndarray) -> np.ndarray:
        """Returns uint8 [size, size, 3], as OpenGL has it, with what mirrors show."""
        pixels = self._draw(data, camera, size, visible, mirrored=False)
        self._reflect(pixels, data, camera, visible)
        return pixels

    def _layer(
        self, data: Any, camera: int, size: int, geoms: np.ndarray, pose: np.ndarray
    ) -> _Layer:
        """Draws geoms, bool [geoms], and what mirrors among them show."""
        depth, glass = np.empty((2, size, size), dtype=np.float32)
        pixels = self._draw(data, camera, size, geoms, mirrored=False, depth=depth)
        self._reflect(pixels, data, camera, geoms)
        materials = self.model.geom_matid[geoms & self.glass]
        alpha = self.model.mat_rgba[materials, 3]
        self.model.mat_rgba[materials, 3] = 1.0  # what can be seen through writes no depth
        try:
            self._draw(data, camera, size, geoms & self.glass, mirrored=False, depth=glass)
        finally:
            self.model.mat_rgba[materials, 3] = alpha
        return _Layer(geoms, pose, pixels, depth, glass)

    def _draw(
        self,
        data: Any,
        camera: int,
        size: int,
        visible: np.ndarray,
        *,
        mirrored: bool,
        depth: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns uint8 [size, size, 3], as OpenGL has it, and fills `depth` [size, size].

        The reflection pass doubles the time, and without a mirror in view it changes nothing. With
        one, what is out of view may yet be seen in it.
        """
        import mujoco

        context = self.context
        context.gl_ctx.make_current()
        viewport = mujoco.MjrRect(0, 0, size, size)
        if size > context.con.offWidth or size > context.con.offHeight:
            context.update_offscreen_size(size, size)
        context.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
        context.cam.fixedcamid = camera
        context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = mirrored
        with drawing_only(self.model, visible):
            mujoco.mjv_updateScene(
                self.model, data, context.vopt, context.pert, context.cam,
                mujoco.mjtCatBit.mjCAT_ALL, context.scn,
            )  # fmt: skip
        mujoco.mjr_render(viewport, context.scn, context.con)
        pixels = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, depth, viewport, context.con)
        return pixels

    def _reflect(self, pixels: np.ndarray, data: Any, camera: int, visible: np.ndarray) -> None:
        """Adds to pixels [size, size, 3] what mirrors show of everything that never moves.

        Where the picture is that of the scene without what moves, that scene's picture with
        reflections is put. It is drawn once per place of the fixtures, instead of at every step.
        """
        if not (visible & self.mirrors).any():
            return
        size, still = len(pixels), visible & self.fixed
        key = (camera, size, data.geom_xpos[still].tobytes())
        if key not in self._mirrored:
            self._mirrored = {
                key: (
                    self._draw(data, camera, size, still, mirrored=False).astype(np.int16),
                    self._draw(data, camera, size, still, mirrored=True),
                )
            }
        plain, bright = self._mirrored[key]
        unchanged = (np.abs(pixels - plain) <= self.SAME).all(axis=-1)
        pixels[unchanged] = bright[unchanged]


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which of two times [geoms, 12] geoms are in the same pose, bool [geoms]."""
    return np.all(np.abs(one - other) < RESTS, axis=1)


def _moved_by_actuators(model: Any) -> np.ndarray:
    """Geoms of the bodies that actuators move, and of what these carry, bool [geoms]."""
    moved = np.isin(np.arange(model.nbody), model.jnt_bodyid[model.actuator_trnid[:, 0]])
    for body in range(1, model.nbody):  # parents come first
        moved[body] |= moved[model.body_parentid[body]]
    return moved[model.geom_bodyid]


def _glass(model: Any) -> np.ndarray:
    """Geoms that can be seen through, bool [geoms]."""
    return (model.geom_matid >= 0) & (model.mat_rgba[model.geom_matid, 3] < 1.0)


def _mirrors(model: Any) -> np.ndarray:
    """Geoms that MuJoCo draws reflections on, bool [geoms]: visible planes and boxes only."""
    import mujoco

    flat = np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX))
    drawn = flat & (model.geom_matid >= 0) & np.isin(model.geom_group, (1, 2))
    return drawn & (model.mat_reflectance[model.geom_matid] > 0)
