"""LIBERO's environments: the protocol to the letter, and every short cut exact."""

import numpy as np
import pytest
import torch

from libra_vla.errors import LibraError
from libra_vla.images import resize
from libra_vla.simulation import rendering
from libra_vla.simulation.libero.suites import (
    STEP_BUDGETS,
    SUITES,
    load_tasks,
    official_states,
)

pytest.importorskip("libero")


def test_suites_and_their_budgets():
    assert [len(load_tasks(suite)) for suite in SUITES] == [10, 10, 10, 10, 90]
    assert STEP_BUDGETS["libero_spatial"] == 220 and STEP_BUDGETS["libero_10"] == 520
    task = load_tasks("libero_goal", [8])[0]
    assert (task.index, task.instruction) == (8, "put the bowl on the plate")
    long = load_tasks("libero_10", [0])[0]
    assert long.instruction == "put both the alphabet soup and the tomato sauce in the basket"


@pytest.mark.parametrize("suite", SUITES[:4])
def test_every_task_has_fifty_official_states(suite: str):
    for task in load_tasks(suite):
        states = official_states(task)
        assert states.dtype == np.float64 and len(states) == 50


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(LibraError, match="unknown suite 'libero_spacial': did you mean 'libero_sp"):
        load_tasks("libero_spacial")
    with pytest.raises(LibraError, match="unknown task 10 of libero_goal: expected 0 to 9"):
        load_tasks("libero_goal", [10])


def test_a_machine_without_a_gl_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    assert rendering.probe()["ok"] is False
    with pytest.raises(LibraError, match="apt-get install libosmesa6"):
        rendering.choose_backend()


@pytest.mark.simulator
def test_what_can_be_seen_is_never_left_out():
    """Boxes all around a camera, and points inside of them, projected one by one."""
    rendering.choose_backend(required=False)
    import mujoco

    rng = np.random.default_rng(0)
    boxes = "".join(
        '<geom type="box" pos="{:.3f} {:.3f} {:.3f}" size="{:.3f} {:.3f} {:.3f}" '
        'euler="{:.1f} {:.1f} {:.1f}"/>'.format(
            *rng.uniform(-3, 3, 3), *rng.uniform(0.02, 0.8, 3), *rng.uniform(-180, 180, 3)
        )
        for _ in range(300)
    )
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom type="plane" size="1 1 1"/>{boxes}'
        '<camera name="c" pos="0.1 0.2 0.3" euler="40 20 70" fovy="50"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    visible = rendering.visible_geoms(model, data, 0)
    inside = rng.uniform(-1, 1, size=(400, 3)) * model.geom_size[1:, None]
    world = inside @ data.geom_xmat[1:].reshape(-1, 3, 3).swapaxes(1, 2) + data.geom_xpos[1:, None]
    x, y, z = np.moveaxis((world - data.cam_xpos[0]) @ data.cam_xmat[0].reshape(3, 3), -1, 0)
    reach = -z * np.tan(np.deg2rad(25.0))
    seen = ((abs(x) < reach) & (abs(y) < reach)).any(axis=1)
    assert visible[0], "a plane has no end"
    assert (visible[1:] | ~seen).all()
    assert seen.sum() > 20 and visible[1:].sum() < 1.5 * seen.sum(), "little is drawn in vain"


def make_env(suite: str, index: int, **options):
    from libra_vla.simulation.libero.environment import LiberoEnv

    return LiberoEnv(load_tasks(suite, [index])[0], **options)


def stock_episode(suite: str, index: int, state: np.ndarray, seed: int, actions: np.ndarray):
    """The same steps through LIBERO's own wrapper: states, observations, success."""
    from libra_vla.simulation.libero.environment import stock_environment

    stock = stock_environment(load_tasks(suite, [index])[0], 128)
    np.random.seed(seed)  # noqa: NPY002
    stock.reset()
    stock.set_init_state(state)
    for _ in range(10):
        stock.step([0.0] * 6 + [-1.0])
    for action in actions:
        seen, _, success, _ = stock.step(action)
        yield stock.get_sim_state(), seen, success
    stock.close()


