"""Events for readers that come late: steps are forgotten first, and what else is missing is told."""

from diffuscope.serve.events import OWNERS, Event, Events, Ring


def test_a_slow_reader_misses_steps_and_nothing_else():
    ring = Ring(steps=2, others=10)
    for kind in ("queued", "started", "step", "step", "step", "image", "done"):
        ring.add(kind)
    assert [event.kind for event in ring.after(0)] == ["queued", "started", "step", "step", "image", "done"]
    assert [event.id for event in ring.after(5)] == [6, 7]
    assert ring.forgotten == 0


def told(events, count, owner="me", kind="image"):
    for id in range(count):
        events.tell(owner, "job", Event(id, kind))


def test_what_is_forgotten_or_of_another_process_is_told():
    events = Events(steps=1, others=3)
    start = events.position("me")
    told(events, 3)
    assert [len(events.after("me", start)[0]), events.after("me", start)[1]] == [3, False]
    told(events, 1)
    assert events.after("me", start)[1]
    assert not events.after("me", events.at(1))[1]
    for stranger in (Events().position("me"), "", "a-b", events.at(99)):
        assert events.after("me", stranger)[1]


def test_owners_hear_their_own_events_and_few_are_remembered():
    events, heard = Events(), []
    with events.listening("me", lambda: heard.append(1)):
        told(events, 1)
        told(events, 1, owner="other")
        for k in range(2 * OWNERS):
            told(events, 1, owner=str(k))
        assert events.after("me", events.at(0))[0]
    told(events, 1)
    assert heard == [1]
    assert len(events._rings) <= OWNERS + 1
