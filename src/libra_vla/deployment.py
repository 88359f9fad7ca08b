"""`libra run`: refiner and executor on this machine, the planner on another one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from libra_vla.evaluation.config import EvalConfig, Mode
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.files import write_json
from libra_vla.serving.client import RemotePlanner, SplitPolicy
from libra_vla.serving.config import read_api_key
from libra_vla.simulation.benchmark import Benchmark


@dataclass(frozen=True)
class RunConfig:
    """Runs a suite with the planner elsewhere (`libra serve --role planner`).

    Attributes:
        policy: folder that `libra train --out` wrote; its refiner works here.
        planner: the planner's address, "ws://HOST:PORT", or "wss://" for TLS.
        suite: name of the suite.
        tasks: indices or names of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: trials per task, from the first official initial states.
        out: folder for `results.json` and `episodes.jsonl`; nothing is kept by default.
        mode: when the planner works.
        horizon_factor: M, chunks per plan; the policy's by default.
        execute: actions carried out of each chunk; all H by default.
        videos: record the first K trials of each task; needs `out`.
        seed: of scenes and noise.
        max_steps: step budget in place of the benchmark's.
        device: torch device of the refiner.
        timeout_s: seconds for each wait on the link: to connect, to send, to receive.
        patience_s: seconds for which one plan is asked for again. By default 10 where the robot
            waits for it (the episode then ends in an error), and `timeout_s` in concurrent mode,
            where the next attempt has a newer observation.
        api_key_file: file that holds the server's API key.
        ca_file: PEM certificates to trust instead of the system's.
    """

    policy: Path
    planner: str
    suite: str
    tasks: str | None = None
    episodes: int = 1
    out: Path | None = None
    mode: Mode = "sequential"
    horizon_factor: int | None = None
    execute: int | None = None
    videos: int = 0
    seed: int = 0
    max_steps: int | None = None
    device: str = "cpu"
    timeout_s: float = 2.0
    patience_s: float | None = None
    api_key_file: Path | None = None
    ca_file: Path | None = None


def run_split(
    config: RunConfig,
    *,
    benchmark: Benchmark | None = None,
    load_policy: LoadPolicy = load_policy,
) -> dict[str, Any]:
    """Runs the episodes and returns their results, with the link's statistics under `link`.

    Args:
        benchmark, load_policy: of `evaluate`.

    Raises:
        LibraError: the policy, the request or the planner does not fit, or nobody answers.
    """
    refiner = load_policy(config.policy, config.device)
    patience_s = config.patience_s
    if patience_s is None:
        patience_s = config.timeout_s if config.mode == "concurrent" else 10.0
    planner = RemotePlanner(
        config.planner,
        space=refiner.action_space,
        spec=refiner.observation_spec,
        timeout_s=config.timeout_s,
        patience_s=patience_s,
        api_key=read_api_key(config.api_key_file),
        ca_file=config.ca_file,
    )
    split = SplitPolicy(refiner, planner)
    with TemporaryDirectory() as aside:
        out = config.out or Path(aside) / "run"
        try:
            results = evaluate(
                _evaluation(config, out),
                benchmark=benchmark,
                load_policy=lambda folder, device: split,
            )
        finally:
            planner.close()
        results |= {"link": {"planner": config.planner, **asdict(planner.statistics)}}
        write_json(out / "results.json", results)
    return results


def _evaluation(config: RunConfig, out: Path) -> EvalConfig:
    return EvalConfig(
        policy=config.policy,
        suite=config.suite,
        out=out,
        tasks=config.tasks,
        episodes=config.episodes,
        mode=config.mode,
        horizon_factor=config.horizon_factor,
        execute=config.execute,
        workers=0,  # one robot, one link
        seed=config.seed,
        videos=config.videos,
        max_steps=config.max_steps,
        device=config.device,
    )
