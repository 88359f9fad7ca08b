"""Made-up runs that look like real ones: reports are tested, and looked at, without a robot."""

import math

import numpy as np
from PIL import Image, ImageDraw

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.reports.inputs import Arm, ArmGroup, Curves, Rate, Report, Strip
from libra_vla.reports.trace import EpisodeTrace

TASKS = (
    "pick up the black bowl between the plate and the ramekin and place it on the plate",
    "pick up the black bowl next to the ramekin and place it on the plate",
    "pick up the black bowl on the stove and place it on the plate",
)
NAMES = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
CONVENTION = ActionConvention(
    names=NAMES,
    units=("1",) * 7,
    representation="delta end-effector pose (OSC)",
    rate_hz=20.0,
    gripper=6,
)
SPACE = ActionSpace(CONVENTION, bins=(10,) * 6 + (2,), low=(-1.0,) * 7, high=(1.0,) * 7)


def reach(length: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth pick-and-place in normalised actions [T, 7]."""
    t = np.linspace(0.0, 1.0, length)[:, None]
    centres = np.array([0.1, 0.2, 0.32, 0.44, 0.55, 0.7, 0.86])
    bumps = np.exp(-(((t - centres) / 0.07) ** 2))
    weights = rng.normal(0.0, 0.55, (7, 7)) * np.array([1, 1, 1.2, 0.15, 0.2, 0.35, 0])
    motion = np.tanh(bumps @ weights) + 0.015 * rng.normal(size=(length, 7))
    motion[:, 6] = np.where((t[:, 0] > 0.38) & (t[:, 0] < 0.88), 1.0, -1.0)
    return np.clip(motion, -1.0, 1.0).astype(np.float32)


def table(share: float, size: int = 128) -> np.ndarray:
    """A table with a bowl, a plate and an arm over it, uint8 [size, size, 3]."""
    image = Image.new("RGB", (size, size), (203, 196, 184))
    draw, s = ImageDraw.Draw(image), size / 128
    draw.rectangle([0, 58 * s, size, size], fill=(150, 112, 78))
    draw.ellipse([80 * s, 80 * s, 116 * s, 98 * s], fill=(238, 236, 230))
    held = min(1.0, max(0.0, (share - 0.4) / 0.45))
    bowl = 30 + 56 * held, 86 - 22 * math.sin(math.pi * held)
    hand = bowl if share > 0.38 else (60 - 78 * share, 30 + 145 * share)
    draw.ellipse([c * s for c in (bowl[0], bowl[1], bowl[0] + 24, bowl[1] + 14)], fill=(40, 40, 44))
    arm = [c * s for c in (64, 0, hand[0] + 12, hand[1] - 6)]
    draw.line(arm, fill=(235, 235, 235), width=round(11 * s))
    draw.line(arm, fill=(120, 124, 130), width=round(3 * s))
    return np.asarray(image)


def trace(
    length: int = 124, chunk: int = 5, factor: int = 2, seed: int = 3, size: int = 128
) -> EpisodeTrace:
    """An episode of a planner that is mostly right and a refiner that follows it."""
    rng = np.random.default_rng(seed)
    actions = reach(length + chunk, rng)
    steps = np.arange(0, length, chunk)
    rows = steps[:, None] + np.arange(chunk)
    blurred = actions + rng.normal(0.0, 0.035, actions.shape).astype(np.float32)
    edge = np.abs((blurred + 1.0) * 5.0 % 1.0 - 0.5) * 2.0
    confidence = np.clip(0.97 - 0.45 * edge**3, 0.05, 1.0).astype(np.float32)
    return EpisodeTrace(
        space=SPACE,
        instruction=TASKS[0],
        success=True,
        step=steps,
        plan_step=steps - steps % (chunk * factor),
        coarse=SPACE.encode(blurred)[rows],
        confidence=confidence[rows],
        actions=actions[rows],
        executed=np.minimum(chunk, length - steps),
        frames=np.stack([table(s / length, size) for s in [*steps, length]]),
        frame_steps=np.append(steps, length),
    )


def curves(name: str, seed: int, *, planner: bool, steps: int = 4000) -> Curves:
    """Losses that fall, with a bump where the curriculum switches."""
    rng, switch = np.random.default_rng(seed), steps // 5
    metrics = []
    for step in range(10, steps + 1, 10):
        decay, noise = math.exp(-step / (steps * 0.22)), 1.0 + 0.07 * rng.normal()
        bump = 0.12 * math.exp(-(step - switch) / (steps * 0.05)) if step > switch else 0.0
        entry = {"step": step, "refiner_loss": (0.03 + 0.9 * decay**2 + bump * planner) * noise}
        if planner:
            entry |= {"planner_loss_normalised": (0.22 + 0.75 * decay) * noise}
            entry |= {"bin_accuracy": min(1.0, (0.86 - 0.7 * decay) * (2.0 - noise))}
            entry["predicted_intents"] = step > switch
        else:
            entry["refiner_loss"] *= 1.6
        if step % (steps // 8) == 0:
            entry["validation"] = {k: v * 1.08 for k, v in entry.items() if "loss" in k}
        metrics.append(entry)
    role = "libra" if planner else "baseline"
    return Curves(name, metrics, switch if planner else None, role)


def arm(name: str, solved: tuple[int, int, int], trials: int = 10, **more: object) -> Arm:
    """An arm that solves so many episodes of each task."""
    latency = {
        "plan": {"p50": 21.4, "p95": 26.0, "p99": 31.7},
        "refine": {"p50": 8.3, "p95": 9.9, "p99": 12.8},
        "control": {"p50": 0.021, "p95": 29.1, "p99": 37.2},
    }
    settings = {"explanation": "", "latency_ms": latency, **more}
    per_task = tuple(Rate(n, trials, task) for n, task in zip(solved, TASKS, strict=True))
    return Arm(name=name, total=Rate(sum(solved), 3 * trials), per_task=per_task, **settings)  # type: ignore[arg-type]


def groups() -> tuple[ArmGroup, ...]:
    """Libra, its baseline and its controls under two conditions."""
    libra = "planner and refiner, N = 10, M = 2, H = 5; 1.03 million parameters"
    base = "one monolithic policy of equal size, data and training"
    official = ArmGroup(
        "Official initial states",
        "The benchmark's own starting positions, ten per task, never seen in training.",
        (
            arm("Libra", (10, 9, 8), explanation=libra),
            arm("Libra-Base", (7, 6, 5), explanation=base, role="baseline"),
            arm("Without images", (1, 0, 2), explanation="trained blind: it can only learn the "
                "average motion by heart", role="control", lacks="images"),
            arm("Instruction swapped", (0, 1, 0), explanation="Libra, told to do another task of "
                "the suite", role="control", lacks="its instruction", obeyed=Rate(22, 30)),
        ),
    )  # fmt: skip
    wide = ArmGroup(
        "Widened positions",
        "Objects start up to 5 cm outside of the region that they were trained in.",
        (
            arm("Libra", (8, 7, 6), explanation=libra),
            arm("Libra-Base", (6, 6, 5), explanation=base, role="baseline", errors=1),
        ),
    )
    return official, wide


def breakdown(
    solved: int, kinds: tuple[int, int, int], phases: dict[str, int]
) -> dict[str, object]:
    """What `results.json` says of failures and smoothness, of one task or of all of them."""
    return {
        "episodes": solved + sum(kinds), "successes": solved, "errors": 0,
        "failures": dict(zip(("semantic", "actuation", "other"), kinds, strict=True)),
        "failure_phases": {name: n for name, n in phases.items() if n},
        "smoothness": {"mean_jerk": 4.213, "curvature": 11.72, "boundary_acceleration": 0.7,
                       "inside_acceleration": 0.5, "sparc": -2.9},
    }  # fmt: skip


def strip(kind: str, phase: str | None) -> Strip:
    """Eight stills of an episode that failed."""
    steps = np.linspace(0, 220, 8).astype(int)
    frames = np.stack([table(step / 400) for step in steps])
    return Strip(kind, phase, 2, TASKS[2], 3, frames, steps)


def report() -> Report:
    """A report with everything in it, but for films."""
    return Report(
        title="Libra-VLA quickstart on LIBERO-Spatial",
        groups=groups(),
        curves=(
            curves("Libra", 0, planner=True),
            curves("Libra-Base", 1, planner=False),
        ),
        traces=(trace(),),
        strips=(strip("semantic", None), strip("actuation", "grasp")),
        results={
            "suite": "libero_spatial",
            "mode": "sequential",
            "policy": {"preset": "tiny", "parameters": 1_031_424, "N": 10, "M": 2, "H": 5,
                       "checkpoint_hash": "9f2c41d07ab3"},
            "protocol": {"trials": 10, "settle_steps": 10, "step_budget": 220, "image_size": 256,
                         "initial_states": "official"},
            **breakdown(27, (1, 2, 0), {"grasp": 1, "place": 1}),
            "tasks": [
                {"instruction": name} | breakdown(n, kinds, {"grasp": kinds[1]})
                for name, n, kinds in zip(
                    TASKS, (10, 9, 8), ((0, 0, 0), (0, 1, 0), (1, 1, 0)), strict=True
                )
            ],
            "reading": {
                "evaluated": 30,
                "told": {"count": 22}, "own": {"count": 3}, "neither": {"count": 5},
            },
            "seeds": {"evaluation": 0},
            "versions": {"python": "3.11.9", "torch": "2.13.0", "mujoco": "3.3.0",
                         "libra_vla": "0.1.0 (d2ae1f7)"},
            "wall_s": 1412.0,
        },
        facts={"Demonstrations": "50 per task by the scripted expert, 150 episodes, 17,204 steps"},
        commands=(
            "libra collect --suite libero_spatial --tasks 0,1,2 --episodes 50 --out demos",
            "libra train --data demos --preset tiny --out run",
            "libra eval --policy run --suite libero_spatial --tasks 0,1,2 --episodes 10 --out out",
        ),
    )  # fmt: skip