@pytest.mark.simulator
@pytest.mark.parametrize(("suite", "index"), [("libero_spatial", 4), ("libero_object", 0)])
def test_states_pixels_and_success_equal_the_stock_wrappers(suite: str, index: int):
    from robosuite.utils.transform_utils import quat2axisangle

    state = official_states(load_tasks(suite, [index])[0])[3]
    actions = np.random.default_rng(0).uniform(-1, 1, size=(6, 7))
    actions[:, 2] -= 0.5
    env = make_env(suite, index, image_size=128)
    env.reset(seed=1)  # an episode before must not matter
    env.step(actions[0])
    env.reset(seed=7, init_state=state)
    for action, (joints, seen, success) in zip(
        actions, stock_episode(suite, index, state, 7, actions), strict=True
    ):
        assert env.step(action) == success
        assert np.array_equal(env.robosuite_env.sim.get_state().flatten(), joints)
        ours = env.observe()
        for camera, key in (("agentview", "agentview"), ("wrist", "robot0_eye_in_hand")):
            assert np.array_equal(ours.images[camera], seen[f"{key}_image"][::-1, ::-1])
        expected = np.concatenate(
            [
                seen["robot0_eef_pos"],
                quat2axisangle(seen["robot0_eef_quat"]),
                seen["robot0_gripper_qpos"],
            ]
        )
        assert np.allclose(ours.state, expected, atol=1e-6)
    env.close()


@pytest.mark.simulator
def test_seeds_decide_everything_and_spread_moves_objects():
    env = make_env("libero_goal", 1, render=False)
    fixture = env.robosuite_env.sim.model.body_name2id("wooden_cabinet_1_main")

    def scene(seed: int, spread: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        env.reset(seed=seed, spread=spread)
        model, data = env.robosuite_env.sim.model, env.robosuite_env.sim.data
        return np.array(data.qpos), np.array(model.body_pos[fixture])

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = scene(1), scene(1), scene(2)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1]), "fixtures follow the seed"
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    bowl = slice(*env.robosuite_env.sim.model.get_joint_qpos_addr("akita_black_bowl_1_joint0"))

    def positions(spread: float) -> np.ndarray:
        return np.array([scene(seed, spread)[0][bowl][:2] for seed in range(12)])

    stock = np.ptp(positions(0.0), axis=0)
    assert (stock < 0.035).all()
    assert (np.ptp(positions(0.04), axis=0) > stock + 0.02).all()
    env.close()


@pytest.mark.simulator
def test_the_arm_of_sampled_scenes_varies_as_in_official_states():
    env = make_env("libero_spatial", 0, render=False)
    arm = env.robosuite_env.robots[0]._ref_joint_pos_indexes
    states = official_states(env.task)
    spreads = []
    for official in (True, False):
        seen = []
        for seed in range(12):
            env.reset(seed=seed, init_state=states[seed] if official else None)
            seen.append(env.robosuite_env.sim.data.qpos[arm])
        spreads.append(np.std(seen, axis=0).mean())
    env.close()
    assert 0.01 < spreads[0] < 0.025
    assert spreads[1] == pytest.approx(spreads[0], rel=0.4)


@pytest.mark.simulator
def test_fixtures_of_sampled_scenes_are_not_where_they_were_as_in_official_states():
    """A bowl lies anywhere in its drawer, up to its wall: the cabinet is drawn anew afterwards."""
    env = make_env("libero_spatial", 4, render=False)
    data, model = env.robosuite_env.sim.data, env.robosuite_env.sim.model
    bowl = env.robosuite_env.obj_body_id["akita_black_bowl_1"]
    drawer = model.body_name2id("wooden_cabinet_1_cabinet_top")
    states = official_states(env.task)
    spreads = []
    for official in (True, False):
        places = []
        for seed in range(16):
            env.reset(seed=seed, init_state=states[seed] if official else None)
            places.append((data.body_xpos[bowl] - data.body_xpos[drawer])[:2])
        spreads.append(np.std(places, axis=0).max())
    env.close()
    assert spreads[1] == pytest.approx(spreads[0], rel=0.5)


@pytest.mark.simulator
def test_coarse_meshes_change_pictures_a_little_and_physics_not_at_all():
    actions = np.random.default_rng(0).uniform(-1, 1, size=(8, 7))
    seen = {}
    for meshes, size in (("stock", 256), ("decimated", 128)):
        env = make_env("libero_object", 3, image_size=size, meshes=meshes)
        env.reset(seed=5)
        for action in actions:
            env.step(action)
        images = {c: resize(i, 128) for c, i in env.observe().images.items()}
        seen[meshes] = (env.robosuite_env.sim.get_state().flatten(), images)
        env.close()
    assert np.array_equal(seen["stock"][0], seen["decimated"][0])
    for camera, least in (("agentview", 28.0), ("wrist", 25.0)):  # 27 and 24 with jagged edges
        a, b = (seen[m][1][camera].astype(float) for m in seen)
        assert least < 10 * np.log10(255**2 / np.mean((a - b) ** 2)) < 50.0, camera


