"""What a server is asked to do."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, get_args

from libra_vla.errors import LibraError, unknown

Role = Literal["policy", "planner"]
ServedMode = Literal["synchronous", "sequential"]
MIB = 2**20


@dataclass(frozen=True)
class ServeConfig:
    """Serves a policy, or its planner alone, in openpi's websocket protocol.

    Attributes:
        policy: folder that `libra train --out` wrote.
        host: address to listen on; beyond this machine, give an API key and a certificate too.
        port: 0 lets the system choose one.
        role: "policy" answers with actions, "planner" with coarse actions for `libra run`.
        mode: when the planner works for a client; "synchronous" plans for each request, so that
            nothing of an earlier one matters.
        horizon_factor: M, chunks per plan; the policy's by default.
        execute: actions that a client carries out of each chunk, unless it sends `libra/step`;
            all H by default.
        seed: of the noise of each connection's episodes, unless a client sends `libra/seed`.
        device: torch device of the policy.
        threads: torch threads; torch's choice by default.
        max_batch: most requests answered in one pass.
        max_connections: further ones are turned away (HTTP 503).
        max_message_mib: a larger message ends its connection.
        grace_s: seconds that requests may take to finish when the server is stopped.
        api_key_file: file that holds the key clients have to send (`Authorization: Api-Key ...`).
        certificate: TLS certificate chain, PEM.
        private_key: its key, PEM.
    """

    policy: Path
    host: str = "127.0.0.1"
    port: int = 8000
    role: Role = "policy"
    mode: ServedMode = "sequential"
    horizon_factor: int | None = None
    execute: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    max_batch: int = 16
    max_connections: int = 64
    max_message_mib: float = 16.0
    grace_s: float = 5.0
    api_key_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise unknown("role", self.role, get_args(Role))
        if self.mode not in get_args(ServedMode):
            raise unknown("mode", self.mode, get_args(ServedMode))
        if not 0 <= self.port <= 65535:
            raise LibraError(f"port is {self.port}: expected 0 to 65535")
        for name in ("max_batch", "max_connections", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LibraError(f"{name} is {value}: expected at least 1")
        for name in ("max_message_mib", "grace_s"):
            if not getattr(self, name) > 0:
                raise LibraError(f"{name} is {getattr(self, name)}: expected more than 0")
        if self.seed < 0:
            raise LibraError(f"seed is {self.seed}: expected at least 0")
        if (self.certificate is None) != (self.private_key is None):
            raise LibraError("TLS needs both --certificate and --private-key")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def tls(self) -> ssl.SSLContext | None:
        """Returns the TLS context of certificate and key, if there are any."""
        if self.certificate is None or self.private_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise LibraError(
                f"{self.certificate} and {self.private_key} give no TLS certificate ({error}): "
                "expected a PEM chain and its unencrypted key"
            ) from None
        return context


def read_api_key(file: Path | None) -> str | None:
    """Returns the key in `file`, without white space around it; None for no file.

    Raises:
        LibraError: the file cannot be read, or holds no key.
    """
    if file is None:
        return None
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LibraError(f"{file} holds no API key ({error}): expected one line of ASCII") from None
    if not key or any(c.isspace() or not c.isprintable() for c in key):
        raise LibraError(f"{file} holds no API key: expected one word of ASCII characters")
    return key
