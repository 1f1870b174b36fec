"""Calls of several threads in one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

from diffuscope.serve import batcher as module
from diffuscope.serve.batcher import Batcher
from diffuscope.serve.fair import FLOOR, Lane
from served import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A call waits until all runs have made theirs, however long the system lets a thread wait."""
    monkeypatch.setattr(module, "WAIT", PATIENCE)


@pytest.fixture
def batcher():
    made = Batcher(rows=8)
    yield made
    made.stop()


def together(batcher, calls):
    """Each of ``calls`` in a thread, all runs begun before the first call."""
    start = threading.Barrier(len(calls))

    def one(call):
        with batcher:
            start.wait()
            return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_rows_of_one_key_share_a_call_and_come_back_to_their_own(batcher):
    sizes = []

    def run(rows):
        sizes.append(len(rows[0]))
        return rows[0] * 10 + rows[1]

    calls = [
        lambda k=k: batcher.call("a", [torch.full((k + 1, 2), float(k)), torch.full((k + 1, 2), 1.0)], run)
        for k in range(3)
    ]
    answers = together(batcher, calls)
    assert [answer.tolist() for answer in answers] == [[[10.0 * k + 1] * 2] * (k + 1) for k in range(3)]
    assert sizes == [6]
    assert (batcher.calls, batcher.joined) == (1, 3)


def test_calls_of_other_keys_stay_apart(batcher):
    answers = together(
        batcher, [lambda k=k: batcher.call(k, [torch.ones(1)], lambda rows, k=k: rows[0] * k) for k in (2, 3)]
    )
    assert [answer.item() for answer in answers] == [2, 3]
    assert batcher.calls == 2


def test_a_call_has_at_most_its_rows_and_a_longer_run_goes_whole(batcher):
    sizes = []
    calls = [
        lambda n=n: batcher.call("a", [torch.ones(n)], lambda rows: sizes.append(len(rows[0])) or rows[0])
        for n in (5, 5, 12)
    ]
    assert [len(answer) for answer in together(batcher, calls)] == [5, 5, 12]
    assert sorted(sizes) == [5, 5, 12]


def test_alone_no_call_is_shared():
    batcher = Batcher(alone=True)
    together(batcher, [lambda: batcher.call("a", [torch.ones(1)], lambda rows: rows[0])] * 3)
    assert (batcher.calls, batcher.joined) == (3, 3)
    batcher.stop()


def test_an_error_reaches_only_the_run_that_causes_it(batcher):
    def run(rows):
        if bool((rows[0] < 0).any()):
            raise ValueError("negative")
        return rows[0]

    def safe(value):
        try:
            return batcher.call("a", [torch.full((1,), value)], run).item()
        except ValueError as error:
            return str(error)

    assert together(batcher, [lambda v=v: safe(v) for v in (1.0, -1.0, 2.0)]) == [1.0, "negative", 2.0]


def test_a_task_runs_in_the_thread_of_the_calls_and_no_gradient_is_kept(batcher):
    thread = batcher.task(threading.get_ident)
    assert thread != threading.get_ident()
    answer = batcher.call("a", [torch.ones(1)], lambda rows: (rows[0] * torch.nn.Parameter(torch.ones(1)), thread)[0])
    assert not answer.requires_grad
    with pytest.raises(ZeroDivisionError):
        batcher.task(lambda: 1 / 0)


def test_who_comes_after_the_stop_is_refused():
    batcher = Batcher()
    batcher.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        batcher.call("a", [torch.ones(1)], lambda rows: rows[0])


def test_a_call_is_not_lost_that_comes_while_others_are_gathered(batcher, monkeypatch):
    here, go, put = threading.Event(), threading.Event(), batcher._put

    def late(queue, item):
        if threading.current_thread().name.startswith("late"):
            here.set()
            go.wait(PATIENCE)
        put(queue, item)

    monkeypatch.setattr(batcher, "_put", late)
    with ThreadPoolExecutor(1, "late") as pool:
        answer = pool.submit(batcher.call, "a", [torch.ones(1)], lambda rows: rows[0])
        assert here.wait(PATIENCE)
        batcher.call("a", [torch.ones(1)], lambda rows: rows[0])
        go.set()
        assert answer.result(PATIENCE).item() == 1


def until(true):
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("rows", "made"),
    [((2, 2, 1), [4, 1]), ((2, 1), [4]), ((1, 2, 2), [4, 2]), ((2, 2, 2), [6]), ((1, 1, 1, 2, 2, 2), [8, 1])],
)
def test_a_call_that_would_be_filled_up_takes_fewer_rows_if_few_are_left(batcher, rows, made):
    sizes, go = [], threading.Event()

    def call(count):
        return batcher.call(
            "a", [torch.ones(count)], lambda rows: sizes.append(len(rows[0])) or rows[0], sizes=(4, 6, 8)
        )

    with ThreadPoolExecutor(len(rows) + 1) as pool:
        pool.submit(batcher.task, lambda: go.wait(PATIENCE))
        answers = []
        for count in rows:  # in this order
            answers.append(pool.submit(call, count))
            until(lambda: len(batcher._waiting) == len(answers))
        go.set()
        assert [len(answer.result()) for answer in answers] == [*rows]
    assert sizes == made


