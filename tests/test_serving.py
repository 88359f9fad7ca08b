"""The server: openpi's own client, episodes, several clients, keys, and how it stops."""

import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import CONVENTION, ScriptedPolicy, ToyEnv, toy_tasks
from serving_tools import Client, ServerProcess, request, serving
from test_policies import make_policy, observe
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from libra_vla.cli import main
from libra_vla.errors import LibraError
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.policies.batched import BatchedPolicy
from libra_vla.serving.codec import pack
from libra_vla.serving.config import ServeConfig, read_api_key
from libra_vla.serving.measure import measure
from libra_vla.serving.requests import write_observation


def http(port: int, path: str, **headers: str) -> tuple[int, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_openpi_client_runs_an_episode():
    """As openpi's LIBERO example does: ask, carry the chunk out, ask again."""
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    env = ToyEnv(toy_tasks("toy")[0])
    env.reset(seed=0, init_state=np.array([0]), spread=0.0)
    policy = ScriptedPolicy()
    with serving(policy) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        assert client.get_server_metadata()["action_horizon"] == 5
        solved, asked, actions = False, 0, []
        while not solved and env.steps < 8:
            if not actions:
                answer = client.infer(request(**{"observation/state": env.position}))
                actions, asked = list(answer["actions"]), asked + 1
                assert answer["server_timing"]["infer_ms"] >= answer["policy_timing"]["infer_ms"]
            solved = env.step(actions.pop(0))
        client._ws.close()
    assert solved and env.steps == 6 and asked == 2
    assert policy.calls == [("plan", 0), ("refine", 0), ("refine", 5)], "intents were kept"


def test_openpi_client_hears_what_was_wrong_and_goes_on():
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    with serving() as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        with pytest.raises(RuntimeError, match="'observation/state' holds nan at index 1"):
            client.infer(request(**{"observation/state": np.array([0, np.nan, 0])}))
        assert client.infer(request())["actions"].shape == (5, 3)
        client._ws.close()


def test_an_episode_begins_where_it_should():
    policy = ScriptedPolicy()
    with serving(policy) as server, Client(server.port) as client:

        def step(**keys) -> tuple[int, int, bool]:
            answer = client.ask(request(**keys))
            return answer["libra/step"], answer["libra/episode"], answer["libra/planned"]

        assert step() == (0, 1, True)
        assert step() == (5, 1, False)
        assert step(**{"libra/reset": True}) == (0, 2, True)
        assert step(prompt="another thing") == (0, 3, True)
        assert step(**{"prompt": "another thing", "libra/step": 3}) == (3, 3, False)
        assert step(**{"prompt": "another thing", "libra/step": 3}) == (3, 3, False), "asked again"
        assert step(**{"prompt": "another thing", "libra/step": 40}) == (40, 3, True)
        assert step(**{"prompt": "another thing", "libra/step": 0}) == (0, 4, True)
        with Client(server.port) as other:
            assert other.ask(request())["libra/episode"] == 1


def test_synchronous_mode_keeps_nothing():
    policy = ScriptedPolicy()
    with serving(policy, mode="synchronous") as server, Client(server.port) as client:
        assert [client.ask(request())["libra/planned"] for _ in range(3)] == [True] * 3


def test_fewer_actions_per_chunk_can_be_agreed_on():
    with serving(execute=2) as server, Client(server.port) as client:
        assert client.metadata["execute"] == 2
        assert [client.ask(request())["libra/step"] for _ in range(3)] == [0, 2, 4]


@pytest.mark.parametrize("horizon_factor", [1, 2])
def test_what_is_served_is_what_the_executor_does(horizon_factor):
    """The same network, seed and observations: the same actions to the last bit."""
    policy = make_policy()
    executor = Executor(policy, ExecutionConfig(horizon_factor=horizon_factor))
    executor.reset(seed=11)
    for step in range(4 * policy.chunk):
        executor.act(lambda step=step: observe(step))
    local = [chunk.actions for chunk in executor.trace]
    with (
        serving(BatchedPolicy(policy), horizon_factor=horizon_factor) as server,
        Client(server.port) as client,
    ):
        for index, expected in enumerate(local):
            seen = write_observation(observe(index * policy.chunk), ("agentview", "wrist"))
            answer = client.ask(seen | {"libra/seed": 11})
            np.testing.assert_array_equal(answer["actions"], expected)


def episode(port: int, seed: int, chunks: int = 6) -> list[np.ndarray]:
    with Client(port) as client:
        actions = []
        for index in range(chunks):
            seen = write_observation(observe(100 * seed + index), ("agentview", "wrist"))
            del seen["libra/step"]
            actions.append(client.ask(seen)["actions"])
        return actions


def test_who_else_is_connected_makes_no_difference_and_requests_share_passes():
    with serving(BatchedPolicy(make_policy()), max_batch=4) as server:
        alone = [episode(server.port, seed) for seed in range(6)]
        with ThreadPoolExecutor(6) as crowd:
            together = list(crowd.map(lambda seed: episode(server.port, seed), range(6)))
        sizes = {
            sample.labels["le"]: sample.value
            for family in server.metrics._registry.collect()
            for sample in family.samples
            if sample.name == "libra_batch_size_bucket"
        }
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert sizes["4.0"] == 72 and sizes["1.0"] < 72


def test_a_request_that_breaks_the_policy_spoils_no_other():
    class Moody(ScriptedPolicy):
        def plan(self, observation):
            if observation.instruction == "break":
                raise ZeroDivisionError("a secret of the server")
            return super().plan(observation)

    with serving(Moody()) as server, Client(server.port) as good, Client(server.port) as bad:
        for _ in range(5):
            bad.raw.send(pack(request(prompt="break")))
            assert good.ask(request())["actions"].shape == (5, 3)
            assert bad.raw.recv(timeout=20) == "error: the server failed; its log says why"
        assert server.metrics.count("failed") == 5


def test_actions_that_are_not_finite_are_never_sent():
    with serving(ScriptedPolicy(bad_step=0)) as server, Client(server.port) as client:
        assert "not finite" in client.ask(request())


def test_health_and_metrics():
    with serving() as server:
        assert http(server.port, "/healthz") == (200, "OK\n")
        with Client(server.port) as client:
            client.ask(request())
            client.ask(b"")
            status, text = http(server.port, "/metrics")
        assert status == 200 and http(server.port, "/other")[0] == 404
        for line in (
            'libra_requests_total{outcome="answered"} 1.0',
            'libra_requests_total{outcome="refused"} 1.0',
            "libra_connections 1.0",
            "libra_plans_total 1.0",
        ):
            assert line in text.splitlines()


def test_an_api_key_is_asked_for(tmp_path):
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    with serving(api_key_file=key) as server:
        for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": "Api-Key ü"}):
            with pytest.raises(InvalidStatus, match="401"):
                Client(server.port, additional_headers=headers)
        assert http(server.port, "/healthz")[0] == 200
        assert http(server.port, "/metrics")[0] == 401
        assert http(server.port, "/metrics", Authorization="Api-Key s3cret")[0] == 200
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port, api_key="s3cret")
        assert client.infer(request())["actions"].shape == (5, 3)
        client._ws.close()


