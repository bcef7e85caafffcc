"""The fields of a form that a page sends."""

from urllib.parse import parse_qsl

from fastapi import Request

from rms_pipeline.web.refusals import Refusal

_MOST_BYTES, _MOST_FIELDS = 16_384, 10


async def read_form(request: Request, advice: str) -> dict[str, str]:
    """The fields. Raises Refusal (413, 400) with `advice` for a request that is not from our
    forms."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refusal(413, f"The form is too big: {advice}")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise Refusal(400, f"The form has too many fields: {advice}") from None


def with_chosen(names: list[str], chosen: str, *special: str) -> list[str]:
    """The choices of a field, with the current one, so that the form keeps it. `special` are extra
    choices."""
    known = not chosen or chosen in special or chosen in names
    return names if known else [chosen, *names]
