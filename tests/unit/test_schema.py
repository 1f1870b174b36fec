"""JSON as options: what does not depend on the options."""

from diffuscope.schema import _without_repeats


def test_names_of_an_object_are_compared_once() -> None:
    """A body of many names would hold up a server for minutes if each were compared with all."""

    class Counted(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

    assert len(_without_repeats([(Counted(k), k) for k in range(1000)])) == 1000
    assert Counted.compared < 1000
