"""`libra serve`: loads a policy, warms it up and serves it until it is told to stop."""

import asyncio
import logging
import sys

import numpy as np

from libra_vla.observation import Observation
from libra_vla.serving.config import ServeConfig
from libra_vla.serving.served import ServedPolicy, load_served
from libra_vla.serving.server import PolicyServer

log = logging.getLogger(__name__)


def run_server(config: ServeConfig) -> str:
    """Serves until SIGTERM or SIGINT and returns a line about what was done.

    Raises:
        LibraError: policy, key, certificate or address do not fit.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    policy = load_served(config.policy, config.device)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    server = PolicyServer(policy, config)
    if not config.is_local and (config.api_key_file is None or config.certificate is None):
        log.warning(
            "%s is reachable from other machines, without %s",
            config.host,
            "an API key (--api-key-file)" if config.api_key_file is None else "TLS (--certificate)",
        )
    warm_up(policy, config.max_batch)

    def ready() -> None:
        scheme = "ws" if config.certificate is None else "wss"
        host = f"[{config.host}]" if ":" in config.host else config.host
        log.info("serving the %s on %s://%s:%d", config.role, scheme, host, server.port)

    asyncio.run(server.run(ready, signals=True))
    answered = server.metrics.count("answered")
    return f"stopped after {answered:,} answered requests"


def warm_up(policy: ServedPolicy, batch: int) -> None:
    """Plans and refines once for one robot and once for `batch`: first passes are slow."""
    spec = policy.observation_spec
    side = policy.image_size or 64
    images = {camera: np.zeros((side, side, 3), dtype=np.uint8) for camera in spec.cameras}
    nothing = Observation(images, np.zeros(spec.state_size, dtype=np.float32), "wait")
    for count in (1, batch):
        seen = [nothing] * count
        coarse = np.stack([plan.coarse[: policy.chunk] for plan in policy.plan_many(seen)])
        noise = np.zeros((count, policy.chunk, policy.action_space.size), dtype=np.float32)
        policy.refine_many(seen, coarse, noise)
