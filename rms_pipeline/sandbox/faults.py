"""How the sandbox fails: with a probability, or next in line."""

import random
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

FaultKind = Literal[
    "slow", "error_400", "error_500", "error_502", "error_503", "rate_limited", "truncated",
    "broken_off", "html_200", "html_403", "html_502", "html_503", "dropped", "hang", "redirect",
    "wrong_shape",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


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

    def told(self) -> dict[str, Any]:
        """What `change` was told and what of the queue is left, to be shown to people."""
        with self._lock:
            return {
                "probabilities": self.probabilities,
                "queue": self.queue,
                "kinds": FAULT_KINDS,
            }

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