@pytest.mark.simulator
def test_mirrors_of_coarse_scenes_show_what_never_moves():
    """The stove is white by what it mirrors; only the arm may be missing from that."""
    env = make_env("libero_goal", 1, image_size=64, meshes="decimated", cameras=("agentview",))
    env.reset(seed=5)
    renderer = env._renderer
    assert renderer is not None
    everything = np.ones(len(renderer.fixed), dtype=bool)
    number = renderer.sim.model.camera_name2id("agentview")
    for _ in range(3):
        for _ in range(8):
            env.step(np.array([0.0, -0.8, -0.8, 0.0, 0.0, 0.0, 1.0]))
        seen, pose = env.observe().images["agentview"].astype(float), env._pose(env._drawn)
        plain, mirrored = (
            resize(renderer._draw(pose, number, 128, everything, mirrored=m)[::-1, ::-1], 64)
            for m in (False, True)
        )
        error, missing = (np.mean((x - mirrored.astype(float)) ** 2) for x in (seen, plain))
        assert error < missing / 4
    env.close()


@pytest.mark.simulator
@pytest.mark.parametrize(("suite", "index"), [("libero_goal", 0), ("libero_10", 9)])
def test_what_rests_is_drawn_once_and_looks_as_if_drawn_anew(
    suite: str, index: int, monkeypatch: pytest.MonkeyPatch
):
    """A drawer that is opened beside a stove that mirrors, a mug for an oven with a glass door."""
    from libra_vla.simulation.libero.expert import ScriptedExpert

    env = make_env(suite, index, image_size=64, meshes="decimated", cameras=("agentview",))
    renderer, layers, strange = env._renderer, [], []
    assert renderer is not None
    for seed in (0, 1):
        env.reset(seed=seed)
        expert = ScriptedExpert(env, seed=seed)
        expert.reset()
        for _ in range(40):
            for _ in range(3):
                env.step(expert.act())
            layered, scene = env.observe().images["agentview"].astype(int), env._pose(env._drawn)
            layers.extend(layer for layer in renderer._layers.values() if layer not in layers[-1:])
            with monkeypatch.context() as patch:
                patch.setattr(renderer, "_draw_in_layers", renderer._draw_whole)
                whole = renderer.render(scene, "agentview", 64)
            strange.append((np.abs(layered - whole).max(axis=-1) > 8).mean())
    env.close()
    assert np.max(strange) < 0.005 and np.mean(strange) < 0.001
    assert 2 <= len(layers) < 80 / 3


@pytest.mark.simulator
def test_bad_input_to_an_environment():
    env = make_env("libero_goal", 1, render=False)
    env.reset(seed=0)
    for action in (np.zeros(6), np.full(7, np.nan), np.array([np.inf] + [0.0] * 6)):
        with pytest.raises(LibraError, match="expected 7 finite numbers"):
            env.step(action)
    with pytest.raises(LibraError, match="belongs to another task"):
        env.reset(seed=0, init_state=np.zeros(3))
    with pytest.raises(LibraError, match="cannot be spread"):
        env.reset(seed=0, init_state=official_states(env.task)[0], spread=0.1)
    with pytest.raises(LibraError, match="unknown camera 'wrst': did you mean 'wrist'"):
        env.cameras = ("wrst",)
    env.close()
    with pytest.raises(LibraError, match="unknown meshes 'decimate': did you mean 'decimated'"):
        make_env("libero_goal", 1, meshes="decimate")


@pytest.mark.simulator
def test_stills_show_a_hand_anywhere_and_tell_where_things_are():
    from libra_vla.simulation.libero.scene import Scene
    from libra_vla.simulation.libero.stills import place_names, stills

    env = make_env("libero_goal", 8, image_size=64, meshes="decimated")
    env.reset(seed=3, spread=0.05)
    scene = Scene(env.robosuite_env)
    before = np.array(env.robosuite_env.sim.data.qpos)
    bowl, plate = scene.pose("akita_black_bowl_1")[0], scene.pose("plate_1")[0]
    taken = stills(env, 12, np.random.default_rng(0))
    assert len(taken) > 8
    assert np.array_equal(env.robosuite_env.sim.data.qpos, before)
    hands = np.array([still.observation.state[:3] for still in taken])
    assert (np.ptp(hands, axis=0) > 0.1).all()
    assert taken[0].asked == ("akita_black_bowl_1", "plate_1") * 2, "its only goal is both of them"
    told = np.array([[still.places[name] for name in still.asked] for still in taken])
    np.testing.assert_allclose(told[:, 1, :2], np.tile(plate[:2], (len(taken), 1)))
    drawers = [taken[0].places[f"wooden_cabinet_1_{part}_region"] for part in ("top", "bottom")]
    assert drawers[0][2] > drawers[1][2] + 0.1, "what nobody asks for is told, too"
    assert set(taken[0].places) <= set(place_names()) and "basket_1" not in taken[0].places
    held = np.linalg.norm(told[:, 0] - bowl, axis=1) > 1e-6
    assert held.any() and not held.all()
    in_hand = np.linalg.norm(told[held, 0] - hands[held], axis=1)
    assert (in_hand < 0.08).all() and np.ptp(in_hand) < 1e-3, "always held alike"
    pictures = [still.observation.images["wrist"] for still in taken]
    assert len({picture.tobytes() for picture in pictures}) == len(taken)
    env.close()


