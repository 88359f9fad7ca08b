"""The planner far away: what the robot's side does when the server or the link fails."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from fakes import (
    CONVENTION,
    SPACE,
    SPEC,
    TOY,
    ScriptedPolicy,
    load_scripted,
    observation,
)
from lossy_link import LossyLink
from serving_tools import Link, ServerProcess, serving
from test_policies import make_policy, observe
from websockets.sync.server import serve as raw_server

from libra_vla.action_space import ActionSpace
from libra_vla.cli import summaries
from libra_vla.deployment import RunConfig, run_split
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import Mode
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.protocol import Policy
from libra_vla.policies.batched import BatchedPolicy
from libra_vla.serving.client import RemotePlanner, SplitPolicy
from libra_vla.serving.codec import pack, unpack


@contextmanager
def remote(port: int, **options):
    options = {"space": SPACE, "spec": SPEC, "timeout_s": 5.0, "patience_s": 20.0} | options
    planner = RemotePlanner(f"ws://127.0.0.1:{port}", **options)
    try:
        yield planner
    finally:
        planner.close()


def test_a_remote_plan_is_the_local_one():
    policy = make_policy()
    with (
        serving(BatchedPolicy(policy), role="planner") as server,
        remote(server.port, space=policy.action_space, spec=policy.observation_spec) as planner,
    ):
        for step in (0, 7, 400):
            there, here = planner.plan(observe(step)), policy.plan(observe(step))
            np.testing.assert_array_equal(there.coarse, here.coarse)
            np.testing.assert_array_equal(there.distribution, here.distribution)
            assert there.observation_step == step
            assert there.coarse.flags.writeable, "the refiner makes tensors of it"


def test_a_split_policy_is_a_policy_and_runs():
    local, far = ScriptedPolicy(), ScriptedPolicy()
    with serving(far, role="planner") as server, remote(server.port) as planner:
        split = SplitPolicy(local, planner)
        assert isinstance(split, Policy) and split.seeds is local.seeds
        executor = Executor(split, ExecutionConfig())
        executor.reset(3)
        for step in range(20):
            executor.act(lambda step=step: observation(step))
    assert [c.planned for c in executor.trace] == [True, False, True, False]
    assert far.calls == [("plan", 0), ("plan", 10)]
    assert {name for name, _ in local.calls} == {"refine"} and local.seeds == [3]


def test_libra_run_evaluates_with_the_planner_elsewhere(tmp_path):
    with serving(ScriptedPolicy(), role="planner") as server:
        config = RunConfig(
            policy=tmp_path / "scripted",
            planner=f"ws://127.0.0.1:{server.port}",
            suite="toy",
            tasks="0",
            episodes=3,
            out=tmp_path / "out",
        )
        results = run_split(config, benchmark=TOY, load_policy=load_scripted)
        assert (results["successes"], results["errors"]) == (2, 0)
        assert results["link"]["plans"] == 1 + 3, "one warms up"
        assert results["link"]["failures"] == 0
        assert results["policy"]["planner"] == "0" * 64
        assert (tmp_path / "out" / "results.json").exists()
        said = summaries.run(results, config.out).splitlines()
        assert said[-1] == "4 plans over 1 connections, 0 failures"


def test_an_episode_without_a_planner_ends_in_an_error_that_says_so(tmp_path):
    """In line there is nobody else to ask: no plan, no action, and the reason in the results."""

    class Deaf(ScriptedPolicy):
        def plan(self, observation):
            time.sleep(1.0)
            return super().plan(observation)

    with serving(Deaf(), role="planner") as server:
        url = f"ws://127.0.0.1:{server.port}"
        options = {"timeout_s": 0.2, "patience_s": 0.5, "episodes": 1, "tasks": "0"}
        config = RunConfig(tmp_path / "scripted", url, "toy", **options)
        with pytest.raises(LibraError, match=r"gave no plan within 0\.5 s"):
            run_split(config, benchmark=TOY, load_policy=load_scripted)


def test_a_server_killed_and_restarted():
    """In mid-episode, with SIGKILL: the episode goes on with the next server's plans."""
    server, again = ServerProcess(), []

    def restart() -> None:
        time.sleep(0.5)
        again.append(ServerProcess(server.port))

    restarting = threading.Thread(target=restart)
    with remote(server.port) as planner:
        executor = Executor(SplitPolicy(ScriptedPolicy(), planner), ExecutionConfig())
        executor.reset(0)
        for step in range(40):
            if step == 15:
                server.kill()
                restarting.start()
            executor.act(lambda step=step: observation(step))
        restarting.join()
        again[0].kill()
        assert planner.statistics.connects == 2 and planner.statistics.failures >= 1
        assert planner.statistics.plans == 4
    steps = [round(float(c.actions[0, 1]) * 1000) for c in executor.trace]
    assert steps == list(range(0, 40, 5)), "nothing skipped, nothing twice"


