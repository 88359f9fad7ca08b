"""What the server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.connections = Gauge("libra_connections", "Open connections.", registry=registry)
        self.connected = Counter(
            "libra_connections_opened", "Connections that were accepted.", registry=registry
        )
        self.turned_away = Counter(
            "libra_connections_refused", "Refused connections, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.requests = Counter(
            "libra_requests",
            "Messages: answered, refused as malformed, failed in the server.",
            ["outcome"],
            registry=registry,
        )
        self.episodes = Counter("libra_episodes", "Episodes that began.", registry=registry)
        self.plans = Counter("libra_plans", "Plans that were made.", registry=registry)
        self.batch = Histogram(
            "libra_batch_size", "Requests per pass, seen by each request.",
            buckets=(1, 2, 4, 8, 16, 32), registry=registry,
        )  # fmt: skip
        self.model = Histogram(
            "libra_model_seconds", "Time in the policy per request.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.total = Histogram(
            "libra_request_seconds", "From a message's arrival to its answer.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        for outcome in ("answered", "refused", "failed"):
            self.requests.labels(outcome)

    def count(self, outcome: str) -> int:
        """Returns how many messages were "answered", "refused" or "failed"."""
        value = self._registry.get_sample_value("libra_requests_total", {"outcome": outcome})
        return int(value or 0)

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self._registry)
