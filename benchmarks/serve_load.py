"""Serving under load: requests a second, latencies and the share of each stage for 1, 4 and 16 closed-loop clients.

    python benchmarks/serve_load.py [--quick] [--json FILE]

The bundle of `recommend_speed.py`: 100,000 items, two_tower proposes 500, dcn_v2 ranks them, MMR chooses ten. `weft
serve` runs as a process of its own with its defaults; a client is a connection that asks again as soon as it has its
answer. The floor is taken in the same run, before and after each load: the product of a user's vector with all item
vectors (or faiss' own search) and its 500 best, and a plain fp32 forward of dcn_v2 on 500 rows that lie ready, in
process. Targets: p50 within 2.5 floors at one client, p99 under 4 x p50 at four.
"""

import http.client
import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from _records import Record, Records, run
from _timing import seconds_of
from recommend_speed import QUOTA, K, exact_scan, made, plain_forward, weft_auto
from weft.recommend.index import Exact
from weft.recommend.recommender import Recommender

CLIENTS = (1, 4, 16)
TRACED = 5  # one request of so many asks for its stages


@contextmanager
def service(bundle: Path) -> Iterator[int]:
    """`weft serve` as a process on a free port, with an empty log."""
    with TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("weft")), "serve", str(bundle)]
        command += ["--port", "0", "--store", f"{folder}/serve.db"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        port = next(json.loads(line)["port"] for line in process.stderr if '"listening"' in line)
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            _wait(port)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait(port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service was not ready within two minutes")


def load(port: int, clients: int, users: list[str | int], seconds: float) -> Record:
    """Closed-loop clients for some seconds."""
    taken: list[list[float]] = [[] for _ in range(clients)]
    traces: list[list[dict[str, float]]] = [[] for _ in range(clients)]
    errors: list[int] = []
    until = time.perf_counter() + seconds

    def client(place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        number = place
        while time.perf_counter() < until:
            number += clients
            body = {"user": users[number % len(users)], "k": K, "context": {"hour": str(number % 24)}}
            trace = number // clients % TRACED == 0
            data = json.dumps({**body, "trace": trace}).encode()
            start = time.perf_counter()
            connection.request("POST", "/v1/recommend", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            taken[place].append(time.perf_counter() - start)
            if answer.status != 200:
                errors.append(answer.status)
            elif trace:
                traces[place].append({s["name"]: s["milliseconds"] for s in json.loads(said)["trace"]})

    threads = [threading.Thread(target=client, args=(place,)) for place in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = np.array([second for mine in taken for second in mine])
    found = [trace for mine in traces for trace in mine]
    return {
        "clients": clients,
        "requests": len(whole),
        "errors": len(errors),
        "requests_per_second": len(whole) / (time.perf_counter() - started),
        **{f"p{q}_milliseconds": 1000 * float(np.quantile(whole, q / 100)) for q in (50, 95, 99)},
        "stages_milliseconds": {
            name: statistics.median(trace[name] for trace in found if name in trace) for name in (found or [{}])[0]
        },
    }


def floor(recommender: Recommender, index: str) -> Callable[[], None]:
    """The scan for 500 candidates, or faiss' own search, and a plain forward of the ranker."""
    scan = exact_scan(recommender) if index == "exact" else _search(recommender)
    forward = plain_forward(recommender)

    def both() -> None:
        scan()
        forward()

    return both


def _search(recommender: Recommender) -> Callable[[], object]:
    source = recommender.bundle.members["retriever"]
    query, index = source.scorer.item_vectors()[2:3].copy(), source.index
    assert index is not None
    return lambda: index.search(query, QUOTA)


def case(path: Path, index: str, clients: int, seconds: float) -> Record:
    """One number of clients, with the floor before and after it."""
    recommender = Recommender.load(path)
    once = floor(recommender, index)
    users = [recommender.users.name_of(id) for id in range(2, min(len(recommender.users), 5_000))]
    for _ in range(5):
        once()
    floors = [seconds_of(once) for _ in range(20)]
    with service(path) as port:
        load(port, clients, users, min(seconds, 3.0))  # until all is warm
        record = load(port, clients, users, seconds)
    floors += [seconds_of(once) for _ in range(20)]
    milliseconds = 1000 * statistics.median(floors)
    stages = record["stages_milliseconds"]
    return {
        **record,
        "items": len(recommender.catalogue.items),
        "index": index,
        "floor_milliseconds": milliseconds,
        "p50_over_floor": record["p50_milliseconds"] / milliseconds,
        "p99_over_p50": record["p99_milliseconds"] / record["p50_milliseconds"],
        "stage_shares": {name: value / record["p50_milliseconds"] for name, value in stages.items()},
    }


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    items, seconds = (2_000, 2.0) if quick else (100_000, 20.0)
    for name, index in (("exact", Exact()),) if quick else (("exact", Exact()), ("auto", weft_auto())):
        path = made(items, index, f"serve-{name}")
        for clients in CLIENTS:
            records.measured(f"{name}-{clients}", lambda p=path, n=name, c=clients: case(p, n, c, seconds))
        shutil.rmtree(path)


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    heads = ("index", "clients", "requests/s", "p50, ms", "p95, ms", "p99, ms", "floor, ms", "p50 / floor", "stages")
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for r in found.values():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in r["stage_shares"].items())
        times = " | ".join(f"{r[f'p{q}_milliseconds']:.1f}" for q in (50, 95, 99))
        lines.append(
            f"| {r['index']} | {r['clients']} | {r['requests_per_second']:.0f} | {times} | "
            f"{r['floor_milliseconds']:.1f} | {r['p50_over_floor']:.2f} | {shares} |"
        )
    return lines


if __name__ == "__main__":
    run(measure, __doc__, page)
