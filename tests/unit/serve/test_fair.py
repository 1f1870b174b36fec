"""Turns between owners, and between those who watch and the rest."""

import pytest

from diffuscope.errors import BusyError
from diffuscope.serve.fair import OWNERS, FairQueue, Lane, held_back


def taken(queue):
    return "".join(iter(queue.take, None))


def test_owners_take_turns_by_what_they_have_used():
    queue = FairQueue(20)
    for item in "aaaaaa":
        queue.put(item, "a", 1.0, interactive=False)
    for item in "bb":
        queue.put(item, "b", 2.0, interactive=False)
    assert taken(queue) == "abaabaaa"


def test_who_comes_late_does_not_make_up_for_the_time_before():
    queue = FairQueue(20)
    for item in "aaaa":
        queue.put(item, "a", 1.0, interactive=False)
    assert [queue.take(), queue.take()] == ["a", "a"]
    for item in "bbbb":
        queue.put(item, "b", 1.0, interactive=False)
    assert taken(queue) == "ababbb"


def test_watched_work_goes_first_and_leaves_a_quarter_of_the_turns():
    queue = FairQueue(20)
    for _ in range(4):
        queue.put("-", "batch", 1.0, interactive=False)
    for _ in range(8):
        queue.put("i", "page", 1.0, interactive=True)
    assert taken(queue) == "iii-iii-ii--"


def test_only_lanes_that_are_accepted_have_a_turn():
    queue = FairQueue(20)
    for item in "aa":
        queue.put(item, "a", 1.0, interactive=False)
    queue.put("b", "b", 5.0, interactive=False)
    queue.put("A", "a", 1.0, interactive=True)
    assert queue.take(lambda lane: lane == Lane("b")) == "b"
    assert queue.take(lambda lane: lane == Lane("b")) is None
    assert taken(queue) == "Aaa"


@pytest.mark.parametrize(
    ("runs", "held", "fewest"),
    [
        ({}, "", 0),
        ({"a": 8}, "", 8),
        ({"a": 8, "b": 1}, "a", 1),
        ({"a": 2, "b": 1, "c": 1}, "", 1),
        ({"a": 8, "b": 7, "c": 3}, "ab", 3),
        ({"a": 1, "B": 2}, "a", 2),
        ({"a": 8, "B": 1, "C": 3}, "aC", 1),
    ],
)
def test_many_runs_and_those_that_nobody_watches_are_held_back(runs, held, fewest):
    """Capitals are watched."""
    lanes = {Lane(name, name.isupper()): count for name, count in runs.items()}
    assert held_back(lanes) == ({Lane(name, name.isupper()) for name in held}, fewest)


def test_a_full_queue_takes_none_of_a_job():
    queue = FairQueue(3)
    queue.put("a", "a", 1.0, interactive=False)
    queue.check(2)
    with pytest.raises(BusyError):
        queue.check(3)


def test_an_item_is_taken_out():
    queue, first, second = FairQueue(3), object(), object()
    queue.put(first, "a", 1.0, interactive=True)
    queue.put(second, "b", 1.0, interactive=False)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert (queue.take(), queue.take()) == (second, None)


def test_names_of_owners_who_are_gone_take_no_memory_for_ever():
    queue = FairQueue(4)
    queue.put("kept", "waiting", 1.0, interactive=False)
    for k in range(3 * OWNERS):
        queue.put(k, f"owner {k}", 1.0, interactive=True)
        queue.take()
    assert len(queue._used) <= OWNERS + 2


def test_one_owner_has_a_limit_of_its_own():
    queue = FairQueue(10, per_owner=2)
    for k in range(2):
        queue.put(k, "one", 1.0, interactive=bool(k))
    with pytest.raises(BusyError, match="this caller"):
        queue.check(1, "one")
    queue.check(2, "other")
