"""What the things of one account are called in Dagster, so that several can be in one place.

With a key prefix, everything that has a name carries it: assets as the first parts of their keys,
all else in front of its own name, `acme__initial_sync`. What a sync is to the mirror, its type,
stays as it is.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import dagster as dg

MIRROR, CURRENT_RMS = "mirror", "current_rms"

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Naming:
    """The key prefix of one account, how its assets are filed, and where its pages are."""

    prefix: tuple[str, ...] = ()
    group: str = "current_rms"
    owners: tuple[str, ...] = ("team:data-engineering",)
    pages: str | None = None

    @property
    def links(self) -> dict[str, dg.MetadataValue]:
        """To the pages of the account's web service: of assets, jobs, and what their runs did."""
        return {"dashboard": dg.MetadataValue.url(f"{self.pages}/")} if self.pages else {}

    def key(self, own: str) -> dg.AssetKey:
        """That of the asset `own`."""
        return dg.AssetKey([*self.prefix, own])

    def keys(self, own: Iterable[str]) -> list[dg.AssetKey]:
        return [self.key(each) for each in own]

    def name(self, own: str) -> str:
        """That of a job, an op, a schedule, a sensor or a resource."""
        return self.key(own).to_python_identifier()

    def own(self, name: str) -> str | None:
        """Undoes `name`; None for what is not of this account."""
        before = self.name("")
        return name.removeprefix(before) if name.startswith(before) else None

    def bind(self, function: Callable[..., R]) -> Callable[..., R]:
        """`function` with its resources, which are named by its parameters, under this account's
        names."""
        if not self.prefix:
            return function
        names = {own: self.name(own) for own in (MIRROR, CURRENT_RMS)}
        signature = inspect.signature(function)
        renamed = [
            p.replace(name=names.get(p.name, p.name), kind=p.kind)
            for p in signature.parameters.values()
        ]
        back = {name: own for own, name in names.items()}

        def own(given: dict[str, Any]) -> dict[str, Any]:
            return {back.get(name, name): of for name, of in given.items()}

        def returns(*args: Any, **given: Any) -> Any:
            return function(*args, **own(given))

        def yields(*args: Any, **given: Any) -> Any:
            yield from cast(Iterator[Any], function(*args, **own(given)))

        # Dagster asks the function itself whether it yields its results.
        called = yields if inspect.isgeneratorfunction(function) else returns
        functools.update_wrapper(called, function)
        # From this Dagster takes which resources are wanted.
        called.__signature__ = signature.replace(parameters=renamed)  # type: ignore[attr-defined]
        del called.__wrapped__  # type: ignore[attr-defined]
        called.__annotations__ = {
            names.get(name, name): of for name, of in function.__annotations__.items()
        }
        return called


# That of this project's own code location.
OWN = Naming()
