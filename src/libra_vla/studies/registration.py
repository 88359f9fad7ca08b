"""A pre-registration: what a study will do and how it will be read, written before it is done."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libra_vla.errors import LibraError
from libra_vla.files import read_json, require_absent, write_json
from libra_vla.versions import versions

REGISTRATION, DEVIATIONS = "preregistration.json", "deviations.json"

Protocol = dict[str, Any]


def digest(protocol: Protocol) -> str:
    """Returns the SHA-256 of a protocol, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def register(out: Path, protocol: Protocol) -> dict[str, Any]:
    """Writes the pre-registration into an empty folder and returns it.

    Raises:
        LibraError: the folder holds something: what was run cannot be registered any more.
    """
    require_absent(
        out, what="the folder of the study", remedy="a study is registered before it is run"
    )
    record = {
        "schema_version": 1,
        "protocol": protocol,
        "sha256": digest(protocol),
        "commit": versions()["commit"],
        "registered": _now(),
    }
    write_json(out / REGISTRATION, record)
    return record


def registered(out: Path, protocol: Protocol, *, deviation: str | None = None) -> dict[str, Any]:
    """Returns the pre-registration of a study that is about to run `protocol`.

    Args:
        deviation: why it departs from what was registered; recorded in `deviations.json`, with what
            differs. The same departure needs no reason again.

    Raises:
        LibraError: there is none, it was changed after it was written, or `protocol` is another
            one and no reason was given.
    """
    path = out / REGISTRATION
    if not path.exists():
        raise LibraError(f"{path} is missing: nothing is run that was not registered before")
    record = read_json(path)
    if digest(record["protocol"]) != record["sha256"]:
        raise LibraError(
            f"{path} was changed after it was written on {record['registered']}: put the "
            "registered text back, or register a new study in another folder"
        )
    changed = differences(record["protocol"], protocol)
    if not changed or any(d["sha256"] == digest(protocol) for d in deviations(out)):
        return record
    if deviation is None:
        raise LibraError(
            f"this is not what {path} announces: {', '.join(changed)} differ; use the "
            "registered settings, another --out, or give the reason with --deviation"
        )
    entry = {
        "reason": deviation,
        "changed": changed,
        "sha256": digest(protocol),
        "commit": versions()["commit"],
        "recorded": _now(),
    }
    write_json(out / DEVIATIONS, [*deviations(out), entry])
    return record


def differences(before: Protocol, now: Protocol) -> dict[str, list[Any]]:
    """Returns what differs: dotted key -> [registered, now]."""
    before, now = _flat(before), _flat(json.loads(json.dumps(now)))
    keys = sorted(before.keys() | now.keys())
    return {k: [before.get(k), now.get(k)] for k in keys if before.get(k) != now.get(k)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    parts = (_flat(v, f"{name}.{k}".lstrip(".")) for k, v in value.items())
    return {k: v for part in parts for k, v in part.items()}


def deviations(out: Path) -> list[dict[str, Any]]:
    """Returns the departures that were recorded, in order."""
    path = out / DEVIATIONS
    return read_json(path) if path.exists() else []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
