"""What assets are given: the mirror's database, and the Current RMS API (or its stand-in)."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import PrivateAttr

from rms_pipeline.account import client_for
from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.defs.recording import recorded
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.run_workers import announced
from rms_pipeline.settings import settings


class MirrorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The company's PostgreSQL. While a run has it, a lock says that its process lives."""

    _database: Database = PrivateAttr()

    @property
    def database(self) -> Database:
        return self._database

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["MirrorResource"]:
        self._database = open_database(settings())
        if context.run is None or context.instance is None:
            yield self
            return
        with (
            announced(self._database, context.run.run_id),
            recorded(self._database, context.instance, context.run),
        ):
            yield self


class CurrentRmsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Access to the account of CURRENT_RMS_SUBDOMAIN, or to the sandbox when there is none."""

    @contextmanager
    def client(self, database: Database, collection: Collection) -> Iterator[CurrentRmsClient]:
        """A client for `collection`, stamping what it fetches by the database's clock."""
        with client_for(settings(), database, collection) as client:
            yield client
