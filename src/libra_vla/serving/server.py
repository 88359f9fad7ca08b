"""The server: openpi's websocket protocol, one state per connection, one queue for all of them."""

import asyncio
import hmac
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from libra_vla import __version__
from libra_vla.errors import LibraError
from libra_vla.serving.batching import Batcher
from libra_vla.serving.codec import pack, unpack
from libra_vla.serving.config import MIB, ServeConfig, read_api_key
from libra_vla.serving.metrics import Metrics
from libra_vla.serving.requests import PROMPT, STATE, Request, camera_key, read_request, shrunk
from libra_vla.serving.roles import PlannerRole, PolicyRole, ServedRole
from libra_vla.serving.served import ServedPolicy

log = logging.getLogger(__name__)
QUEUED_MESSAGES = 2
"""Messages read ahead per connection; the protocol has one in flight."""
PING_S, SILENCE_S = 20.0, 120.0
"""How often a client is pinged, and how long it may keep silent before it counts as gone: one that
builds a simulator answers nothing for a while, and openpi's would not connect again."""


class PolicyServer:
    """Serves one policy until it is stopped.

    Args:
        policy: what answers.
        config: address, role, limits; `config.policy` is not read.

    Attributes:
        port: that it listens on, once `run` calls `ready`.
        metrics: what it counted.

    Raises:
        LibraError: key, certificate or horizon do not fit.
    """

    def __init__(self, policy: ServedPolicy, config: ServeConfig) -> None:
        self.policy, self.config = policy, config
        self.metrics, self.port = Metrics(), config.port
        self._api_key, self._tls = read_api_key(config.api_key_file), config.tls()
        role = PolicyRole if config.role == "policy" else PlannerRole
        self._role: ServedRole = role(policy, config, self.metrics)
        self._metadata = pack(self.metadata())
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy: set[ServerConnection] = set()

    def metadata(self) -> dict[str, Any]:
        """What a client is told when it connects, as JSON values."""
        spec = self.policy.observation_spec
        return {
            "server": f"libra-vla {__version__}",
            "role": self.config.role,
            "policy": self.policy.describe(),
            "action_space": self.policy.action_space.to_json(),
            "action_horizon": self.policy.chunk,
            "horizon_factor": self.policy.horizon_factor,
            "observation": {
                "cameras": {camera: camera_key(camera) for camera in spec.cameras},
                "image_size": self.policy.image_size,
                "state": STATE,
                "state_size": spec.state_size,
                "state_names": list(spec.state_names),
                "instruction": PROMPT,
            },
            "max_message_bytes": self._max_message,
            **self._role.metadata(),
        }

    @property
    def _max_message(self) -> int:
        return int(self.config.max_message_mib * MIB)

    def stop(self) -> None:
        """Asks the server to finish what it was asked and to end; from any thread."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # its loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self, ready: Callable[[], None] = lambda: None, *, signals: bool = False) -> None:
        """Serves until `stop` is called or, with `signals`, SIGTERM or SIGINT comes.

        Args:
            ready: called once the server listens.

        Raises:
            LibraError: the address cannot be listened on.
        """
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for name in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(name, self._stop.set)
        async with Batcher(self._role.run, self.config.max_batch) as self._ask:
            server = await self._listen()
            self.port = server.sockets[0].getsockname()[1]
            ready()
            await self._stop.wait()
            await self._drain(server)

    async def _listen(self) -> Server:
        quiet = logging.getLogger(f"{__name__}.websockets")
        quiet.setLevel(logging.CRITICAL)  # strangers' broken handshakes are counted, not told
        try:
            return await serve(
                self._connection,
                self.config.host,
                self.config.port,
                ssl=self._tls,
                process_request=self._admit,
                origins=[None],  # a browser names its page's origin: no page may drive a robot
                compression=None,
                max_size=self._max_message,
                max_queue=QUEUED_MESSAGES,
                ping_interval=PING_S,
                ping_timeout=SILENCE_S,
                logger=quiet,
            )
        except OSError as error:
            raise LibraError(
                f"cannot listen on {self.config.host}:{self.config.port} "
                f"({error.strerror or error}): choose another --host or --port"
            ) from None

    async def _drain(self, server: Server) -> None:
        """Lets requests in flight finish, then closes every connection with 1001 (going away)."""
        server.close(close_connections=False)
        idle = [c for c in server.connections if c not in self._busy]
        await asyncio.gather(*(c.close(1001, "the server stops") for c in idle))
        _, late = await asyncio.wait(
            [asyncio.ensure_future(server.wait_closed())], timeout=self.config.grace_s
        )
        for connection in server.connections if late else ():
            connection.transport.abort()

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Answers plain HTTP, and turns away who may not or cannot connect."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self._may(request.headers.get_all("Authorization")):
            return self._turn_away(connection, HTTPStatus.UNAUTHORIZED, "API key")
        if path == "/metrics":
            response = connection.respond(HTTPStatus.OK, self.metrics.text().decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
            return response
        if path != "/":
            return connection.respond(HTTPStatus.NOT_FOUND, "known: /, /healthz, /metrics\n")
        if len(connection.server.connections) >= self.config.max_connections:
            return self._turn_away(connection, HTTPStatus.SERVICE_UNAVAILABLE, "full")
        return None

    def _turn_away(self, connection: ServerConnection, status: HTTPStatus, why: str) -> Response:
        self.metrics.turned_away.labels(why).inc()
        return connection.respond(status, f"{status.phrase}: {why}\n")

    def _may(self, sent: list[str]) -> bool:
        if self._api_key is None:
            return True
        given = sent[0] if len(sent) == 1 else ""
        expected = f"Api-Key {self._api_key}".encode()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected)

    async def _connection(self, connection: ServerConnection) -> None:
        self.metrics.connected.inc()
        self.metrics.connections.inc()
        log.info("connected: %s", connection.remote_address)
        try:
            await connection.send(self._metadata)
            await self._converse(connection)
        except ConnectionClosed as end:
            if end.sent is not None and end.sent.code == 1009:
                self.metrics.requests.labels("refused").inc()
        finally:
            self.metrics.connections.dec()
            log.info("gone: %s", connection.remote_address)

    async def _converse(self, connection: ServerConnection) -> None:
        """Answers one message after the other; a bad one gets a text frame, and nothing else."""
        state, previous_ms, complained = self._role.open(), None, False
        async for message in connection:
            began = time.perf_counter()
            self._busy.add(connection)
            try:
                request = self._read(message)
                answer, outcome = await self._answer(state, request, previous_ms, began), "answered"
                reply: str | bytes = pack(answer)
            except LibraError as error:
                reply, outcome = " ".join(f"error: {error}".split()), "refused"
                if not complained:  # once per connection: a flood of them must not fill a disk
                    log.warning("%s sent a bad message: %s", connection.remote_address, error)
                complained = True
            except Exception:
                reply, outcome = "error: the server failed; its log says why", "failed"
                log.exception("a request failed")
            finally:
                self._busy.discard(connection)
            self.metrics.requests.labels(outcome).inc()
            await connection.send(reply)
            previous_ms = (time.perf_counter() - began) * 1e3
            self.metrics.total.observe(previous_ms / 1e3)
            if self._stop is not None and self._stop.is_set():
                await connection.close(1001, "the server stops")

    def _read(self, message: str | bytes) -> Request:
        if isinstance(message, str):
            raise LibraError("the message is a text frame: expected a binary one, msgpack")
        policy = self.policy
        convention = policy.action_space.convention
        request = read_request(unpack(message), policy.observation_spec, convention)
        # Here and not in the model's thread, which has to serve everybody.
        return replace(request, observation=shrunk(request.observation, policy.image_size))

    async def _answer(
        self, state: Any, request: Request, previous_ms: float | None, began: float
    ) -> dict[str, Any]:
        answer, model_ms = await self._role.answer(state, request, self._ask)
        self.metrics.model.observe(model_ms / 1e3)
        timing = {"infer_ms": (time.perf_counter() - began) * 1e3}
        if previous_ms is not None:
            timing["prev_total_ms"] = previous_ms
        answer |= {"server_timing": timing, "policy_timing": {"infer_ms": model_ms}}
        if request.sequence is not None:
            answer["libra/sequence"] = request.sequence
        return answer
