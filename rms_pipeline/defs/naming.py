"""The names of one account's objects in Dagster, so that several accounts can share a Dagster.

With a key prefix, every name contains it: asset keys begin with it, and other names too:
`acme__initial_sync`. The mirror's own name of the type of a sync does not change.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import dagster as dg

from rms_pipeline.defs.failures import told_in_names_of

MIRROR, CURRENT_RMS = "mirror", "current_rms"

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Naming:
    """The key prefix of one account, the group of its assets, and the address of its pages."""

    prefix: tuple[str, ...] = ()
    group: str = "current_rms"
    owners: tuple[str, ...] = ("team:data-engineering",)
    pages: str | None = None

    @property
    def links(self) -> dict[str, dg.MetadataValue]:
        """Links to the pages of the account's web service, for assets, jobs and runs."""
        return {"dashboard": dg.MetadataValue.url(f"{self.pages}/")} if self.pages else {}

    def key(self, own: str) -> dg.AssetKey:
        """The key of the asset `own`."""
        return dg.AssetKey([*self.prefix, own])

    def keys(self, own: Iterable[str]) -> list[dg.AssetKey]:
        return [self.key(each) for each in own]

    def name(self, own: str) -> str:
        """The name of a job, an op, a schedule, a sensor or a resource."""
        return self.key(own).to_python_identifier()

    def own(self, name: str) -> str | None:
        """The reverse of `of`. None for a name that does not belong to this account."""
        before = self.name("")
        return name.removeprefix(before) if name.startswith(before) else None

    def bind(self, function: Callable[..., R]) -> Callable[..., R]:
        """`function` with its resources, which its parameters name, under this account's names. Its
        errors name the fields of these resources where they would name settings."""
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
            with told_in_names_of(*given.values(), *args):
                return function(*args, **own(given))

        def yields(*args: Any, **given: Any) -> Any:
            with told_in_names_of(*given.values(), *args):
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


# That of this project's own code location, and its module.
OWN = Naming()
OWN_DEFINITIONS = "rms_pipeline.definitions"
