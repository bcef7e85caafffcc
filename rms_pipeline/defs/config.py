"""The values that a person can set in the launchpad. The usual syncs need none."""

from typing import Any

import dagster as dg
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from rms_pipeline.defs.failures import Explained
from rms_pipeline.sync.counting import RANGES
from rms_pipeline.sync.parts import CALLS, NIGHTLY_CALLS


class LaunchpadConfig(dg.Config):
    """The config of an op. A value that is not valid fails the run with a sentence."""

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_wrong(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))} is {e['input']!r}, but {e['msg'].lower()}"
                for e in error.errors(include_url=False)
            )
            raise Explained(
                f"The config of this run is not valid: {wrong}. Nothing was done. Change it in "
                "the launchpad and launch again."
            ) from None


class WalkConfig(LaunchpadConfig):
    """What a sync fetches from Current RMS."""

    days_back: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Full syncs: fetch opportunities that end at most this many days ago, or "
        "later. Without it, or with the same number: the setting RMS_SYNC_DAYS_BACK, "
        "30 unless set, or the days chosen at /further-back if that is more.",
    )
    days_ahead: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Full syncs: fetch opportunities that start at most this many days from now. "
        "Without it: the setting RMS_SYNC_DAYS_AHEAD, 365 unless set.",
    )
    overlap_minutes: int = Field(
        default=5,
        ge=0,
        le=10_080,
        description="How far before its start this sync sets the watermark. The next sync then "
        "also fetches edits that were saved late, or by a server whose clock is "
        "behind.",
    )
    resume_within_minutes: int = Field(
        default=120,
        ge=0,
        le=1_440,
        description="Full syncs: pages that an unfinished sync has fetched at most this many "
        "minutes ago are not fetched again. 0 fetches everything again.",
    )


class StoreConfig(LaunchpadConfig):
    """How a sync stores what it fetched."""

    confirm_deletions: bool = Field(
        default=False,
        description="Delete any number of rows that Current RMS no longer has. Without it, "
        "nothing is deleted if that would be more than 20 rows and more than 5 % of "
        "the window at once.",
    )
    reverify_calls: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Full syncs: how many calls to spend on rows outside the window (one page of "
        "rows a call). The rows that were requested longest ago come first.",
    )
    ranges: int = Field(
        default=RANGES,
        ge=2,
        le=100,
        description="Full syncs: in how many ranges of ids, cut at random, the proof counts the "
        "window. Each range costs a call. A missing row and a surplus row in the "
        "same range are not noticed.",
    )


class PartsConfig(LaunchpadConfig):
    """Which lists of parts a sync reads, such as the items of opportunities."""

    days_ahead: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Full syncs: list those that start or are out within this many days. Without "
        "it: the setting RMS_ITEMS_DAYS_AHEAD, 14 unless set.",
    )
    most_calls: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="How many calls to spend. The rest waits for the next sync. Without it "
        f"{NIGHTLY_CALLS:,} in a full sync, {CALLS} in one of changes.",
    )
    resume_within_minutes: int = Field(
        default=120,
        ge=0,
        le=1_440,
        description="Full syncs: lists that an unfinished sync has read at most this many "
        "minutes ago are not read again. 0 fetches everything again.",
    )


class StorePartsConfig(LaunchpadConfig):
    """How a sync stores the lists of parts that it read."""

    days_ahead: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="The certificate covers those that start or are out within this many days. "
        "Without it: the setting RMS_ITEMS_DAYS_AHEAD, 14 unless set.",
    )
    confirm_deletions: bool = Field(
        default=False,
        description="Delete any number of rows that Current RMS no longer has. Otherwise nothing "
        "is deleted when it would be more than 5 % of the rows (and more than 20) at "
        "once. Rows whose parent record was changed or deleted do not count.",
    )


class HousekeepingConfig(LaunchpadConfig):
    """How long things are kept, in days."""

    runs_days: int = Field(
        default=90,
        ge=1,
        description="Dagster's runs and events, and the syncs in sync_metadata.",
    )
    history_days: int | None = Field(
        default=None,
        ge=1,
        description="Ended versions of opportunities. Without it all are kept.",
    )
    faults_days: int = Field(default=90, ge=1, description="Rows of sync_faults.")
    webhook_events_days: int = Field(
        default=90, ge=1, description="Processed webhook events. Others are kept."
    )
    walks_days: int = Field(
        default=365,
        ge=1,
        description="Records of walks. (The raw pages of the last three full walks are kept.)",
    )
    reports_days: int = Field(
        default=14,
        ge=1,
        description="What the fast lane reported to Dagster, at most once a minute. The webhooks "
        "themselves are kept for webhook_events_days.",
    )