@pytest.mark.simulator
def test_stills_show_how_a_task_goes_on(monkeypatch: pytest.MonkeyPatch):
    from libra_vla.simulation.libero import stills
    from libra_vla.simulation.libero.goals import task_goals
    from libra_vla.simulation.libero.scene import Scene

    env = make_env("libero_10", 0, image_size=64, meshes="decimated")
    soup, sauce = task_goals(env.task)
    for begun in (0.0, 1.0):
        monkeypatch.setattr(stills, "BEGUN", begun)
        env.reset(seed=3)
        taken = stills.stills(env, 8, np.random.default_rng(1))
        told = [still.places for still in taken]
        in_basket = np.array([np.linalg.norm((p[soup.target] - p["basket_1"])[:2]) for p in told])
        if begun:
            assert np.ptp([p[sauce.target][2] for p in told]) > 0.05, "some hands hold it"
            assert (in_basket < 0.08).all() and np.ptp(in_basket) < 1e-9, (
                "it is in, and stays there"
            )
            scene = Scene(env.robosuite_env)
            assert scene.holds(soup) and not scene.holds(sauce)
        else:
            assert (in_basket > 0.1).any()
    env.close()


@pytest.mark.simulator
def test_views_tell_where_in_the_pictures_a_place_is():
    from libra_vla.policies.places import rotations
    from libra_vla.simulation.libero.grasping import hand_rotation
    from libra_vla.simulation.libero.reach import reach
    from libra_vla.simulation.libero.scene import Scene
    from libra_vla.views import Views

    env = make_env("libero_goal", 8, image_size=128)
    env.reset(seed=3)
    scene, joints = Scene(env.robosuite_env), np.array(env.robosuite_env.sim.data.qpos)
    bowl = scene.pose("akita_black_bowl_1")[0]
    above = bowl + np.array([0.03, 0.02, 0.25])
    posed = reach(env.robosuite_env, joints, above, hand_rotation(0.3))
    assert posed is not None
    env.pose(posed)
    views, shown = env.views(), env.observe()
    hand = shown.state[:3]
    turned = rotations(torch.from_numpy(shown.state[None, 3:6]))[0].numpy()
    told = Views.of([[views[camera] for camera in env.cameras]])
    found = told.pictured(bowl[None, None], hand[None], turned[None])[0, :, 0]
    gone = posed.copy()
    gone[scene.free_joint("akita_black_bowl_1")][:3] = [0.0, 0.0, -5.0]
    env.pose(gone)
    without = env.observe()
    for number, camera in enumerate(env.cameras):
        changed = (shown.images[camera] != without.images[camera]).any(axis=2)
        edges = [np.quantile(np.flatnonzero(changed.any(axis=a)), (0.0, 1.0)) for a in (1, 0)]
        middle = np.mean(edges, axis=1) / 63.5 - 1.0
        # It is told of the bowl's foot, and seen from above.
        np.testing.assert_allclose(found[number], middle, atol=0.1, err_msg=camera)
    env.close()


@pytest.mark.simulator
def test_joints_bring_the_hand_to_a_pose_or_nowhere():
    from libra_vla.simulation.libero.grasping import hand_rotation
    from libra_vla.simulation.libero.reach import reach
    from libra_vla.simulation.libero.scene import Scene

    env = make_env("libero_object", 0, render=False)
    env.reset(seed=0)
    joints = np.array(env.robosuite_env.sim.data.qpos)
    position, rotation = np.array([0.05, -0.1, 0.3]), hand_rotation(0.4)
    found = reach(env.robosuite_env, joints, position, rotation)
    assert found is not None and np.array_equal(env.robosuite_env.sim.data.qpos, joints)
    env.pose(found)
    hand, frame = Scene(env.robosuite_env).hand()
    np.testing.assert_allclose(hand, position, atol=2e-3)
    np.testing.assert_allclose(frame, rotation, atol=1e-2)
    np.testing.assert_allclose(env.observe().state[:3], hand, atol=1e-6)
    assert reach(env.robosuite_env, joints, np.array([2.0, 0.0, 0.3]), rotation) is None
    env.close()
