"""A complete, live copy of a Current RMS account's opportunities in PostgreSQL, kept by Dagster.

For Dagster projects of others: `build_defs`, `CurrentRms`, `Mirror` and `CurrentRmsComponent`.
"""

# That of typing takes some milliseconds, in which Ctrl-C would show a traceback.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from rms_pipeline.defs.build import build_defs as build_defs
    from rms_pipeline.defs.component import CurrentRmsComponent as CurrentRmsComponent
    from rms_pipeline.defs.resources import CurrentRms as CurrentRms
    from rms_pipeline.defs.resources import Mirror as Mirror

# Where each stands. They need Dagster, which the core and the sandbox do without.
_PUBLIC = {
    "CurrentRms": "rms_pipeline.defs.resources",
    "CurrentRmsComponent": "rms_pipeline.defs.component",
    "Mirror": "rms_pipeline.defs.resources",
    "build_defs": "rms_pipeline.defs.build",
}
__all__ = ["CurrentRms", "CurrentRmsComponent", "Mirror", "build_defs"]


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
