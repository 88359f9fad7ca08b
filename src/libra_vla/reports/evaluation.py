"""The page of `libra eval`: success, whether the policy listens, how it fails and moves, and one
episode drawn out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from libra_vla.action_space import ActionSpace
from libra_vla.evaluation.video import episode_files
from libra_vla.reports.failures import load_strips
from libra_vla.reports.inputs import Arm, ArmGroup, Clip, Rate, Report
from libra_vla.reports.report import write_report
from libra_vla.reports.trace import EpisodeTrace, load_trace

REPORT = "report.html"


def write_evaluation_report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes `report.html` into the folder of an evaluation and returns its path.

    Args:
        folder: with `videos/` and `traces/`, where episodes were recorded.
        results: what `evaluate` returned.

    Raises:
        LibraError: the disk is full or the folder cannot be written.
    """
    policy = results["policy"]
    arm = Arm.from_results(
        results,
        name="The policy",
        explanation=f"preset {policy['preset']}, N = {policy['N']}, M = {policy['M']}, "
        f"H = {policy['H']}; {policy['parameters']:,} parameters",
    )
    if arm.obeyed is not None:
        arm = _told(arm, results)
    protocol = results["protocol"]
    states = (
        "Official initial states" if protocol["initial_states"] == "official" else "Sampled resets"
    )
    official = "the official protocol" if protocol["official"] else "not the official protocol"
    clip, trace = _shown(folder, results)
    out = folder / REPORT
    write_report(
        out,
        Report(
            title=f"{results['suite']}, {results['mode']} mode",
            groups=(ArmGroup(states, f"{official.capitalize()}.", (arm,)),),
            clips=(clip,) if clip else (),
            traces=(trace,) if trace else (),
            strips=load_strips(folder, results),
            results=results,
        ),
    )
    return out


def _told(arm: Arm, results: Mapping[str, Any]) -> Arm:
    """The same episodes, judged by the instruction that was given."""
    goals = [
        (task, task["swapped"]["other_goal"]) for task in results["tasks"] if "swapped" in task
    ]
    per_task = [Rate(g["reached"], g["evaluated"], task["instruction"]) for task, g in goals]
    assert arm.obeyed is not None
    told = replace(arm, name="Told another task, it", total=arm.obeyed, obeyed=None)
    return replace(told, per_task=tuple(per_task))


def _shown(folder: Path, results: Mapping[str, Any]) -> tuple[Clip | None, EpisodeTrace | None]:
    """Film and drawing of the first recorded success, if there is one: failures are shown as
    stills, and a policy without a planner has nothing to draw."""
    words = {task["index"]: task["instruction"] for task in results["tasks"]}
    for trial in results["trials"]:
        episode = {"task": trial["task"], "trial": trial["trial"]}
        film, arrays = episode_files(folder, **episode)
        if trial["success"] and film.exists():
            clip = Clip(film, words[trial["task"]], success=True)
            planned = results["policy"].get("kind") == "libra" and "action_space" in results
            if not planned or not arrays.exists():
                return clip, None
            space = ActionSpace.from_json(results["action_space"])
            return clip, load_trace(folder, **episode, space=space)
    return None, None
