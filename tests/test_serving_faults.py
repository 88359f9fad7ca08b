"""Faults of a server's clients: garbage, drops, floods. It answers the next one as if nothing was.

The short forms run in `make test`, the long ones in `make test-all`.
"""

import os
import random
import socket
import time

import numpy as np
import pytest
from serving_tools import Client, ServerProcess, request, resident_mib, serving
from test_serving_codec import BAD, array
from websockets.exceptions import ConnectionClosed

from libra_vla.serving.codec import pack


def short_and_long(short: int, long: int):
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.slow)])


def malformed(rng: random.Random) -> bytes | str:
    """One frame that no server should answer with actions."""
    good = pack(request())
    kind = rng.randrange(8)
    if kind == 0:
        return good[: rng.randrange(len(good))]
    if kind == 1:
        return rng.randbytes(rng.randrange(1, 2000))
    if kind == 2:
        key = rng.choice([key for key in BAD if key != "libra/convention"])
        return pack(request(**{key: rng.choice(BAD[key])}))
    if kind == 3:
        nesting = rng.randrange(10, 200_000)
        return rng.choice([b"\x91", b"\x81\xa1x", b"\xdd\x00\x00\x04\x00"]) * nesting
    if kind == 4:
        dtype = rng.choice(["|O", "<c16", "|V8", "O", "<M8[us]", "|S4", "<f4,<f4", "\0", "f" * 900])
        return pack(request(**{"observation/state": array(b"\0" * 24, dtype)["x"]}))
    if kind == 5:
        shape = rng.choice([(3, 2**40), (-1,), (2**63 - 1, 2), (0,) * 40, (1.5,), "abc", None])
        broken = array(b"\0" * 24, "<f8", shape)["x"]
        return pack(request(**{"observation/state": broken}))
    if kind == 6:
        return rng.choice(["", "text", "\0" * 100, '{"prompt": "JSON"}'])
    message = request()
    del message[rng.choice(["observation/image", "observation/state", "prompt"])]
    return pack(message)


@short_and_long(800, 10_000)
def test_malformed_frames_are_refused_one_by_one(count):
    rng = random.Random(count)
    with serving() as server, Client(server.port) as bystander, Client(server.port) as client:
        for index in range(count):
            answer = client.ask(frame := malformed(rng))
            assert isinstance(answer, str) and answer.startswith("error: "), frame[:200]
            assert "\n" not in answer and len(answer) < 2000
            if index % 100 == 0:
                assert bystander.ask(request())["libra/episode"] == 1
        assert client.ask(request())["actions"].shape == (5, 3), "the same connection still works"
        assert server.metrics.count("refused") == count and server.metrics.count("failed") == 0


def test_an_oversized_message_costs_its_own_connection_only():
    with serving(max_message_mib=0.01) as server, Client(server.port) as bystander:
        for _ in range(3):
            with Client(server.port) as client:
                with pytest.raises(ConnectionClosed) as closed:
                    client.ask(b"\0" * 100_000)
                assert closed.value.rcvd.code == 1009
        assert bystander.ask(request())["actions"].shape == (5, 3)


@short_and_long(60, 200)
def test_connects_and_drops(count):
    """Some say nothing, some half a handshake, some half a frame, some leave before the answer."""
    rng = random.Random(1)
    with serving() as server, Client(server.port) as bystander:
        for index in range(count):
            if index % 4 == 0:
                with socket.create_connection(("127.0.0.1", server.port)) as raw:
                    raw.sendall(rng.choice([b"", b"GET / HTTP/1.1\r\n", b"\0\xff" * 50, b"POST"]))
            else:
                client = Client(server.port)
                if index % 4 == 1:
                    client.raw.socket.sendall(b"\x82\xfe")
                if index % 4 == 2:
                    client.raw.send(pack(request()))
                reset = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of 0 s: gone without a word
                client.raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                client.raw.socket.close()
        assert bystander.ask(request())["libra/step"] == 0
        deadline = time.monotonic() + 20
        while server.metrics._registry.get_sample_value("libra_connections") != 1:
            assert time.monotonic() < deadline, "connections leak"
            time.sleep(0.05)
        assert bystander.ask(request())["libra/step"] == 5


def soak(seconds: float) -> list[float]:
    """Resident memory of a server, MiB, over `seconds` of episodes, refusals and drops."""
    server, rng, memory = ServerProcess(role="policy"), random.Random(2), []
    big = request(**{"observation/image": np.zeros((256, 256, 3), dtype=np.uint8)})
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with Client(server.port) as client:
                for _ in range(60):
                    assert client.ask(big)["actions"].shape == (5, 3)
                for _ in range(6):
                    assert isinstance(client.ask(malformed(rng)), str)
            memory.append(resident_mib(server.process.pid))
    finally:
        server.kill()
    return memory


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "seconds",
    [6.0, pytest.param(float(os.environ.get("SOAK_S", "1200")), marks=pytest.mark.slow)],
)
def test_memory_is_flat(seconds):
    memory = soak(seconds)
    settled = memory[len(memory) // 4 :]
    third = max(1, len(settled) // 3)
    growth = float(np.median(settled[-third:]) - np.median(settled[:third]))
    assert growth < 4.0, f"{memory[0]:.1f} to {memory[-1]:.1f} MiB in {len(memory)} episodes"
