"""The files that Dagster needs in the folder in which it starts.

A checkout has them at its top. A wheel has them inside the package, so that it works in an empty
folder.
"""

from importlib.resources import files
from pathlib import Path

from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.settings import PROJECT_FILES

_BROUGHT_ALONG = "project_files_of_the_wheel"


class ProjectFolderUnusable(RmsPipelineError):
    """The working folder cannot contain the files that Dagster needs."""


def lay_out(folder: Path) -> list[Path]:
    """Writes the missing ones of PROJECT_FILES into `folder`, and returns their names. Existing
    files stay unchanged. Raises ProjectFolderUnusable."""
    made = []
    for name in PROJECT_FILES:
        place = folder / name
        if place.exists():
            continue
        text = _standard(name)
        try:
            with place.open("x") as out:
                out.write(text)
        except FileExistsError:
            # Another process of ours was a moment earlier.
            continue
        except OSError as error:
            raise ProjectFolderUnusable(
                f"{folder} cannot hold {name}, which Dagster needs ({error.strerror}). Run this "
                "in a folder that you have the right to write to."
            ) from None
        made.append(place)
    return made


def _standard(name: str) -> str:
    package = files("rms_pipeline")
    brought = package / _BROUGHT_ALONG / name
    if not brought.is_file():
        brought = package / ".." / name
    return brought.read_text()
