"""What clients hold of something that there is a limited amount of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


class Full(Exception):  # noqa: N818 - a state, not a mistake
    """A client holds its share already, or all clients together hold everything."""


@dataclass(eq=False)
class Share:
    """An amount that all clients share, of which no one can hold more than a part.

    Args:
        most: amount that there is.
        part: part of it that one client may hold, in (0, 1].
    """

    most: int
    part: float = 1.0
    held: int = field(default=0, init=False)
    """Amount that all clients hold."""
    _of_each: Counter[str] = field(default_factory=Counter, init=False)

    def take(self, client: str, amount: int) -> None:
        """Give a client an amount.

        Raises:
            Full: there is not so much left for it; it holds what it held before.
        """
        if self.held + amount > self.most or self._of_each[client] + amount > self.most * self.part:
            raise Full
        self.held += amount
        self._of_each[client] += amount

    def give_back(self, client: str, amount: int) -> None:
        """Take an amount back from a client, which is forgotten when it holds nothing."""
        self.held -= amount
        self._of_each[client] -= amount
        if not self._of_each[client]:
            del self._of_each[client]
