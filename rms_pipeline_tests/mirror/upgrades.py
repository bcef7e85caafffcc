"""Databases as earlier versions of this program left them."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from rms_pipeline.mirror import schema

MIGRATIONS = Path(schema.__file__).with_name("migrations")


def versions() -> list[str]:
    """All versions of the schema, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    walked = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in walked][::-1]
