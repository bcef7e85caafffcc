"""The command `rms-pipeline`, a module for each verb that is more than a few lines.

main          what verbs there are, and how errors end the process
up            everything in one process group, its `children` started and stopped
sync          `sync` and `refresh`: one run of a sync here and now, through `foreground`, with its
              `progress_bar`
fields, migrate, roles, sandbox, status, webhooks
"""

import gc
import signal

# How many objects are made before Python looks for garbage among them, in place of 700. Modules
# make a million objects that stay. Looking at these again and again takes a seventh of the time of
# a short sync.
_OBJECTS_BETWEEN_LOOKS = 50_000


def main() -> None:
    """Runs the command; imports nothing of it before that.

    Importing takes a second or so. Ctrl-C meanwhile ends the process at once, without a traceback.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS)
    handler = signal.getsignal(signal.SIGINT)
    # It is ignored in the background of a shell, and stays so.
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rms_pipeline.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()