@pytest.mark.skipif("concurrent" not in get_args(Mode), reason="no concurrent mode")
def test_concurrent_mode_never_waits_for_a_planner_that_is_away():
    """Killed and restarted under a robot that moves: no step waits, and plans flow again."""
    server, again = ServerProcess(), []
    with remote(server.port, timeout_s=0.5, patience_s=0.5) as planner:
        executor = Executor(
            SplitPolicy(ScriptedPolicy(), planner), ExecutionConfig(mode="concurrent")
        )
        executor.reset(0)
        for step in range(240):
            if step == 60:
                server.kill()
            if step == 110:
                again.append(ServerProcess(server.port))
            began = time.monotonic()
            action = executor.act(lambda step=step: observation(step))
            assert np.isfinite(action).all() and time.monotonic() - began < 0.3
            time.sleep(0.02)
        arrived = [plan.step for plan in executor.plans]
        executor.close()
    again[0].kill()
    assert not [step for step in arrived if 70 < step < 110] and arrived[-1] > 150
    assert executor.halts, "it stood still meanwhile, and said so"


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_link_that_fails_and_comes_back(how):
    with serving(ScriptedPolicy(), role="planner") as server:
        link = Link(server.port)
        with remote(link.port, timeout_s=0.5) as planner:
            planner.plan(observation(0))
            if how == "cut":
                link.cut()
            else:
                link.flowing.clear()
            mend = threading.Timer(1.5, lambda: (link.mend(), link.flowing.set()))
            began = time.monotonic()
            mend.start()
            assert planner.plan(observation(10)).observation_step == 10
            assert time.monotonic() - began > 1.0
            assert planner.statistics.failures >= 2 and planner.statistics.connects >= 2
            assert planner.plan(observation(20)).observation_step == 20
        link.close()


def test_a_slow_link_only_takes_longer():
    with serving(ScriptedPolicy(), role="planner") as server:
        link = Link(server.port)
        link.delay_s = 0.05
        with remote(link.port) as planner:
            for step in range(0, 50, 10):
                assert planner.plan(observation(step)).observation_step == step
            assert planner.statistics.failures == 0
        link.close()


