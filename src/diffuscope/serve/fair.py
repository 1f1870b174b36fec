"""Whose turn it is: between owners by what they have used; interactive work goes first, the rest keeps a share."""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from diffuscope.errors import BusyError

T = TypeVar("T")

FLOOR = 4
"""Of so many turns one goes to work that nobody watches, if there is any."""

HEAVY = 2
"""A lane with more than so many times the runs of the smallest one is held back."""

OWNERS = 1024
"""Owners whose use is remembered, beside those who wait."""


class Lane(NamedTuple):
    """Whose work it is, and whether somebody watches it."""

    owner: str = ""
    interactive: bool = False


def held_back(runs: Mapping[Lane, int]) -> tuple[set[Lane], int]:
    """Lanes that let others go first, by the runs of each, and the runs of the smallest of these others.

    They are those that nobody watches beside watched ones, and those of many runs beside one of few.
    """
    first = [lane for lane in runs if lane.interactive] or [*runs]
    fewest = min((runs[lane] for lane in first), default=0)
    return {lane for lane in runs if lane not in first or runs[lane] > HEAVY * fewest}, fewest


class FairQueue(Generic[T]):
    """Items of several owners. Not thread-safe.

    Args:
        limit: most items that wait.
        per_owner: most of one owner.
    """

    def __init__(self, limit: int, per_owner: int | None = None) -> None:
        self.limit, self.per_owner = limit, limit if per_owner is None else per_owner
        self._items: dict[bool, dict[str, deque[tuple[T, float]]]] = {True: {}, False: {}}
        self._used: dict[str, float] = defaultdict(float)
        self._turns = 0

    def __len__(self) -> int:
        return sum(len(items) for owners in self._items.values() for items in owners.values())

    def count(self, which: Callable[[T], bool]) -> int:
        """How many items are such ones."""
        every = (item for owners in self._items.values() for items in owners.values() for item, _ in items)
        return sum(map(which, every))

    def check(self, count: int, owner: str = "") -> None:
        """Refuse ``count`` more items of an owner where there is no room for all of them."""
        if len(self) + count > self.limit:
            raise BusyError(f"{len(self)} images wait, and the queue holds {self.limit}; try again later")
        own = sum(len(owners.get(owner, ())) for owners in self._items.values())
        if own + count > self.per_owner:
            raise BusyError(f"{own} images of this caller wait, of at most {self.per_owner}; try again later")

    def put(self, item: T, owner: str, cost: float, *, interactive: bool) -> None:
        """Add an item. An owner who had nothing in the queue starts with what the least busy one has used."""
        owners = {name for group in self._items.values() for name in group}
        if len(self._used) > OWNERS:  # one who has nothing in the queue starts anew anyway
            self._used = defaultdict(float, {name: self._used[name] for name in owners})
        if owner not in owners:
            least = min((self._used[name] for name in owners), default=0.0)
            self._used[owner] = max(self._used[owner], least)
        self._items[interactive].setdefault(owner, deque()).append((item, cost))

    def take(self, accepts: Callable[[Lane], bool] = lambda _: True) -> T | None:
        """The next item, of lanes that are accepted: of the class whose turn it is, of the owner who has used least."""
        watched, rest = (
            [name for name in self._items[interactive] if accepts(Lane(name, interactive))]
            for interactive in (True, False)
        )
        if not watched and not rest:
            return None
        self._turns += 1
        interactive = bool(watched) and not (rest and self._turns % FLOOR == 0)
        group = self._items[interactive]
        owner = min(watched if interactive else rest, key=lambda name: (self._used[name], name))
        item, cost = group[owner].popleft()
        if not group[owner]:
            del group[owner]
        self._used[owner] += cost
        return item

    def remove(self, item: T) -> bool:
        """Take an item out; whether it was there."""
        for group in self._items.values():
            for owner, items in group.items():
                for entry in items:
                    if entry[0] is item:
                        items.remove(entry)
                        if not items:
                            del group[owner]
                        return True
        return False
