"""The planner, far away: a client that waits for nothing without a limit, and reconnects."""

import logging
import random
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from libra_vla.action_space import ActionSpace
from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan, Policy
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.serving.codec import pack, unpack
from libra_vla.serving.requests import MAX_SIDE, SEQUENCE, shrunk, write_observation

log = logging.getLogger(__name__)
MAX_ANSWER = 16 * 2**20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pauses between attempts double from the first to the longest, with a tenth of jitter."""


@dataclass
class LinkStatistics:
    """What became of the link: `failures` counts lost connections, refusals and timeouts."""

    plans: int = 0
    connects: int = 0
    failures: int = 0
    stale: int = 0
    last_failure: str | None = None


class RemotePlanner:
    """Plans on a server that was started with `libra serve --role planner`.

    Connects when it is made, so that a wrong address or another action space is found at once. A
    request that gets no answer within `timeout_s` costs its connection; the next attempt is made
    after a pause that doubles each time. Answers carry the number of their request: one that
    belongs to another is dropped.

    Args:
        url: "ws://HOST:PORT", or "wss://" for TLS.
        space: the refiner's action space; that of the server has to be the same.
        spec: cameras and state to send.
        timeout_s: for every single wait: to connect, to send, to receive.
        patience_s: how long `plan` goes on trying before it raises.
        api_key: sent as `Authorization: Api-Key ...`.
        ca_file: PEM certificates to trust instead of the system's.

    Attributes:
        metadata: what the server said of itself.
        statistics: what became of the link so far.

    Raises:
        LibraError: nobody answers, the key is wrong, or it is no planner of this action space.
    """

    def __init__(
        self,
        url: str,
        *,
        space: ActionSpace,
        spec: ObservationSpec,
        timeout_s: float = 2.0,
        patience_s: float = 10.0,
        api_key: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        if urlsplit(url).scheme not in ("ws", "wss"):
            raise LibraError(f"'{url}' is no planner's address: expected ws://HOST:PORT or wss://")
        for name, value in (("timeout_s", timeout_s), ("patience_s", patience_s)):
            if not value > 0:
                raise LibraError(f"{name} is {value}: expected more than 0")
        self.url, self.statistics = url, LinkStatistics()
        self.metadata: dict[str, Any] = {}
        self._space, self._spec = space, spec
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._tls = _trusting(ca_file) if url.startswith("wss") else None
        self._connection: ClientConnection | None = None
        self._sequence, self._failed_in_row, self._retry_at = 0, 0, 0.0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._persist(self._connected)

    def plan(self, observation: Observation) -> Plan:
        """Returns the coarse actions of the next L control steps.

        Raises:
            LibraError: no plan came within `patience_s`, the server refused the observation, or
                `close` was called.
        """
        return self._persist(lambda: self._ask(observation))

    def close(self) -> None:
        """Ends the connection, and a `plan` that is waiting in another thread."""
        self._closed.set()
        self._drop()

    def _persist(self, attempt: Any) -> Any:
        """Repeats `attempt` with growing pauses until it succeeds or patience ends."""
        deadline = time.monotonic() + self._patience_s
        if not self._lock.acquire(timeout=self._patience_s):
            raise LibraError(f"the planner at {self.url} is still asked for an earlier plan")
        try:
            while True:
                pause = self._retry_at - time.monotonic()
                if time.monotonic() + max(pause, 0.0) >= deadline:
                    raise LibraError(
                        f"the planner at {self.url} gave no plan within {self._patience_s:g} s "
                        f"({self.statistics.last_failure}): is it running, and is the link up?"
                    )
                if pause > 0:
                    self._closed.wait(pause)
                if self._closed.is_set():
                    raise LibraError(f"the planner at {self.url} was closed")
                try:
                    result = attempt()
                except (OSError, EOFError, WebSocketException) as error:
                    self._failed(error)
                else:
                    self._failed_in_row = 0
                    return result
        finally:
            self._lock.release()

    def _failed(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self._timeout_s:g} s"
        if not self._closed.is_set():
            log.warning("the planner at %s: %s", self.url, reason)
        self._drop()
        self.statistics.failures += 1
        self.statistics.last_failure = reason
        pause = min(FIRST_PAUSE_S * 2.0**self._failed_in_row, LONGEST_PAUSE_S)
        self._failed_in_row += 1
        self._retry_at = time.monotonic() + pause * random.uniform(0.9, 1.1)

    def _drop(self) -> None:
        """Closes the connection without waiting for the other side, which may be gone."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _connected(self) -> ClientConnection:
        if self._connection is not None:
            return self._connection
        try:
            connection = connect(
                self.url,
                ssl=self._tls,
                additional_headers=self._headers,
                compression=None,
                open_timeout=self._timeout_s,
                close_timeout=self._timeout_s,
                max_size=MAX_ANSWER,
                max_queue=2,
                ping_timeout=None,  # an answer that does not come is noticed as it is
                proxy=None,
            ).__enter__()  # left by _drop
        except InvalidStatus as error:
            if (code := error.response.status_code) == 503:
                raise
            hint = "check the API key" if code == 401 else "is it a policy server?"
            raise LibraError(f"the planner at {self.url} refused ({code}): {hint}") from None
        except InvalidURI as error:
            raise LibraError(f"'{self.url}' is no address: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise LibraError(
                f"the certificate of {self.url} is not trusted ({error.verify_message}): "
                "give its issuer's with --ca-file"
            ) from None
        self._connection = connection
        _limit_sending(connection.socket, self._timeout_s)
        self._accept(self._receive(time.monotonic() + self._timeout_s))
        self.statistics.connects += 1
        return connection

    def _accept(self, metadata: dict[str, Any]) -> None:
        """Raises LibraError unless the server plans for this very action space."""
        theirs = f"the planner at {self.url}"
        try:
            if metadata.get("role") != "planner":
                raise LibraError(f"{theirs} is none: start it with libra serve --role planner")
            space = ActionSpace.from_json(metadata["action_space"])
            self._space.require_compatible(space, mine="the refiner", theirs=theirs)
            before, now = (_hash(m) for m in (self.metadata, metadata))
            if self.metadata and before != now:
                raise LibraError(f"{theirs} serves another checkpoint than before: start again")
            if not isinstance(metadata["observation"], dict):
                raise TypeError("observation")
        except LibraError:
            self._drop()
            raise
        except (KeyError, TypeError, AttributeError) as error:
            self._drop()
            raise LibraError(f"{theirs} does not say properly what it is ({error!r})") from None
        self.metadata = metadata

    def _ask(self, observation: Observation) -> Plan:
        connection = self._connected()
        self._sequence += 1
        connection.send(pack(self._message(observation) | {SEQUENCE: self._sequence}))
        deadline = time.monotonic() + self._timeout_s
        while True:
            answer = self._receive(deadline)
            if answer.get("libra/sequence") == self._sequence:
                break
            self.statistics.stale += 1
            if time.monotonic() > deadline:
                raise TimeoutError
        plan = self._plan(answer, observation.step)
        self.statistics.plans += 1
        return plan

    def _message(self, observation: Observation) -> dict[str, Any]:
        """What is sent: images in the size that the planner would bring them to anyway."""
        self._spec.check(observation)
        size = self.metadata["observation"].get("image_size")
        if isinstance(size, int) and 1 <= size <= MAX_SIDE:
            observation = shrunk(observation, size)
        return write_observation(observation, self._spec.cameras)

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Returns the next answer; a text frame is the server's refusal."""
        connection = self._connection
        if connection is None:
            raise ConnectionError("the connection was closed")
        message = connection.recv(timeout=max(deadline - time.monotonic(), 0.0))
        if isinstance(message, str):
            raise LibraError(f"the planner at {self.url} refused: {message:.500}")
        try:
            return unpack(message)
        except LibraError as error:
            raise ConnectionError(str(error)) from None

    def _plan(self, answer: dict[str, Any], step: int) -> Plan:
        """Raises ConnectionError for anything that is no plan for control step `step`."""
        coarse, distribution = answer.get("libra/coarse"), answer.get("libra/distribution")
        bins = self._space.bins
        if (
            answer.get("libra/step") != step
            or not isinstance(coarse, np.ndarray)
            or not isinstance(distribution, np.ndarray)
            or coarse.dtype != np.int64
            or coarse.shape[1:] != (len(bins),)
            or distribution.shape != (*coarse.shape, max(bins))
            or not np.isfinite(distribution).all()
            or (coarse < 0).any()
            or (coarse >= np.asarray(bins)).any()
        ):
            raise ConnectionError(f"the answer is no plan for control step {step}")
        return Plan(coarse.copy(), distribution.copy(), step)  # decoded arrays are read-only


