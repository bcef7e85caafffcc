"""The base class of every error that this project raises on purpose, and advice about files."""

import errno


class RmsPipelineError(Exception):
    """Something a person can act on. Its text says what happened and what to do; no secret in it.

    RmsPipelineError
    ├── SettingsError                 settings: a variable of the environment is wrong
    ├── NoAccountError                account: none is configured, and no sandbox answers
    ├── CurrentRmsError               current_rms: the API did not give what was asked; its kinds
    │                                 are listed in current_rms/errors.py
    ├── DatabaseError                 mirror: PostgreSQL cannot be used as it is
    ├── DagsterUnavailable            web: Dagster would not launch a run
    ├── SyncUnderWay, NoFullSync      web: no sync was launched, and why
    ├── SyncFailed, RebuildFailed     cli: a run of the command failed
    ├── UpFailed, WebFailed           cli, web: a part could not be started, or ended by itself
    ├── PortTaken                     ports: another program listens there, or there is no right to
    └── SandboxNotStarted             cli: its port is taken
    """


def in_one_line(error: BaseException) -> str:
    """The text of any error, for a log or a table, where a line break begins another entry."""
    return " ".join(str(error).split())


_REMEDIES = {
    "Free some disk space.": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Allow this user to read and write there.": (errno.EACCES, errno.EPERM),
    "Make that file system writable.": (errno.EROFS,),
    "Move what is there away.": (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    "Raise the limit of open files (`ulimit -n`).": (errno.EMFILE, errno.ENFILE),
    "Check the disk.": (errno.EIO,),
}
_REMEDY_OF = {number: text for text, numbers in _REMEDIES.items() for number in numbers}


def remedy_of(error: OSError) -> str | None:
    """What a person does about a file that the system refuses: a sentence, or None for an error of
    another kind."""
    return _REMEDY_OF.get(error.errno or 0)
