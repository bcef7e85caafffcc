"""What the sandbox can be told to do otherwise: where the API is uncertain, and where it fails."""

import random
import threading
from dataclasses import dataclass, field
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Switches:
    """The facts of the API that nobody is sure of, each to be turned either way.

    `honours_sort`: whether `q[s]` is obeyed. `honours_id_predicates`: whether `q[id_gt]` and its
    like narrow the list, `honours_created_at` and `honours_id_in` whether those filters do.
    `tells_date`: whether answers have a `Date` header. `unknown_predicate`: refused with 422 or
    ignored. `null_predicates`: `_null` and `_not_null` honoured, ignored or refused. `nested`:
    whether member, owner and venue come when asked for, always or never. `filtermode_default`:
    what an absent `filtermode` means. `retry_after`: the form of that header on a 429.
    `default_per_page`: 12 and 20 have been seen. `max_per_page`: 100, and small for small tests.
    """

    honours_sort: bool = True
    honours_id_predicates: bool = True
    honours_created_at: bool = True
    honours_id_in: bool = True
    tells_date: bool = True
    unknown_predicate: Literal["422", "ignore"] = "422"
    null_predicates: Literal["honoured", "ignored", "422"] = "honoured"
    nested: Literal["asked", "always", "never"] = "asked"
    filtermode_default: Literal["live", "all"] = "live"
    retry_after: Literal["seconds", "date", "none"] = "seconds"
    default_per_page: int = 20
    max_per_page: int = 100


FaultKind = Literal[
    "slow", "error_400", "error_500", "error_502", "error_503", "rate_limited", "truncated",
    "broken_off", "html_200", "dropped", "hang", "redirect", "wrong_shape",
]  # fmt: skip


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    probabilities: dict[FaultKind, float] = {}
    queue: list[FaultKind] = []


@dataclass(slots=True)
class Faults:
    """How the sandbox misbehaves: with a probability (0 to 1) for each kind, or next in line.

    `slow_seconds` delays a slow answer, `hang_seconds` is how long a hanging one keeps silent.
    """

    probabilities: dict[FaultKind, float] = field(default_factory=dict)
    queue: list[FaultKind] = field(default_factory=list)
    slow_seconds: float = 1.0
    hang_seconds: float = 120.0
    seed: int = 1
    _random: random.Random = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def change(self, body: bytes) -> None:
        """Takes `{"probabilities": {kind: 0..1}, "queue": [kind, ...]}`, either may be absent.

        Raises ValueError for a kind it does not know.
        """
        try:
            wanted = msgspec.json.decode(body, type=_Change)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        with self._lock:
            self.probabilities = dict(wanted.probabilities)
            self.queue = list(wanted.queue)

    def next(self) -> FaultKind | None:
        """What goes wrong with the request at hand, if anything."""
        with self._lock:
            if self.queue:
                return self.queue.pop(0)
            dice = self._random.random()
        for kind, probability in self.probabilities.items():
            if dice < probability:
                return kind
            dice -= probability
        return None
