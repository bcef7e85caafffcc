"""Dagster's own storage, in schema `dagster` of the mirror's database. Named in `dagster.yaml`."""

from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.schema import DAGSTER_SCHEMA, ensure_dagster_schema, migrate
from rms_pipeline.settings import settings, with_search_path


class MirrorPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` on POSTGRES_URL (or the embedded server), kept out of `public`.

    Dagster names its version table `alembic_version`, as other applications do; in a schema of its
    own it meets none of them. Opening the storage also brings our own tables up to date, so that
    whatever starts first, `dagster dev` included, finds everything there.
    """

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "MirrorPostgresStorage":
        database = open_database(settings())
        ensure_dagster_schema(database)
        url = with_search_path(database.session_url.get_secret_value(), DAGSTER_SCHEMA)
        storage = cls(postgres_url=url, inst_data=inst_data)
        migrate(database)
        return storage
