"""Where the command prints, and what its parts all say."""

from rich.console import Console

from rms_pipeline.settings import Settings

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
