"""What serving costs, over loopback: a server process, and clients that are threads of this one."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from libra_vla.errors import LibraError
from libra_vla.serving.codec import pack, unpack
from libra_vla.serving.requests import PROMPT, STATE

IMAGE = 256
START_S, ANSWER_S = 120.0, 120.0
"""Seconds within which the server has to start, and to answer."""


def measure(
    policy: Path, *, clients: int = 8, rounds: int = 5, seconds: float = 2.0, threads: int = 1
) -> dict[str, Any]:
    """Measures the round trip beside the model's own time, and many clients beside one.

    Every round measures one client and then all of them, so that both see the same machine.

    Args:
        policy: checkpoint folder.
        clients: how many ask at the same time.
        rounds, seconds: how often, and for how long each.
        threads: torch threads of the server.

    Returns:
        `round_trip_ms`, `model_ms`, `overhead_ms` (round trip minus model, one client; each p50,
        p95, p99); `requests_per_s` of one client and of all; `throughput_ratio`, the median of the
        rounds' ratios; `slowest_share`, the least served client's requests over the mean's.
    """
    trips: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    shares: list[float] = []
    with _server(policy, threads) as url:
        _clients(url, clients, seconds)  # warms up
        for _ in range(rounds):
            (alone,) = _clients(url, 1, seconds)
            crowd = _clients(url, clients, seconds)
            counts = [len(each) for each in crowd]
            trips += alone
            rates.append((len(alone) / seconds, sum(counts) / seconds))
            shares.append(min(counts) / float(np.mean(counts)))
    total, model = np.array(trips).T
    one, many = np.array(rates).T
    return {
        "clients": clients,
        "round_trip_ms": _percentiles(total),
        "model_ms": _percentiles(model),
        "overhead_ms": _percentiles(total - model),
        "requests_per_s": {"1": round(float(np.median(one)), 1),
                           str(clients): round(float(np.median(many)), 1)},
        "throughput_ratio": round(float(np.median(many / one)), 3),
        "slowest_share": round(min(shares), 3),
    }  # fmt: skip


def _percentiles(values: np.ndarray) -> dict[str, float]:
    ranks = zip((50, 95, 99), np.percentile(values, (50, 95, 99)), strict=True)
    return {f"p{rank}": round(float(value), 3) for rank, value in ranks}


@contextmanager
def _server(policy: Path, threads: int) -> Iterator[str]:
    """Runs `libra serve` in a process of its own and yields its address."""
    command = [sys.executable, "-c", "from libra_vla.cli import main; raise SystemExit(main())"]
    command += ["serve", "--policy", str(policy), "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    try:
        said = ""
        for line in process.stderr:
            said = line
            if found := re.search(r"serving the policy on (\S+)", line):
                break
        else:
            raise LibraError(f"the server did not start: {said.strip()}")
        timer.cancel()
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1]
    finally:
        timer.cancel()
        process.terminate()
        process.wait()


def _clients(url: str, count: int, seconds: float) -> list[list[tuple[float, float]]]:
    """Returns, per client, milliseconds of each round trip and of the model's share in it."""
    answers: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    together = threading.Barrier(count, timeout=ANSWER_S)
    threads = [
        threading.Thread(target=_ask, args=(url, index, seconds, together, answers[index]))
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(answers):
        raise LibraError("a client got no answer from the server")
    return answers


def _ask(
    url: str,
    seed: int,
    seconds: float,
    together: threading.Barrier,
    answers: list[tuple[float, float]],
) -> None:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"compression": None, "max_size": None, "proxy": None}
    with connect(url, **options) as connection:
        metadata = unpack(_bytes(connection.recv(timeout=ANSWER_S)))
        keys = metadata["observation"]["cameras"].values()
        shape = (IMAGE, IMAGE, 3)
        message: dict[str, Any] = {key: rng.integers(0, 256, shape, dtype=np.uint8) for key in keys}
        message[STATE] = rng.normal(size=metadata["observation"]["state_size"])
        message[PROMPT] = f"put the bowl on plate {seed}"
        together.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            connection.send(pack(message))
            answer = unpack(_bytes(connection.recv(timeout=ANSWER_S)))
            took = (time.perf_counter() - began) * 1e3
            answers.append((took, answer["policy_timing"]["infer_ms"]))


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise LibraError(f"the server refused: {message}")
    return message
