"""`libra train`: one loop, a pure function of its configuration, that can stop anywhere."""

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.files import alone_in_out, require_absent, write_text
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.losses import Objective
from libra_vla.policies.places import Truth, place_loss
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.building import build_policy, split
from libra_vla.training.config import TrainConfig
from libra_vla.training.curriculum import CurriculumState
from libra_vla.training.hindsight import hastened
from libra_vla.training.optimiser import Optimiser
from libra_vla.training.precision import bfloat16_is_native, computing_in
from libra_vla.training.samples import Augmentation, Samples
from libra_vla.training.state import EMA, RECORD, TrainingState
from libra_vla.training.stills import StillSamples

VALIDATION_BATCHES = 8
EMULATED = "this CPU has no instructions for bfloat16: it is faster without --precision bf16"


@alone_in_out
def train(config: TrainConfig, *, position: int = 0, quiet: bool = False) -> dict[str, Any]:
    """Trains a policy and returns a summary: the last metrics, the switch, the folder.

    Args:
        position: line of the progress bar, for trainings side by side.
        quiet: show no progress bar.

    Raises:
        LibraError: bad dataset, unknown preset, an output folder that exists, a full disk.
        KeyboardInterrupt: after the running step's state has been saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run.prepare(config)
    if config.precision == "bf16" and not bfloat16_is_native(run.policy.device) and not quiet:
        tqdm.write(EMULATED, file=sys.stderr)
    with stop_between_steps() as stopped:
        run.loop(stopped, position, quiet)
    if stopped.is_set() and run.state.step < config.steps:
        raise KeyboardInterrupt(
            f"stopped after {run.state.step} of {config.steps} steps: run the same command with "
            "--resume to go on"
        )
    return run.summary()


@dataclass
class Run:
    """One training run and its folder."""

    config: TrainConfig
    policy: LibraPolicy
    samples: Samples
    held_out: Samples | None
    state: TrainingState
    identity: dict[str, Any]
    last: dict[str, Any]
    stills: StillSamples | None = None
    held_stills: StillSamples | None = None

    @classmethod
    def prepare(cls, config: TrainConfig) -> "Run":
        """Opens the data, builds the policy and, when asked, restores the saved state."""
        out = Path(config.out)
        saved = (out / "state" / RECORD).exists()
        if not config.resume:
            require_absent(
                out, what="the run folder", remedy="choose another --out, or continue with --resume"
            )
        dataset = LeRobotDataset.open(config.data)
        stills = None if config.stills is None else LeRobotDataset.open(config.stills)
        torch.manual_seed(config.seed)
        policy, training, held_out = build_policy(config, dataset, stills)
        if config.hasten:
            dataset = hastened(dataset)
        # A planner that plans by places, and learns alone, is told what there would be to see.
        seen = policy.config.planner.sees or dataset.places is None or config.refiner_weight > 0.0
        if config.only_looks:
            _learn_only_to_look(policy, plans=config.init is not None)
        elif stills is None and isinstance(policy.model, LibraModel):
            policy.model.planner.learn_only_to_plan()
        samples = Samples.of(policy, dataset, training, seen=seen)
        if config.focus:
            _ = samples.decisive  # there must be such, before anything is written
        latest = round(config.curriculum_latest * config.steps)
        curriculum = CurriculumState(config.curriculum, config.curriculum_accuracy, latest)
        ema, optimiser = EMA(policy.model, config.ema), Optimiser(policy.model, config)
        state = TrainingState(policy.model, optimiser, ema, curriculum)
        identity = config.decisive | {"dataset": dataset.fingerprint}
        scenes: list[StillSamples | None] = []
        if stills is not None:
            identity["stills"] = stills.fingerprint
            parts = split(config, len(stills.episodes))
            scenes = [StillSamples.of(policy, stills, part) if part else None for part in parts]
        if config.init is not None:
            identity["init"] = policy.checkpoint_hash
        if saved and config.resume:
            state.load(out / "state", identity)
        keep_metrics(out / "metrics.jsonl", state.step)
        held = Samples.of(policy, dataset, held_out) if held_out else None
        return cls(config, policy, samples, held, state, identity, {}, *scenes)

    def loop(self, stopped: threading.Event, position: int = 0, quiet: bool = False) -> None:
        """Takes the remaining steps, logging and saving on the way."""
        config, state = self.config, self.state
        bar = tqdm(
            total=config.steps, initial=state.step, desc=f"train {config.out.name}", unit="step",
            mininterval=1.0, smoothing=0.05, position=position, disable=quiet,
        )  # fmt: skip
        self._learning()
        with bar, (config.out / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            while state.step < config.steps and not stopped.is_set():
                log = self.step()
                bar.update()
                last = state.step == config.steps
                if state.step % config.log_every == 0 or last:
                    self.last = {"step": state.step, **{k: float(v) for k, v in log.items()}}
                    if self.held_out and (state.step % config.save_every == 0 or last):
                        self.last["validation"] = self.validate()
                    metrics.write(json.dumps(self.last) + "\n")
                    metrics.flush()
                    bar.set_postfix_str(describe(self.last), refresh=False)
                if state.step % config.save_every == 0 and not last:
                    self.save()
        self.save()

    def _learning(self) -> None:
        """Puts the network into training mode, but for a half that stays as it is: what that one
        plans or draws is what it will when deployed, with nothing left out."""
        self.policy.model.train()
        rests = {
            "planner": self.config.planner_weight == 0.0 and not self.config.only_looks,
            "refiner": self.config.refiner_weight == 0.0,
        }
        for name, does in rests.items():
            half = getattr(self.policy.model, name, None)
            if does and isinstance(half, torch.nn.Module):
                half.eval()

    def step(self) -> dict[str, Any]:
        """One optimiser step; all that is random in it depends on (seed, step) alone."""
        config, state = self.config, self.state
        rng = np.random.default_rng((config.seed, state.step))
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(np.random.default_rng((config.seed, state.step, 1)).integers(2**62)))
        augmentation = Augmentation(config.shift, config.jitter, config.paraphrase)
        predicted = state.curriculum.predicted_intents(state.step)
        rate = learning_rate(config, state.step)
        weights = (config.planner_weight, config.refiner_weight)
        objective = Objective(predicted, weights, config.draws, config.intent_noise, noise)
        loss, log = torch.zeros((), device=self.policy.device), {}
        with computing_in(config.precision, self.policy.device):
            if not config.only_looks:
                batch = self.samples.batch(rng, config.batch_size, augmentation, focus=config.focus)
                loss, log = self.policy.model.loss(batch, objective)
            if self.stills is not None:
                seen, truth = self.stills.batch(rng, config.stills_batch, augmentation)
                off, error = self._locate(seen, truth)
                loss, log = loss + config.places_weight * off, log | error
        if not torch.isfinite(loss):
            raise LibraError(
                f"the loss is {loss.item()} at step {state.step}: lower --learning-rate, or check "
                "the dataset with `libra data info`"
            )
        loss.backward()
        norms = gradient_norms(self.policy.model)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), config.clip)
        state.optimiser.step(rate)
        state.ema.update(self.policy.model, state.step)
        if "bin_accuracy" in log:
            state.curriculum.observe(float(log["bin_accuracy"]))
        state.step += 1
        return {
            "loss": loss.detach(),
            **log,
            **norms,
            "gradient_norm": norm,
            "learning_rate": rate,
            "predicted_intents": predicted,
        }

    def _locate(self, seen: Moment, truth: Truth) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of what the planner tells of places, and to log how far off what is asked for
        is."""
        model = self.policy.model
        assert isinstance(model, LibraModel)
        told = model.planner.locate(seen.images, seen.state, seen.instructions)
        error = (told.asked.detach() - truth.of_asked).norm(dim=-1).mean()
        return place_loss(told, truth), {"place_error_m": error}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses on held-out episodes: the same batches and noise every time.

        `refiner_loss` is with the planner's intents, `refiner_loss_true` with the true ones.
        """
        assert self.held_out is not None
        self.policy.model.eval()
        sums: dict[str, float] = {}
        for index in range(VALIDATION_BATCHES):
            rng = np.random.default_rng((self.config.split_seed, index))
            batch = self.held_out.batch(rng, self.config.batch_size)
            log = self._losses(batch, index, predicted_intents=True)
            true = self._losses(batch, index, predicted_intents=False)
            log |= {"refiner_loss_true": true["refiner_loss"]}
            if self.held_stills is not None:
                still = self.held_stills.batch(rng, self.config.batch_size, Augmentation())
                log |= self._locate(*still)[1]
            for name, value in log.items():
                sums[name] = sums.get(name, 0.0) + float(value) / VALIDATION_BATCHES
        self._learning()
        return sums

    def _losses(self, batch: Batch, noise: int, *, predicted_intents: bool) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(noise)
        objective = Objective(predicted_intents, draws=self.config.draws, generator=generator)
        with computing_in(self.config.precision, self.policy.device):
            return self.policy.model.loss(batch, objective)[1]

    def save(self) -> None:
        """Writes the resumable state first, then the checkpoint with the averaged weights."""
        self.state.save(self.config.out / "state", self.identity)
        curriculum = asdict(self.state.curriculum)
        self.policy.training = {
            **self.policy.training, "steps": self.state.step, "curriculum": curriculum,
        }  # fmt: skip
        self.policy.save_pretrained(self.config.out / "checkpoint", self.state.ema.weights)

    def summary(self) -> dict[str, Any]:
        return {
            "out": str(self.config.out),
            "steps": self.state.step,
            "parameters": self.policy.parameters(),
            "curriculum_switched_at": self.state.curriculum.switched_at,
            "metrics": self.last,
        }


def _learn_only_to_look(policy: LibraPolicy, *, plans: bool) -> None:
    """Freezes all of a policy but what tells places; and words, of one that can plan.

    Raises:
        LibraError: it has nothing of the kind, or plans by more than that.
    """
    if not isinstance(policy.model, LibraModel):
        raise LibraError("a monolithic policy has no planner that could learn to look alone")
    policy.model.planner.learn_only_to_look(plans=plans)
    policy.model.refiner.requires_grad_(False)


def gradient_norms(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Norm of the joint loss's gradient (weights included) in each of the two systems, as
    `planner_gradient_norm` and `refiner_gradient_norm`; nothing for a policy without them."""
    found: dict[str, torch.Tensor] = {}
    for name in ("planner", "refiner"):
        if isinstance(half := getattr(model, name, None), torch.nn.Module):
            gradients = [p.grad.norm() for p in half.parameters() if p.grad is not None]
            if gradients:
                found[f"{name}_gradient_norm"] = torch.stack(gradients).norm()
    return found


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to a hundredth of it."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def describe(log: dict[str, Any]) -> str:
    """The few numbers a progress bar has room for."""
    short = {"planner_loss": "planner", "bin_accuracy": "accuracy", "refiner_loss": "refiner"}
    return " ".join(f"{short[k]} {log[k]:.3f}" for k in short if k in log)


def keep_metrics(path: Path, step: int) -> None:
    """Drops the lines that were logged after the saved state, and any half-written one."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            if entry["step"] <= step:
                kept.append(line + "\n")
    write_text(path, "".join(kept))


@contextmanager
def stop_between_steps() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a request to stop after the running step; the second one stops
    at once. A signal that is ignored stays so: a worker listens to its parent alone, or the same
    Ctrl-C would reach it twice."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(signum: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    heard = (s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN)
    before = {s: signal.signal(s, handle) for s in heard}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