def test_a_web_page_may_not_connect():
    with serving() as server, pytest.raises(InvalidStatus, match="403"):
        Client(server.port, origin="https://example.org")


def test_too_many_are_turned_away():
    with serving(max_connections=2) as server:
        full = pytest.raises(InvalidStatus, match="503")
        with Client(server.port), Client(server.port), full:
            Client(server.port)
        with Client(server.port) as client:
            assert client.ask(request())["libra/step"] == 0


def certificate(folder):
    files = folder / "cert.pem", folder / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-out", files[0], "-keyout", files[1]],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate")
    return files


def test_tls(tmp_path):
    chain, key = certificate(tmp_path)
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    with serving(certificate=chain, private_key=key) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            openpi.WebsocketClientPolicy(f"wss://127.0.0.1:{server.port}")
        context = ssl.create_default_context(cafile=chain)
        with connect(f"wss://localhost:{server.port}", ssl=context, proxy=None) as raw:
            assert raw.recv(timeout=20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"role": "pilot"}, "unknown role"),
        ({"mode": "concurrent"}, "unknown mode"),
        ({"port": 70000}, "expected 0 to 65535"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"certificate": "x"}, "both --certificate and --private-key"),
        ({"max_message_mib": 0}, "more than 0"),
        ({"horizon_factor": 3}, "horizon factor is 3"),
        ({"certificate": "/none", "private_key": "/none"}, "no TLS certificate"),
        ({"host": "203.0.113.1"}, "cannot listen on 203.0.113.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, said):
    with pytest.raises(LibraError, match=said), serving(**options):
        pass


def test_only_loopback_is_local():
    local = {h: ServeConfig("x", host=h).is_local for h in ("127.0.0.1", "::1", "localhost")}
    assert all(local.values()) and not ServeConfig("x", host="0.0.0.0").is_local
    assert ServeConfig("x").is_local


@pytest.mark.parametrize("text", ["", "two words", "ü"])
def test_a_key_file_without_a_key(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(LibraError, match="holds no API key"):
        read_api_key(tmp_path / "key")


def test_stopping_lets_the_last_request_finish():
    class Slow(ScriptedPolicy):
        def plan(self, observation):
            begun.set()
            go_on.wait(20)
            return super().plan(observation)

    begun, go_on = threading.Event(), threading.Event()
    with (
        serving(Slow(), grace_s=20.0) as server,
        Client(server.port) as busy,
        Client(server.port) as idle,
        ThreadPoolExecutor(1) as aside,
    ):
        answer = aside.submit(busy.ask, request())
        assert begun.wait(20)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.raw.recv(timeout=20)
        assert closed.value.rcvd.code == 1001
        go_on.set()
        assert answer.result(20)["actions"].shape == (5, 3)
        with pytest.raises(ConnectionClosed):
            busy.raw.recv(timeout=20)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process(name):
    server = ServerProcess(role="policy")
    with Client(server.port) as client:
        client.ask(request())
        server.process.send_signal(name)
        with pytest.raises(ConnectionClosed) as closed:
            client.raw.recv(timeout=20)
    assert closed.value.rcvd.code == 1001 and server.process.wait(20) == 0


def test_two_clients_with_different_conventions():
    """The one that differs is told how, at each request; the other one's episode goes on."""
    theirs = CONVENTION.to_json() | {"gripper_open": 1.0, "gripper_closed": -1.0}
    with serving() as server, Client(server.port) as ours, Client(server.port) as other:
        for index in range(3):
            refusal = other.ask(request(**{"libra/convention": theirs}))
            assert "gripper_open is 1.0 instead of -1.0" in refusal
            bgr = other.ask(request(**{"observation/image": np.zeros((3, 8, 8), dtype=np.uint8)}))
            assert "'observation/image' is uint8[3, 8, 8]" in bgr
            mine = ours.ask(request(**{"libra/convention": CONVENTION.to_json()}))
            assert mine["libra/step"] == 5 * index and mine["libra/episode"] == 1


def test_the_command_serves_and_its_cost_is_measured(tmp_path):
    policy = make_policy()
    policy.save_pretrained(tmp_path / "policy")
    figures = measure(tmp_path / "policy", clients=2, rounds=1, seconds=0.3)
    assert 0.0 < figures["overhead_ms"]["p50"] < figures["round_trip_ms"]["p50"]
    assert figures["slowest_share"] > 0.0 and figures["requests_per_s"]["2"] > 0.0


def test_the_command_refuses_what_does_not_fit(tmp_path, capsys):
    assert main(["serve", "--policy", str(tmp_path)]) == 2
    assert "holds no policy" in capsys.readouterr().err
    wrong = ["run", "--policy", str(tmp_path), "--planner", "ws://127.0.0.1:1", "--suite", "s"]
    assert main(wrong) == 2
    assert "holds no policy" in capsys.readouterr().err
