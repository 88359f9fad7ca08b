"""DAgger: a policy drives, as at evaluation, until the expert takes over.

Only states that the expert drives away from are recorded, with labels of an expert that planned
from the state it found at the hand-over: it may be asked about any state, but its stages (reach,
close, carry) follow one another as if its own actions were carried out, so that beside a driving
policy they would soon belong to another episode. (DAgger, Ross et al. 2011, labels every state;
that the expert takes over at a random moment and finishes is AggreVaTe's, Ross & Bagnell 2014.)
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from libra_vla.evaluation.policies import DescribedPolicy, LoadPolicy
from libra_vla.evaluation.rollout import rollout
from libra_vla.execution.executor import Executor
from libra_vla.simulation.benchmark import Environment


def drive(
    env: Environment,
    load_policy: LoadPolicy,
    folder: Path,
    *,
    end_effector: Callable[[Environment], np.ndarray],
    budget: int,
    seed: int,
    spread: float,
    rng: np.random.Generator,
    pass_over: int = 0,
) -> int:
    """Starts an episode and lets the policy drive up to a moment that is drawn.

    If it solves the task before, the same episode is driven again, to an earlier moment: alike for
    a policy that always succeeds and one that is stuck, any moment of its way may be drawn.

    Args:
        budget: control steps; the moment is drawn from these.
        seed: of the environment and the policy's noise.
        rng: of the moment.
        pass_over: how often another episode is begun instead, for the policy's failures. The
            moment is then drawn from the second half of the budget.

    Returns:
        Control steps that the policy drove.

    Raises:
        RuntimeError: the episode ended in an error.
    """
    policy, earliest = _policy(load_policy, folder), max(1, budget // 2) if pass_over else 1
    steps = int(rng.integers(earliest, budget + 1))
    env.cameras = policy.observation_spec.cameras
    with _one_thread(), closing(Executor(policy)) as executor:
        while True:
            episode = rollout(
                env,
                executor,
                end_effector=lambda: end_effector(env),
                seed=seed,
                step_budget=steps,
                spread=spread,
            )
            if episode.error is not None:
                raise RuntimeError(episode.error)
            if not episode.success:
                return episode.steps
            if pass_over > 0:
                pass_over, seed = pass_over - 1, int(rng.integers(2**31))
                steps = int(rng.integers(earliest, budget + 1))
            else:
                steps = int(rng.integers(episode.steps))


@cache
def _policy(load_policy: LoadPolicy, folder: Path) -> DescribedPolicy:
    return load_policy(folder, "cpu")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Whatever process it works in, a policy computes the same: sums depend on the threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
