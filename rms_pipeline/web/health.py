"""The line at the head of every page: whether people can rely on what it shows."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.health import Mirrored, State
from rms_pipeline.mirror.api_troubles import Trouble
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.refusals import REFUSALS


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """`state` is green, amber, red, or none if there was no proof yet. `sentence` says everything;
    times are UTC. `mirrored` is `all` after the first full sync of the opportunities, before it
    `part` or `nothing`. `freshAsOf` is null before the first sync. `failingSince` is null unless
    syncs fail. `trouble` is null while Current RMS answers."""

    success: bool
    state: State
    sentence: str
    advice: str
    problems: list[str]
    mirrored: Mirrored
    freshAsOf: datetime | None
    waiting: int
    oldestWaitingSeconds: float
    deadLetters: int
    failingSince: datetime | None
    reason: str
    running: str | None
    trouble: Trouble | None


def health_routes(desk: Desk) -> APIRouter:
    """The routes of the line, which every page has at its head."""
    router = APIRouter()

    @router.get("/fragments/health", **desk.for_people)
    def show() -> Response:
        return desk.render("health.html")

    @router.get(
        "/api/health",
        summary="Whether the mirror can be relied on now",
        tags=["dashboard"],
        **desk.for_programs,
        responses={**REFUSALS, 200: {"model": HealthAnswer}},
    )
    def tell() -> JSONResponse:
        """The content of the line: how fresh the mirror is, what is late, why syncs fail, and what
        to do."""
        now = desk.read_health()
        answer = HealthAnswer(
            success=True,
            state=now.state,
            sentence=now.sentence(_utc),
            advice=now.advice,
            problems=now.problems(_utc),
            mirrored=now.mirrored,
            freshAsOf=now.fresh_at,
            waiting=now.waiting,
            oldestWaitingSeconds=now.oldest_waiting_seconds,
            deadLetters=now.dead_letters,
            failingSince=now.failing_since,
            reason=now.reason,
            running=now.running,
            trouble=now.trouble,
        )
        return JSONResponse(to_jsonable_python(answer))

    return router


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
