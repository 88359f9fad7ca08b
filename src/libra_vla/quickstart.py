"""`libra quickstart`: the main job, end to end, on real LIBERO tasks, on a laptop's CPU.

Two instructions share one scene and one object, so the policy must read to know the target; in
training, and in an evaluation of our own, objects are spread over several centimetres, so it must
look to find them. Two controls measure both: a policy that was trained without images, and the
other task's instruction.
"""

import resource
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from libra_vla.collection import CollectConfig, collect
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.video import episode_files
from libra_vla.files import alone_in_out, read_json, require_absent, write_json
from libra_vla.policies.policy import LibraPolicy
from libra_vla.reports.failures import load_strips
from libra_vla.reports.inputs import Arm, ArmGroup, Clip, Curves, Report, Role
from libra_vla.reports.report import write_report
from libra_vla.reports.trace import load_trace
from libra_vla.simulation.libero.suites import load_tasks
from libra_vla.stages import StageClock, train_and_evaluate
from libra_vla.training.config import TrainConfig

SUITE, TASKS = "libero_goal", (1, 4)
"""Put the bowl on the stove; put the bowl on top of the cabinet."""
SPREAD = 0.06
"""Metres by which sampled objects move further to each side than in the benchmark."""

SWAPPED = "Instruction swapped"


@dataclass(frozen=True)
class QuickstartConfig:
    """Demonstrations, training, evaluation and a report; every stage resumes where it stopped.

    Attributes:
        out: folder for `results.json`, `report.html`, films, and what they are made from.
        workers: processes.
        demonstrations: per task.
        steps: optimiser steps of each policy.
        trials: official initial states per task, of Libra and of the baseline.
        control_trials: the same of each control.
        spread_trials: resets with spread objects per task and policy.
        seed: of everything.
    """

    out: Path = Path("runs/quickstart")
    workers: int = 2
    demonstrations: int = 40
    steps: int = 1200
    trials: int = 10
    control_trials: int = 5
    spread_trials: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        counts = _identity(self) | {"workers": self.workers, "seed": 1}
        if min(counts.values()) < 1:
            raise LibraError("quickstart: workers, demonstrations, steps and trials start at 1")


@dataclass(frozen=True)
class PolicyPlan:
    """A policy that is trained."""

    name: str
    explanation: str
    role: Role
    preset: str = "tiny"
    blind: bool = False
    lacks: str = ""


LIBRA = PolicyPlan("Libra", "planner and refiner", "libra")
BASE = PolicyPlan(
    "Libra-Base",
    "one monolithic diffusion policy: equal parameters, data and steps",
    "baseline",
    preset="tiny-monolithic",
)
BLIND = PolicyPlan(
    "Without images",
    "trained on joint positions and words alone",
    "control",
    blind=True,
    lacks="images",
)
POLICIES = (LIBRA, BASE, BLIND)


@alone_in_out
def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Runs every stage that is not done yet and returns what it wrote to `results.json`.

    Raises:
        LibraError: the folder holds something else, or a stage met bad input.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    out, identity = config.out, _identity(config)
    marker = out / "quickstart.json"
    if not marker.exists():
        require_absent(out, what="the output folder", remedy="choose another --out")
        write_json(marker, {"settings": identity, "seconds": {}})
    elif (settings := read_json(marker)["settings"]) != identity:
        raise LibraError(
            f"{out} was made with other settings ({settings}): choose another --out, or delete it"
        )
    clock = StageClock(marker)
    try:
        clock.time("demonstrations", lambda: _collect(config))
        results = clock.time("training and evaluation", lambda: _train_and_evaluate(config))
        clock.time("report", lambda: _report(config, results, clock.seconds))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped: the same command goes on with {out}") from None
    summary = results["Libra"] | {
        "arms": {name: _brief(r) for name, r in results.items()},
        "quickstart": {
            "settings": identity,
            "seconds": clock.seconds,
            "peak_memory_gib": round(_peak_memory() * config.workers, 2),
        },
    }
    write_json(out / "results.json", summary)
    return summary


def _identity(config: QuickstartConfig) -> dict[str, Any]:
    return {
        "demonstrations": config.demonstrations,
        "steps": config.steps,
        "trials": config.trials,
        "control_trials": config.control_trials,
        "spread_trials": config.spread_trials,
        "seed": config.seed,
    }


def _collect(config: QuickstartConfig) -> None:
    collect(
        CollectConfig(
            suite=SUITE,
            out=config.out / "demonstrations",
            tasks=",".join(map(str, TASKS)),
            episodes=config.demonstrations,
            workers=config.workers,
            seed=config.seed,
            spread=SPREAD,
            max_steps=250,
            resume=True,
        )
    )


