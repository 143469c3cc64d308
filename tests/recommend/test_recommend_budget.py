"""Time budgets: late calls are left behind, and a stage that hangs is not asked again."""

import gc
import subprocess
import sys
import threading
import time

import pytest

from weft.recommend.budget import MOST_LATE, Budget, Late, Workers


def test_a_call_without_a_limit_stays_in_its_thread() -> None:
    budget = Budget(None, Workers())
    assert budget.call(threading.get_ident) == threading.get_ident()


def test_a_call_in_time_gives_what_it_gives_or_raises() -> None:
    budget = Budget(5_000, Workers())
    assert budget.call(lambda: 7) == 7
    assert budget.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        budget.call(lambda: 1 // 0)


def test_a_late_call_is_left_behind_and_counted_until_it_ends() -> None:
    budget, go = Budget(20, Workers()), threading.Event()
    start = time.perf_counter()
    for _ in range(MOST_LATE):
        with pytest.raises(Late, match="not done within 20 ms"):
            budget.call(go.wait)
    assert time.perf_counter() - start < 2
    begun = time.perf_counter()
    with pytest.raises(Late, match=f"{MOST_LATE} earlier calls"):
        budget.call(lambda: 7)
    assert time.perf_counter() - begun < 0.02
    go.set()
    for _ in range(500):
        time.sleep(0.01)
        if not budget._late:
            break
    assert Budget(5_000, budget._workers).call(lambda: 7) == 7
    assert budget._late == 0


def test_threads_are_used_again_and_calls_run_side_by_side() -> None:
    workers = Workers()
    budget = Budget(10_000, workers)
    idents = set()
    for _ in range(20):
        idents.add(budget.call(threading.get_ident))
        time.sleep(0.002)
    assert len(idents) < 20
    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=lambda: budget.call(barrier.wait)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_threads_end_with_what_they_work_for() -> None:
    budget = Budget(10_000, Workers())
    thread = budget.call(threading.current_thread)
    assert thread.is_alive()
    del budget
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


ENDING = """
import atexit, threading, time

@atexit.register  # runs last
def said():
    print([thread.name for thread in threading.enumerate() if thread.name == "weft-stage"])

from weft.recommend.budget import Budget, Late, Workers

workers = Workers()
Budget(10_000, workers).call(lambda: None)
budget = Budget(50, workers)
try:
    budget.call(lambda: time.sleep({seconds}))
except Late:
    pass
"""


@pytest.mark.parametrize(("seconds", "left"), [(0, "[]"), (0.3, "[]"), (1_000, "['weft-stage']")])
def test_a_program_ends_without_threads_but_for_one_that_hangs(seconds: float, left: str) -> None:
    start = time.monotonic()
    command = [sys.executable, "-c", ENDING.format(seconds=seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (left, "")
    assert time.monotonic() - start < 60
