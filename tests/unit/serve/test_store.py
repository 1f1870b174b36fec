"""A budget of bytes: what was used least recently goes first."""

from diffuscope.serve.store import Store


def test_the_budget_is_kept_and_use_counts():
    store = Store(10)
    for name in "abc":
        store.put(name, name.upper(), 3)
    assert store.get("a") == "A"
    store.put("d", "D", 3)
    assert [store.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert (store.size, len(store)) == (9, 3)


def test_what_is_larger_than_the_budget_is_not_kept_and_a_new_value_replaces_the_old():
    store = Store(10)
    store.put("a", 1, 4)
    store.put("a", 2, 6)
    assert (store.get("a"), store.size) == (2, 6)
    store.put("a", 3, 11)
    assert (store.get("a"), store.size) == (None, 0)