def _train_and_evaluate(config: QuickstartConfig) -> dict[str, dict[str, Any]]:
    """Trains the policies, evaluates the arms and returns every arm's `results.json`, by name."""
    trainings = [
        TrainConfig(
            data=config.out / "demonstrations",
            out=config.out / "policies" / policy.name,
            preset=policy.preset,
            blind=policy.blind,
            steps=config.steps,
            seed=config.seed,
            threads=1,
            resume=True,
        )
        for policy in POLICIES
    ]
    evaluations = _arms(config)
    train_and_evaluate(trainings, evaluations, workers=config.workers)
    return {e.out.name: read_json(e.out / "results.json") for e in evaluations}


def _arms(config: QuickstartConfig) -> list[EvalConfig]:
    """One evaluation per arm; its output folder bears its name."""
    first, second = TASKS

    def arm(plan: PolicyPlan, name: str, **changes: Any) -> EvalConfig:
        base = EvalConfig(
            policy=config.out / "policies" / plan.name,
            suite=SUITE,
            out=config.out / "evaluations" / name,
            tasks=",".join(map(str, TASKS)),
            episodes=config.trials,
            seed=config.seed,
            workers=0,
            resume=True,
        )
        return replace(base, **changes)

    # Another seed than the demonstrations', so that no reset was seen in training.
    spread = {
        "states": "sampled",
        "meshes": "decimated",
        "spread": SPREAD,
        "episodes": config.spread_trials,
        "seed": config.seed + 1,
    }
    swapped = {
        "instruction_from": {first: second, second: first},
        "episodes": config.control_trials,
    }
    return [
        arm(LIBRA, LIBRA.name, videos=1),
        arm(LIBRA, SWAPPED, **swapped),
        arm(BASE, BASE.name),
        arm(BLIND, BLIND.name, episodes=config.control_trials),
        *(arm(plan, f"{plan.name}, spread", **spread) for plan in POLICIES),
    ]


def _report(
    config: QuickstartConfig, results: dict[str, dict[str, Any]], seconds: dict[str, float]
) -> None:
    """Writes `report.html` and copies the films beside it."""
    out = config.out
    policy = LibraPolicy.from_pretrained(out / "policies" / LIBRA.name)
    evaluation = out / "evaluations" / LIBRA.name
    traces, clips = [], []
    for task in load_tasks(SUITE, TASKS):
        traces.append(load_trace(evaluation, task=task.index, trial=0, space=policy.action_space))
        film = out / f"{task.name}.mp4"
        shutil.copyfile(episode_files(evaluation, task.index, 0)[0], film)
        clips.append(Clip(film, task.instruction, traces[-1].success))
    # A failure explains less at first sight.
    traces.sort(key=lambda trace: not trace.success)
    clips.sort(key=lambda clip: not clip.success)
    write_report(
        out / "report.html",
        Report(
            title="Libra-VLA quickstart",
            groups=_groups(results),
            curves=tuple(_curves(out, plan) for plan in POLICIES if not plan.blind),
            traces=tuple(traces),
            clips=tuple(clips),
            strips=load_strips(evaluation, results[LIBRA.name]),
            results=results[LIBRA.name],
            facts={
                "demonstrations": f"{config.demonstrations} per task, by the scripted expert, from "
                f"sampled resets; objects spread by {SPREAD * 100:.0f} cm to each side",
                "training": f"{config.steps} steps of each policy, one core each",
                "time": ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()),
            },
            commands=("make quickstart",),
        ),
    )


def _groups(results: dict[str, dict[str, Any]]) -> tuple[ArmGroup, ...]:
    def arm(name: str, plan: PolicyPlan) -> Arm:
        return Arm.from_results(
            results[name],
            name=plan.name,
            explanation=plan.explanation,
            role=plan.role,
            lacks=plan.lacks,
        )

    swapped = Arm.from_results(
        results[SWAPPED],
        name=SWAPPED,
        explanation="Libra, told to do the other task",
        role="control",
        lacks="its instruction",
    )
    return (
        ArmGroup(
            "Official initial states",
            "The benchmark's own states, in which objects hardly move.",
            (*(arm(plan.name, plan) for plan in POLICIES), swapped),
        ),
        ArmGroup(
            "Objects spread",
            f"Sampled resets in which every object may lie {SPREAD * 100:.0f} cm further to each "
            "side, so that the policy has to look; rendered with the demonstrations' meshes.",
            tuple(arm(f"{plan.name}, spread", plan) for plan in POLICIES),
        ),
    )


def _curves(out: Path, plan: PolicyPlan) -> Curves:
    run = out / "policies" / plan.name
    training = read_json(run / "checkpoint" / "policy.json")["training"]
    switched = None if "mono" in plan.preset else training["curriculum"]["switched_at"]
    return Curves.load(run / "metrics.jsonl", name=plan.name, switched_at=switched, role=plan.role)


def _brief(results: dict[str, Any]) -> dict[str, Any]:
    keys = ("episodes", "successes", "errors", "success_rate", "ci95", "protocol", "policy")
    return {key: results[key] for key in keys} | {"tasks": results["tasks"]}


def _peak_memory() -> float:
    """Largest resident memory of any one process so far, GiB."""
    mine, children = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(mine, children) / 2**20