class SplitPolicy:
    """A policy whose planner is elsewhere: it refines here, with everything else that it can.

    It has no `close`: the planner outlives the executors that use it, and its maker closes it.
    """

    def __init__(self, refiner: Policy, planner: RemotePlanner) -> None:
        self.refiner, self.planner = refiner, planner
        self.action_space, self.observation_spec = refiner.action_space, refiner.observation_spec
        self.chunk, self.horizon_factor = refiner.chunk, refiner.horizon_factor

    def __getattr__(self, name: str) -> Any:
        if name == "refiner" or name.startswith("__"):  # asked for before there is one
            raise AttributeError(name)
        return getattr(self.refiner, name)

    def reset(self, seed: int) -> None:
        self.refiner.reset(seed)

    def plan(self, observation: Observation) -> Plan:
        return self.planner.plan(observation)

    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        return self.refiner.refine(observation, coarse)

    def describe(self) -> dict[str, Any]:
        """What results.json says of it; `planner` is the checkpoint that plans."""
        describe = getattr(self.refiner, "describe", dict)
        return describe() | {"planner": _hash(self.planner.metadata)}


def _hash(metadata: dict[str, Any]) -> str | None:
    return metadata.get("policy", {}).get("checkpoint_hash")


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LibraError(f"{ca_file} holds no certificates ({error}): expected PEM") from None


def _limit_sending(sock: socket.socket, seconds: float) -> None:
    """Bounds what Python's blocking sockets do not: sending into a link that takes nothing."""
    whole = int(seconds)
    timeval = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
