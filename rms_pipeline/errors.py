"""The one base of every error this project raises on purpose."""


class RmsPipelineError(Exception):
    """Something a person can act on. Its text says what happened and what to do; no secret in it.

    RmsPipelineError
    ├── SettingsError                 settings: a variable of the environment is wrong
    ├── CurrentRmsError               current_rms: the API did not give what was asked
    │   ├── RequestRefused            final: trying again gives the same answer
    │   └── ApiUnavailable            retried until patience ran out
    ├── WalkIncomplete                current_rms: the list kept moving, or lied
    ├── DatabaseError                 mirror: PostgreSQL cannot be used as it is
    ├── DagsterUnavailable            dagster_api: it would not launch a run
    ├── SyncUnderWay, NoFullSync      web: no sync was launched, and why
    └── SandboxError                  the bundled stand-in could not be started
    """
