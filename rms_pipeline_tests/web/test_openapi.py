"""The service's own description: examples that are true to it."""

import inspect
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.deliveries import read_delivery
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import load_settings
from rms_pipeline.web import sync_models
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.launching import Launcher
from rms_pipeline.web.metrics import Metrics

EXAMPLES = [
    (model, extra["example"])
    for _, model in inspect.getmembers(sync_models, inspect.isclass)
    if issubclass(model, BaseModel)
    and isinstance(extra := model.model_config.get("json_schema_extra"), dict)
]


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    nowhere = Database(SecretStr("postgresql:///nowhere"), SecretStr("postgresql:///nowhere"))
    app: FastAPI = create_app(
        nowhere,
        current=load_settings(_env_file=None),
        webhook_tokens=[SecretStr("t" * 16)],
        access=Access(SecretStr("t" * 16)),
        metrics=Metrics(),
        launcher=Launcher(nowhere, "http://127.0.0.1:1"),
        services=[],
        stopping=lambda: False,
    )
    return app.openapi()


@pytest.mark.parametrize("path", ["/api/sync/initial", "/api/sync/incremental", "/api/sync/status"])
def test_every_answer_of_the_sync_api_but_a_refusal_has_an_example(
    path: str, description: dict[str, Any]
) -> None:
    (operation,) = description["paths"][path].values()
    assert operation["summary"]
    for status, answer in operation["responses"].items():
        if status in ("200", "202", "409", "500", "504"):
            schema = answer["content"]["application/json"]["schema"]
            name = schema["$ref"].rpartition("/")[2]
            assert description["components"]["schemas"][name]["example"], (path, status)


@pytest.mark.parametrize(("model", "example"), EXAMPLES)
def test_an_example_is_what_it_is_an_example_of(model: type[BaseModel], example: Any) -> None:
    model.model_validate(example)


def test_every_refusal_is_described_as_it_is_answered(description: dict[str, Any]) -> None:
    for path, operations in description["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status >= "400" and path != "/healthz":
                    schema = answer["content"]["application/json"]["schema"]
                    told = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                    assert {"success", "error"} <= set(told["properties"]), (path, status)


def test_the_example_of_a_webhook_is_one(description: dict[str, Any]) -> None:
    for path in ("/api/webhook/{token}", "/api/webhook"):
        body = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        event = read_delivery(str(body["example"]).replace("'", '"').encode(), [OPPORTUNITIES])
        assert (event.action_type, event.collection, event.record) == (
            "update",
            OPPORTUNITIES,
            1234,
        )
