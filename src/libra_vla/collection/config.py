"""What `libra collect` is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from libra_vla.errors import LibraError


@dataclass(frozen=True)
class CollectConfig:
    """Collects demonstrations.

    Attributes:
        suite: name of the suite.
        out: folder of the dataset.
        tasks: indices or names of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: successful demonstrations per task.
        workers: processes, each with a simulator of its own.
        seed: of every attempt.
        spread: metres by which the regions of sampled objects grow (LIBERO).
        noise: largest standard deviation of the noise added to the executed motion command (its
            level is drawn per episode); what is recorded is the clean action, so that a policy
            learns to correct.
        recovery: probability that an episode is disturbed: before it begins the hand is led astray,
            or in mid-episode the robot is pushed or lets go; labels stay clean.
        shoves: probability that the hand is shoved off its way again and again while the expert
            works. What it does in between is what is learned from: how to come back from where a
            small policy drifts to.
        fumble: probability that the expert first misses a grasp or a placement, as small policies
            do. What it then does about that is recorded, and not disturbed.
        policy: folder that `libra train --out` wrote (DAgger): this policy drives up to a random
            moment, then the expert takes over and finishes. What the expert does is recorded.
        beta: with a policy, the share of episodes that the expert drives from the start.
        pass_over: with a policy, how many episodes it may solve, for each demonstration, before one
            of them is taken. If any, it drives for at least half of the step budget: the expert
            takes over where the policy has failed.
        image_size: side of the recorded frames, pixels.
        draw_every: control steps from one recorded picture to the next; in between the last one is
            repeated, and nothing is trained on. Where drawing takes most of the time, this buys
            more demonstrations; at the chunk H of a policy it still sees all that it plans on.
        meshes: what scenes are drawn with, recorded in the dataset; by default the fastest the
            benchmark has: "decimated" on LIBERO, otherwise "stock".
        max_steps: control steps after which an attempt has failed.
        stills: look at each scene with the hand in so many places, and write down where its things
            are, instead of demonstrating anything (LIBERO); see `libra train --stills`. `episodes`
            are scenes then.
        places: write down where things are in demonstrations, too (LIBERO): from these a planner
            without pictures learns (preset `small-places`).
        resume: go on with a dataset that was stopped.
    """

    suite: str
    out: Path
    tasks: str | None = None
    episodes: int = 50
    workers: int = 2
    seed: int = 0
    spread: float = 0.0
    noise: float = 0.1
    recovery: float = 0.0
    shoves: float = 0.0
    fumble: float = 0.0
    policy: Path | None = None
    beta: float = 0.0
    pass_over: int = 0
    image_size: int = 128
    draw_every: int = 1
    meshes: str | None = None
    max_steps: int = 400
    stills: int = 0
    places: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 0 or self.image_size < 16 or self.image_size % 2:
            raise LibraError(
                f"cannot collect {self.episodes} episodes of {self.image_size} px with "
                f"{self.workers} workers: expected at least 1, an even size from 16, and 0 or more"
            )
        if self.draw_every < 1:
            raise LibraError(f"draw_every is {self.draw_every}: expected at least 1 control step")
        if min(self.spread, self.noise) < 0:
            raise LibraError("spread and noise must not be negative")
        for name in ("recovery", "shoves", "fumble", "beta"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LibraError(f"{name} is {getattr(self, name)}: expected a probability, 0 to 1")
        if self.stills < 0:
            raise LibraError(f"stills is {self.stills}: expected 0 or more")
        about_motion = ("recovery", "shoves", "fumble", "policy")
        if self.stills and (given := [name for name in about_motion if getattr(self, name)]):
            raise LibraError(f"nothing moves in stills: leave out {', '.join(given)}")
        if self.fumble and self.policy is not None:
            raise LibraError("with --policy it is the policy that fumbles: leave out --fumble")
        if self.pass_over < 0:
            raise LibraError(f"pass_over is {self.pass_over}: expected at least 0")
        for name in ("beta", "pass_over"):
            if getattr(self, name) and self.policy is None:
                raise LibraError(f"{name} is about a policy that drives: add --policy")

    @property
    def begins_in_trouble(self) -> bool:
        """Whether something may have gone wrong before the expert begins, which it cannot always
        mend."""
        return self.policy is not None or self.fumble > 0
