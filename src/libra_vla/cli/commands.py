"""One function per command: words in, text and exit code out.

Each imports what it calls when it is called, so that no command waits for another one's libraries.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tyro.conf import Positional

from libra_vla.cli import summaries
from libra_vla.cli.parsing import parse
from libra_vla.errors import LibraError

Words = Sequence[str]


class Outcome(NamedTuple):
    """What to print on stdout, and the exit code."""

    text: str
    code: int = 0


def quickstart(words: Words) -> Outcome:
    """Demonstrations, training, evaluation and a report, in one go."""
    from libra_vla.quickstart import QuickstartConfig, quickstart

    config = parse(QuickstartConfig, words, command="quickstart")
    return Outcome(summaries.quickstart(quickstart(config), config.out))


def collect(words: Words) -> Outcome:
    """Demonstrations by the scripted experts."""
    from libra_vla.collection import CollectConfig, collect

    config = parse(CollectConfig, words, command="collect")
    return Outcome(summaries.collect(collect(config), config.out))


def train(words: Words) -> Outcome:
    """A policy from a dataset."""
    from libra_vla.training import TrainConfig, train

    config = parse(TrainConfig, words, command="train")
    return Outcome(summaries.train(train(config), config.out))


def eval(words: Words) -> Outcome:
    """Success rates of a policy on a suite."""
    from libra_vla.evaluation.config import EvalConfig

    config = parse(EvalConfig, words, command="eval")
    from libra_vla.evaluation.evaluate import evaluate
    from libra_vla.reports.evaluation import write_evaluation_report

    results = evaluate(config)
    page = write_evaluation_report(config.out, results)
    return Outcome(f"{summaries.evaluate(results, config.out)}\nopen  {page}")


def study_suites(words: Words) -> Outcome:
    """One policy on all suites, from nothing."""
    from libra_vla.studies.suites import SuitesConfig, study_suites

    config = parse(SuitesConfig, words, command="study suites")
    return Outcome(summaries.suites(study_suites(config), config.out))


def study_granularity(words: Words) -> Outcome:
    """Success over N, and where balance foretells its peak."""
    from libra_vla.studies.granularity import GranularityConfig, study_granularity

    config = parse(GranularityConfig, words, command="study granularity")
    return Outcome(summaries.granularity(study_granularity(config), config.out))


def study_components(words: Words) -> Outcome:
    """What each half brings."""
    from libra_vla.studies.components import ComponentsConfig, study_components

    config = parse(ComponentsConfig, words, command="study components")
    return Outcome(summaries.arms(study_components(config), config.out))


def study_curriculum(words: Words) -> Outcome:
    """Which intents the refiner should be trained on."""
    from libra_vla.studies.curriculum import CurriculumConfig, study_curriculum

    config = parse(CurriculumConfig, words, command="study curriculum")
    return Outcome(summaries.arms(study_curriculum(config), config.out))


def study_convergence(words: Words) -> Outcome:
    """A third of the budget against all of it."""
    from libra_vla.studies.convergence import ConvergenceConfig, study_convergence

    config = parse(ConvergenceConfig, words, command="study convergence")
    return Outcome(summaries.arms(study_convergence(config), config.out))


def study_baselines(words: Words) -> Outcome:
    """Other policies of equal size."""
    from libra_vla.studies.baselines import BaselinesConfig, study_baselines

    config = parse(BaselinesConfig, words, command="study baselines")
    return Outcome(summaries.arms(study_baselines(config), config.out))


def study_asynchrony(words: Words) -> Outcome:
    """What a late planner costs."""
    from libra_vla.studies.asynchrony import AsynchronyConfig, study_asynchrony

    config = parse(AsynchronyConfig, words, command="study asynchrony")
    return Outcome(summaries.asynchrony(study_asynchrony(config), config.out))


@dataclass(frozen=True)
class ExportOptions:
    """Writes a policy's checkpoint with 16-bit weights: half the size, for shipping.

    Attributes:
        policy: folder that `libra train --out` wrote.
        out: folder of the new checkpoint.
        refiner: another such folder, whose refiner takes the place of the policy's own: the halves
            may be trained side by side, with `--refiner-weight 0` and `--planner-weight 0`.
        average: the folder that the policy's training began with (`--init`): the mean of both
            weights often keeps what the one knew and has what the other learned (Wortsman et al.,
            2022).
    """

    policy: Path
    out: Path
    refiner: Path | None = None
    average: Path | None = None


def export(words: Words) -> Outcome:
    """A checkpoint of half the size."""
    options = parse(ExportOptions, words, command="export")
    from libra_vla.files import require_absent
    from libra_vla.policies.halves import averaged, joined_halves
    from libra_vla.policies.policy import LibraPolicy

    require_absent(options.out, what="the checkpoint", remedy="choose another --out")
    policy = LibraPolicy.from_pretrained(options.policy)
    if options.average is not None:
        policy = averaged(policy, LibraPolicy.from_pretrained(options.average))
    if options.refiner is not None:
        policy = joined_halves(policy, LibraPolicy.from_pretrained(options.refiner))
    policy.save_pretrained(options.out, half=True)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    return Outcome(f"wrote {options.out} ({size / 1e6:.1f} MB)")


def serve(words: Words) -> Outcome:
    """A policy behind a websocket."""
    from libra_vla.serving.config import ServeConfig

    config = parse(ServeConfig, words, command="serve")
    from libra_vla.serving.serve import run_server

    return Outcome(run_server(config))


def run(words: Words) -> Outcome:
    """Refiner here, planner elsewhere."""
    from libra_vla.deployment import RunConfig

    config = parse(RunConfig, words, command="run")
    from libra_vla.deployment import run_split

    return Outcome(summaries.run(run_split(config), config.out))


def bench(words: Words) -> Outcome:
    """Speed, side by side."""
    from libra_vla.benchmark import BenchConfig, bench

    config = parse(BenchConfig, words, command="bench")
    return Outcome(summaries.outline(bench(config)) + f"\nwrote {config.out / 'bench.json'}")


@dataclass(frozen=True)
class InfoOptions:
    """Describes a preset or a trained policy: parameters per part, FLOPs, memory.

    Attributes:
        preset: name of a preset.
        policy: folder that `libra train --out` wrote.
        json: print JSON.
    """

    preset: str | None = None
    policy: Path | None = None
    json: bool = False


def info(words: Words) -> Outcome:
    """What a preset or a policy is made of."""
    options = parse(InfoOptions, words, command="info")
    if (options.preset is None) == (options.policy is None):
        from libra_vla.config import preset_names

        presets = ", ".join(preset_names())
        raise LibraError(f"libra info needs either --preset ({presets}) or --policy RUN")
    from libra_vla.policies.info import describe_policy, describe_preset

    if options.preset is not None:
        described = describe_preset(options.preset)
    else:
        assert options.policy is not None
        described = describe_policy(options.policy)
    return Outcome(_json(described) if options.json else summaries.outline(described))


@dataclass(frozen=True)
class DataInfoOptions:
    """Describes a LeRobot v3.0 dataset.

    Attributes:
        dataset: folder of the dataset.
        bins: granularity of the action histograms; the paper's N by default.
        json: print JSON.
        out: write a contact sheet (PNG) of its episodes to this file.
    """

    dataset: Positional[Path]
    bins: int = 10
    json: bool = False
    out: Path | None = None


def data_info(words: Words) -> Outcome:
    """What is in a dataset."""
    options = parse(DataInfoOptions, words, command="data info")
    from libra_vla.data.info import contact_sheet, describe

    described = describe(options.dataset, bins=options.bins)
    if options.out is not None:
        contact_sheet(options.dataset, options.out)
    return Outcome(_json(described) if options.json else summaries.data_info(described))


@dataclass(frozen=True)
class DataMergeOptions:
    """Merges LeRobot v3.0 datasets that have the same cameras, numbers and action convention.

    Attributes:
        datasets: folders of the datasets, in the order their episodes are to have.
        out: folder of the new dataset.
    """

    datasets: Positional[tuple[Path, ...]]
    out: Path


def data_merge(words: Words) -> Outcome:
    """Several datasets as one."""
    options = parse(DataMergeOptions, words, command="data merge")
    from libra_vla.data.merge import merge

    return Outcome(summaries.data_merge(merge(options.datasets, options.out)))


@dataclass(frozen=True)
class DoctorOptions:
    """Says what this machine lacks. The exit code is 0 if nothing, 1 if something.

    Attributes:
        json: print JSON.
    """

    json: bool = False


def doctor(words: Words) -> Outcome:
    """What this machine lacks."""
    options = parse(DoctorOptions, words, command="doctor")
    from libra_vla.doctor import examine

    found = examine()
    text = _json(found) if options.json else summaries.doctor(found)
    return Outcome(text, 0 if found["ok"] else 1)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False)
