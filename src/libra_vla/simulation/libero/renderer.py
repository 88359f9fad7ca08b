"""Pictures of a simulated scene by software, without the work that changes no pixel."""

from typing import Any

import numpy as np

from libra_vla.images import resize
from libra_vla.simulation.libero.meshes import decimate
from libra_vla.simulation.rendering import drawing_only, visible_geoms


class Renderer:
    """An offscreen context of robosuite's, drawn from a copy of the simulation.

    Args:
        sim: robosuite's simulation.
        coarse: draw fewer faces, the mean of `FINER`^2 pixels in place of multisampling, and
            reflections of nothing that moves: for demonstrations, never for an evaluation. It
            changes the meshes of `sim`'s model.
        downward: MuJoCo's name of a camera that looks down on mirrors, which show it next to
            nothing; without reflections if `coarse`.
    """

    FINER = 2
    """Coarse pictures are drawn so many times larger. Drawing them is bound by faces, not by
    pixels; stock ones are smooth, and a policy that learned from jagged ones misplaces things."""
    SAME = 2
    """Levels of 255 by which a pixel may differ from that of the empty scene and still show it."""

    def __init__(self, sim: Any, *, coarse: bool, downward: str) -> None:
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        self.sim, self.model = sim, sim.model._model
        self.coarse, self.downward = coarse, downward
        if self.coarse:
            decimate(self.model)
            self.model.vis.quality.offsamples = 0
        self.context = MjRenderContextOffscreen(sim, device_id=-1)
        self.context.vopt.geomgroup[0] = 0  # collision geoms
        self.context.vopt.geomgroup[1] = 1  # visual geoms
        self.mirrors = _mirrors(self.model)
        self.fixed = self.model.body_weldid[self.model.geom_bodyid] == 0
        self._mirrored: dict[tuple[int, int, bytes], tuple[np.ndarray, np.ndarray]] = {}

    def render(self, data: Any, camera: str, size: int) -> np.ndarray:
        """Returns uint8 [size, size, 3], upright."""
        number = self.sim.model.camera_name2id(camera)
        visible = visible_geoms(self.model, data, number)
        mirrors = visible & self.mirrors
        wanted, size = size, size * (self.FINER if self.coarse else 1)
        if self.coarse and mirrors.any() and (self.fixed | ~mirrors).all():
            pixels = self._draw(data, number, size, visible, mirrored=False)
            if camera != self.downward:
                self._reflect(pixels, data, number, visible)
        else:
            mirrored = bool(mirrors.any())
            pixels = self._draw(data, number, size, visible | mirrored, mirrored=mirrored)
        pixels = resize(pixels, wanted)
        # The stock sensor returns OpenGL's rows, the lowest first; the protocol turns them by 180
        # degrees.
        return np.ascontiguousarray(pixels[::-1, ::-1])

    def _draw(
        self, data: Any, camera: int, size: int, visible: np.ndarray, *, mirrored: bool
    ) -> np.ndarray:
        """Returns uint8 [size, size, 3], as OpenGL has it.

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
        mujoco.mjr_readPixels(pixels, None, viewport, context.con)
        return pixels

    def _reflect(self, pixels: np.ndarray, data: Any, camera: int, visible: np.ndarray) -> None:
        """Adds to pixels [size, size, 3] what mirrors show of everything that never moves.

        Where the picture is that of the scene without what moves, that scene's picture with
        reflections is put. It is drawn once per place of the fixtures, instead of at every step.
        """
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


def _mirrors(model: Any) -> np.ndarray:
    """Geoms that MuJoCo draws reflections on, bool [geoms]: visible planes and boxes only."""
    import mujoco

    flat = np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX))
    drawn = flat & (model.geom_matid >= 0) & np.isin(model.geom_group, (1, 2))
    return drawn & (model.mat_reflectance[model.geom_matid] > 0)
