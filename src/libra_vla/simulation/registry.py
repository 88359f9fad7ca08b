"""The benchmarks there are, found by the names of their suites."""

from libra_vla.errors import unknown
from libra_vla.simulation.benchmark import Benchmark
from libra_vla.simulation.libero.disturbances import move_object
from libra_vla.simulation.libero.environment import (
    CAMERAS,
    LIBERO_CONVENTION,
    STATE_NAMES,
    LiberoEnv,
)
from libra_vla.simulation.libero.expert import ScriptedExpert, supports
from libra_vla.simulation.libero.probes import end_effector, tells, watch_goal
from libra_vla.simulation.libero.stills import asked_by, place_names, stills, whereabouts
from libra_vla.simulation.libero.suites import SETTLE_STEPS, SUITES, load_tasks, official_states
from libra_vla.simulation.libero.witness import LiberoWitness
from libra_vla.simulation.metaworld import environment as metaworld
from libra_vla.simulation.metaworld import tasks as metaworld_tasks

LIBERO = Benchmark(
    name="LIBERO",
    suites=SUITES,
    tasks=load_tasks,
    official_states=official_states,
    make_env=LiberoEnv,
    make_expert=ScriptedExpert,
    supports=supports,
    convention=LIBERO_CONVENTION,
    cameras=tuple(CAMERAS),
    state_names=STATE_NAMES,
    end_effector=end_effector,
    watch_goal=watch_goal,
    move_object=move_object,
    settle_steps=SETTLE_STEPS,
    image_size=256,
    meshes=("stock", "decimated"),
    tells=tells,
    witness=LiberoWitness,
    stills=stills,
    place_names=place_names,
    whereabouts=whereabouts,
    asked=asked_by,
    views=LiberoEnv.views,
)

METAWORLD = Benchmark(
    name="Meta-World",
    suites=tuple(metaworld_tasks.SUITES),
    tasks=metaworld_tasks.load_tasks,
    official_states=metaworld_tasks.official_states,
    make_env=metaworld.MetaworldEnv,
    make_expert=metaworld.MetaworldExpert,
    supports=metaworld.supports,
    convention=metaworld.METAWORLD_CONVENTION,
    cameras=tuple(metaworld.CAMERAS),
    state_names=metaworld.STATE_NAMES,
    end_effector=metaworld.end_effector,
    watch_goal=metaworld.watch_goal,
    move_object=None,
    settle_steps=0,
    image_size=128,
    spreads=False,
)

BENCHMARKS = (LIBERO, METAWORLD)


def benchmark_of(suite: str) -> Benchmark:
    """Returns the benchmark that a suite belongs to.

    Raises:
        LibraError: unknown suite, with the nearest match.
    """
    owners = {name: benchmark for benchmark in BENCHMARKS for name in benchmark.suites}
    if suite not in owners:
        raise unknown("suite", suite, owners)
    return owners[suite]
