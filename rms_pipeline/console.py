"""Where the command prints, and what its parts all say."""

from rich.console import Console

from rms_pipeline import settings as config
from rms_pipeline.project_files import lay_out
from rms_pipeline.settings import Settings, set_environment

out = Console()
err = Console(stderr=True)


def announce_sandbox(current: Settings) -> None:
    """Says loudly, on stderr, that nothing here is a real account's."""
    if current.uses_sandbox:
        err.print(
            "[yellow]No account is configured: the bundled sandbox stands in, with invented "
            "opportunities.[/yellow]\nSet CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY to mirror "
            "your account."
        )


def prepare(*, instance: bool = False) -> config.Settings:
    """Settings, checked; and Dagster told where its instance is configured.

    With `instance`, for a command that uses it, what Dagster needs in an empty folder is made.
    """
    current = config.settings()
    current.demand_dagster_home()
    if instance:
        for made in lay_out(current.project_folder):
            err.print(f"Made {made}, which Dagster needs.", highlight=False)
    # Dagster itself reads no .env.
    set_environment({"DAGSTER_HOME": str(current.dagster_home or current.project_folder)})
    return config.settings()
