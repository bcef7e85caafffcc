"""Where a request comes from, as far as the browser says, and where an answer may redirect to."""

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import Request

from rms_pipeline.web.refusals import Refusal

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = ("same-origin", "none")


def refuse_foreign_page(request: Request) -> None:
    """Checks requests that a browser authenticates automatically. Raises Refusal (403) unless a
    page of ours or the person sent the request. Safe navigations from other sites are accepted,
    because links are such requests."""
    safe = request.method in SAFE_METHODS
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        link = safe and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in _OWN and not link:
            _refuse()
    # Browsers send no Sec-Fetch-Site over plain http to another machine.
    elif not safe and not comes_from_own_host(request):
        _refuse()


def refuse_foreign_origin(request: Request) -> None:
    """Checks requests that a script authenticates. Raises Refusal (403) if a page of another site
    sent it."""
    if "Origin" in request.headers and not comes_from_own_host(request):
        _refuse()


def comes_from_own_host(request: Request) -> bool:
    """Whether `Origin` names the requested host. The scheme is not compared, because a proxy may
    change it."""
    try:
        origin = urlsplit(request.headers.get("Origin", "")).netloc.lower()
    except ValueError:
        return False
    return bool(origin) and origin == request.headers.get("Host", "").lower()


def follows_a_link_elsewhere(request: Request) -> bool:
    """Whether a link on another site led here, so that the browser did not send Strict cookies."""
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Site") == "cross-site"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
    )


def own_address(request: Request) -> str:
    """Path and query of the request without `token`. The result is always on this host."""
    path = quote(request.scope["path"], safe="/:@!$&'()*+,;=~-._")
    return _without_token(path, request.url.query)


def address_to_return_to(request: Request) -> str:
    """The address of the page that was asked for. Of a form that was sent: that of the page with
    the form, because nothing can be opened at the form's own address. The result is always on this
    host."""
    if request.method in SAFE_METHODS:
        return own_address(request)
    try:
        page = urlsplit(request.headers.get("Referer", ""))
    except ValueError:
        return "/"
    is_ours = page.netloc.lower() == request.headers.get("Host", "").lower()
    return _without_token(page.path, page.query) if is_ours else "/"


def _without_token(path: str, query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = urlencode([(k, v) for k, v in pairs if k != "token"])
    return local_address(f"{path}?{kept}" if kept else path)


def local_address(wanted: str) -> str:
    """`wanted` if it is certainly an address of this host, else `/`."""
    # A browser reads "\" as "/" and skips blanks: "//", "/\" and "/<tab>/" lead to other hosts.
    if re.fullmatch(r"/(?!/)[\x21-\x5b\x5d-\x7e]*", wanted):
        return wanted
    return "/"


def _refuse() -> None:
    raise Refusal(
        403,
        "A page of another site sent this request, or the browser is too old to say which site "
        "did. So it is refused. Use the buttons of this dashboard, opened at its own address. "
        "Scripts send the API token: `Authorization: Bearer <RMS_API_TOKEN>`.",
    )
