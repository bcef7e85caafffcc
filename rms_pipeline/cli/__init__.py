"""The command `rms-pipeline`, a module for each verb that is more than a few lines.

main          what verbs there are, and how errors end the process
up            everything in one process group, its `children` started and stopped
sync, status, webhooks, sandbox
foreground    one run of a sync here and now, with its `progress_bar`
"""


def main() -> None:
    """Runs the command; imports nothing of it before that."""
    from rms_pipeline.cli.main import main as run

    run()