def test_while_the_device_is_busy_a_call_waits_for_others_and_tasks_do_not(batcher, monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0)
    monkeypatch.setattr(module, "_done", lambda _: lambda: False)
    sizes = []

    def call():
        return batcher.call("a", [torch.ones(1)], lambda rows: sizes.append(len(rows[0])) or rows[0])

    with batcher, batcher, ThreadPoolExecutor(1) as pool:
        call()
        second = pool.submit(call)
        until(lambda: batcher._waiting)
        assert batcher.task(lambda: sizes.copy()) == [1]
        call()
        second.result(PATIENCE)
    assert sizes == [1, 2]


def test_the_host_does_not_hurry_ahead_of_the_device(batcher, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(module, "_done", lambda _: done.is_set)
    with batcher, ThreadPoolExecutor(1) as pool:
        calls = [pool.submit(batcher.call, "a", [torch.ones(1)], lambda rows: rows[0]) for _ in range(module.AHEAD + 1)]
        calls[-2].result(PATIENCE)
        until(lambda: batcher._waiting)
        assert batcher.task(lambda: batcher.calls) == module.AHEAD
        done.set()
        calls[-1].result(PATIENCE)


@pytest.mark.parametrize(("works_beside", "order"), [(True, "task call task"), (False, "task task call")])
def test_a_device_that_idles_gets_a_call_before_the_next_task(batcher, monkeypatch, works_beside, order):
    """Such as the first of sixteen runs, while the prompts of the others are to be encoded."""
    monkeypatch.setattr(module, "WAIT", 0)
    answers = iter([not works_beside])  # once, right after the first call; by the next look it is done
    monkeypatch.setattr(module, "_done", lambda _: lambda: next(answers, True))
    done, began, go = [], threading.Event(), threading.Event()

    def call(name):
        return batcher.call("a", [torch.ones(1)], lambda rows: done.append(name) or rows[0])

    def first():
        began.set()
        go.wait(PATIENCE)
        done.append("task")

    with batcher, batcher, ThreadPoolExecutor(3) as pool:
        call("before")
        tasks = [pool.submit(batcher.task, first)]
        assert began.wait(PATIENCE)
        tasks.append(pool.submit(batcher.task, lambda: done.append("task")))
        tasks.append(pool.submit(call, "call"))
        until(lambda: batcher._tasks and batcher._waiting)
        go.set()
        for each in tasks:
            each.result(PATIENCE)
    assert " ".join(done) == f"before {order}"


def test_rows_that_are_the_same_in_the_next_call_are_joined_once(batcher):
    """As those of prompts; those that a run gives itself may be the same object with other values."""
    texts, seen = {name: torch.full((1, 2), float(name)) for name in range(3)}, []

    def run(rows):
        seen.append(rows[1])
        return rows[0] * rows[1][:, :1]

    def one(name):
        x = torch.ones(1, 1)
        for _ in range(3):
            there.wait(PATIENCE)
            x += batcher.call("a", [x], run, lambda: [texts[name]], sizes=(4,)).clone()
        return x.item()

    there = threading.Barrier(3)
    assert together(batcher, [lambda name=name: one(name) for name in texts]) == [1, 8, 27]
    assert [len(each) for each in seen] == [4, 4, 4]
    assert batcher._last == []  # of nothing that has ended


def test_rows_that_are_read_late_join_too(batcher):
    def call(k):
        return batcher.call(
            "a", [torch.full((1,), k)], lambda rows: rows[0] * rows[1], lambda: [torch.full((1,), 10.0)]
        )

    answers = together(batcher, [lambda k=k: call(k) for k in (2.0, 3.0)])
    assert [answer.item() for answer in answers] == [20, 30]
    assert (batcher.calls, batcher.joined) == (1, 2)


def test_of_many_runs_one_joins_every_fourth_call_of_a_single_run(batcher, monkeypatch):
    """And all of them share calls again when that has ended. The single run calls when all others wait for their turn.

    Those go by themselves only after a long time without a call, and the single run ends at one stroke.
    """
    monkeypatch.setattr(module, "HELD", PATIENCE)
    made, there = [], threading.Barrier(6)

    def run(rows):
        made.append("".join(sorted(map(chr, rows[0].tolist()))))
        return rows[0]

    def one(name, steps):
        with ExitStack() as begun:
            begun.enter_context(batcher.lane(Lane(name)))
            begun.enter_context(batcher)
            there.wait(PATIENCE)
            for _ in range(steps):
                if name == "b":
                    until(lambda: len(batcher._waiting) == batcher._running[Lane("a")])
                batcher.call("a", [torch.tensor([ord(name)])], run)
            if name == "b":
                with batcher._turn:
                    begun.close()

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(one, "b", 3 * FLOOR), *(pool.submit(one, "a", 2 * FLOOR) for _ in range(5))]:
            future.result(PATIENCE)
    beside, after = made[: 3 * FLOOR], made[3 * FLOOR :]
    assert {*beside} == {"b", "ab"}
    assert [beside[k : k + FLOOR].count("ab") for k in range(0, 3 * FLOOR, FLOOR)] == [1, 1, 1]
    assert after[: 2 * FLOOR - 3] == ["aaaaa"] * (2 * FLOOR - 3)
    assert {*after} <= {"a" * k for k in range(1, 6)}
