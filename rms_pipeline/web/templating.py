"""Pages from the templates beside this module."""

from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

templates = Environment(
    loader=PackageLoader("rms_pipeline.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(
    name: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """The template `name` as an answer. What it names and `context` lacks is an error."""
    text = templates.get_template(name).render(**context)
    return HTMLResponse(text, status_code=status, headers=headers)
