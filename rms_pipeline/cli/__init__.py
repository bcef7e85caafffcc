"""The command `rms-pipeline`, a module for each verb that is more than a few lines.

main          what verbs there are, and how errors end the process
up            everything in one process group, its `children` started and stopped
sync, status, webhooks, sandbox
foreground    one run of a sync here and now, with its `progress_bar`
"""

import signal


def main() -> None:
    """Runs the command; imports nothing of it before that.

    Importing takes a second or so. Ctrl-C meanwhile ends the process at once, without a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    # It is ignored in the background of a shell, and stays so.
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rms_pipeline.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()
