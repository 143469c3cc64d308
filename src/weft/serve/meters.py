"""What Prometheus reads. Every label has a bounded set of values: routes, statuses, kinds of events, stages."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Meters:
    """The meters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("weft_requests", "Requests answered.", ("route", "status"), registry=own)
        self.seconds = Histogram("weft_request_seconds", "Time to answer.", ("route",), buckets=BOUNDS, registry=own)
        self.stages = Histogram("weft_stage_seconds", "Time in a stage.", ("stage",), buckets=BOUNDS, registry=own)
        self.degraded = Counter("weft_degraded", "Answers that lacked something.", registry=own)
        self.events = Counter("weft_events", "Events that came.", ("kind", "status"), registry=own)
        self.unlogged = Counter("weft_unlogged", "Answers that the store could not keep.", registry=own)
        self.inside = Gauge("weft_inside", "Requests in work or waiting.", multiprocess_mode="livesum", registry=own)
        self.generation = Gauge("weft_generation", "The bundle in service.", multiprocess_mode="livemin", registry=own)

    def page(self) -> bytes:
        """The page; of all workers where they share a folder."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