def test_every_wait_ends():
    """Somebody accepts and never speaks: making the planner raises in time, and says why."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with (
            pytest.raises(LibraError, match=r"no answer within 0\.2 s"),
            remote(silent.getsockname()[1], timeout_s=0.2, patience_s=1.0),
        ):
            pass
        assert time.monotonic() - began < 5.0


def test_a_link_that_takes_nothing_does_not_block_sending():
    big = observation(0)
    big = type(big)(
        {"agentview": np.zeros((2000, 2000, 3), dtype=np.uint8)}, big.state, big.instruction
    )
    with serving(ScriptedPolicy(), role="planner") as server:
        link = Link(server.port)
        with remote(link.port, timeout_s=0.3, patience_s=1.0) as planner:
            link.flowing.clear()
            began = time.monotonic()
            with pytest.raises(LibraError, match="gave no plan within"):
                planner.plan(big)
            assert time.monotonic() - began < 5.0
        link.close()


def test_close_ends_a_plan_that_waits():
    server = ServerProcess()
    with remote(server.port) as planner:
        server.kill()
        failed = []

        def work() -> None:
            try:
                planner.plan(observation(0))
            except LibraError as error:
                failed.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        planner.close()
        thread.join(10)
    assert failed and "was closed" in failed[0]


@contextmanager
def scripted_answers(*answers):
    """A planner that says what it is told to, request by request; then what it should."""
    pending = list(answers)
    with serving(ScriptedPolicy(), role="planner") as server:
        metadata = pack(server.metadata())

    def work(connection) -> None:
        connection.send(metadata)
        for message in connection:
            asked = unpack(message)
            plan = ScriptedPolicy().plan(observation(asked["libra/step"]))
            good = {
                "libra/coarse": plan.coarse,
                "libra/distribution": plan.distribution,
                "libra/step": asked["libra/step"],
                "libra/sequence": asked["libra/sequence"],
            }
            connection.send(pack(good | (pending.pop(0) if pending else {})))
            if "libra/sequence" in (answers[0] if answers else {}):
                connection.send(pack(good))

    with raw_server(work, "127.0.0.1", 0, compression=None) as raw:
        thread = threading.Thread(target=raw.serve_forever, daemon=True)
        thread.start()
        yield raw.socket.getsockname()[1]
        raw.shutdown()


@pytest.mark.parametrize(
    "wrong",
    [
        {"libra/step": 3},
        {"libra/coarse": np.full((10, 3), 10)},
        {"libra/coarse": np.full((10, 3), -1)},
        {"libra/coarse": np.zeros((10, 2), dtype=np.int64)},
        {"libra/coarse": np.zeros((10, 3))},
        {"libra/coarse": "x"},
        {"libra/distribution": np.full((10, 3, 10), np.nan, dtype=np.float32)},
        {"libra/distribution": np.zeros((1, 3, 10), dtype=np.float32)},
    ],
)
def test_an_answer_that_is_no_plan_costs_the_connection_and_is_asked_for_again(wrong):
    with scripted_answers(wrong) as port, remote(port) as planner:
        assert planner.plan(observation(7)).observation_step == 7
        assert (planner.statistics.failures, planner.statistics.connects) == (1, 2)


def test_an_answer_to_an_earlier_request_is_dropped():
    with scripted_answers({"libra/sequence": 0}) as port, remote(port) as planner:
        assert planner.plan(observation(7)).observation_step == 7
        assert planner.statistics.stale == 1


def test_a_planner_of_something_else_is_refused():
    other = ActionSpace(CONVENTION, bins=(8, 8, 8), low=(-1.0,) * 3, high=(1.0,) * 3)
    for role, space, said in (
        ("planner", other, "granularity"),
        ("policy", SPACE, "--role planner"),
    ):
        with (
            serving(role=role) as server,
            pytest.raises(LibraError, match=said),
            remote(server.port, space=space),
        ):
            pass
    with pytest.raises(LibraError, match="expected ws://"):
        RemotePlanner("http://127.0.0.1", space=SPACE, spec=SPEC)


def test_a_refused_observation_is_not_asked_for_again():
    with serving(role="planner") as server, remote(server.port) as planner:
        with pytest.raises(LibraError, match="'prompt' is 0 characters"):
            seen = observation(0)
            planner.plan(type(seen)(seen.images, seen.state, "", 0))
        assert planner.statistics.failures == 0
        assert planner.plan(observation(0)).observation_step == 0


def test_a_wrong_key_is_said_at_once(tmp_path):
    (tmp_path / "key").write_text("right")
    with serving(role="planner", api_key_file=tmp_path / "key") as server:
        with (
            pytest.raises(LibraError, match="check the API key"),
            remote(server.port, api_key="wrong"),
        ):
            pass
        with remote(server.port, api_key="right") as planner:
            planner.plan(observation(0))


ROBOT = """
import sys, json, time; sys.path.insert(0, sys.argv[1])
from fakes import SPACE, SPEC, ScriptedPolicy, observation
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.serving.client import RemotePlanner, SplitPolicy
planner = RemotePlanner("ws://10.213.7.2:8011", space=SPACE, spec=SPEC, timeout_s=1.0,
                        patience_s=60.0)
executor = Executor(SplitPolicy(ScriptedPolicy(), planner), ExecutionConfig())
executor.reset(0)
for step in range(200):
    executor.act(lambda: observation(step))
    time.sleep(0.02)
    if step % 10 == 0:
        print(step, flush=True)
print(json.dumps([planner.statistics.plans, planner.statistics.failures,
                  planner.statistics.connects, len(executor.trace)]), flush=True)
"""
SERVER = """
import asyncio, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path; from fakes import ScriptedPolicy
from libra_vla.serving.config import ServeConfig
from libra_vla.serving.served import OneByOne
from libra_vla.serving.server import PolicyServer
config = ServeConfig(Path("none"), host="10.213.7.2", port=8011, role="planner")
server = PolicyServer(OneByOne(ScriptedPolicy()), config)
asyncio.run(server.run(lambda: print("up", flush=True), signals=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs root on Linux")
def test_two_namespaces_whose_slow_lossy_link_is_cut_and_comes_back():
    """Two network stacks; a cut link ends no connection, packets just stop."""
    name = f"lv{os.getpid() % 100000}"
    try:
        link = LossyLink(name, delay=(0.03, 0.05), loss=0.03)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")

    def inside(where: str, code: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", f"{name}-{where}", sys.executable, "-c", code]
        tests = str(Path(__file__).parent)
        return subprocess.Popen([*command, tests], stdout=subprocess.PIPE, text=True)

    processes: list[subprocess.Popen[str]] = []
    try:
        processes.append(inside("b", SERVER))
        assert processes[0].stdout is not None and processes[0].stdout.readline() == "up\n"
        processes.append(inside("a", ROBOT))
        said = processes[1].stdout
        assert said is not None
        while said.readline().strip() != "50":
            assert processes[1].poll() is None
        link.up(False)
        time.sleep(5.0)
        assert processes[1].poll() is None, "the robot waits"
        link.up(True)
        *_, last = said
        plans, failures, connects, chunks = json.loads(last)
        assert (plans, chunks) == (20, 40) and failures >= 1 and connects >= 2
        assert link.lost > 0 and link.carried > 100
    finally:
        for process in processes:
            process.kill()
            process.wait()
        link.close()
