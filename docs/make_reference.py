"""Writes the pages of docs/reference anew from the code: `python docs/make_reference.py`.

What a setting, command, column, route, metric, job or check means is said once, where it is
declared; these pages only arrange it. A test fails when one of them is not what this would write.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import typer
from fastapi.routing import iter_route_contexts
from prometheus_client.metrics import MetricWrapperBase
from psycopg2.extensions import connection as Connection  # noqa: N812
from pydantic import SecretStr

from rms_pipeline import settings
from rms_pipeline.cli.main import app
from rms_pipeline.definitions import build_defs
from rms_pipeline.mirror.database import Database
from rms_pipeline.settings import Settings, load_settings
from rms_pipeline.web.access import Access
from rms_pipeline.web.app import create_app
from rms_pipeline.web.launching import Launcher
from rms_pipeline.web.metrics import Metrics

HERE = Path(__file__).parent / "reference"


def pages(connection: Connection) -> dict[str, str]:
    """The text of each page by its file name. `connection` is to a migrated database."""
    made = {
        "settings.md": settings_page(),
        "command.md": command_page(),
        "tables.md": tables_page(connection),
        "http.md": http_page(),
        "metrics.md": metrics_page(),
        "dagster.md": dagster_page(),
    }
    note = "<!-- Made by docs/make_reference.py. Change the code's own words instead. -->\n\n"
    return {name: note + text.rstrip() + "\n" for name, text in made.items()}


def settings_page() -> str:
    rows = []
    for field in Settings.model_fields.values():
        name = str(field.validation_alias)
        # As they are where an account is named.
        value = field.get_default(call_default_factory=True, validated_data={"subdomain": "acme"})
        if isinstance(value, tuple):
            value = ",".join(map(str, value)) or None
        default = "" if value is None else f"`{value}`"
        rows.append([f"`{name}`", field.description or "", default, example(name)])
    return (
        "# Settings\n\n"
        "Environment variables. A file `.env` in the working folder is read, too; the environment "
        "wins. All are optional: without an account the bundled sandbox is used, without "
        "`POSTGRES_URL` an embedded PostgreSQL. A value that is wrong is refused with its name, "
        "the reason and an example, and exit code 2. `rms-pipeline doctor` checks them all, and "
        "names variables that nobody reads.\n\n"
        + table(["variable", "meaning", "default", "example"], rows)
    )


def example(name: str) -> str:
    if name not in settings.EXAMPLES:
        raise LookupError(f"Give {name} an example in EXAMPLES of rms_pipeline/settings.py.")
    text = settings.EXAMPLES[name]
    return text if "`" in text or " " in text else f"`{text}`"


def command_page() -> str:
    parts = [
        "# Command\n",
        "Exit codes: 0 success, 1 failure with the reason on stderr, 2 usage or configuration. "
        "Each command reads the [settings](settings.md), and has `--help`.\n",
    ]
    for path, command in commands(typer.main.get_command(app), "rms-pipeline"):
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        arguments = " ".join(argument(p) for p in shown if p.param_type_name == "argument")
        parts.append(f"## `{path}`\n\n```\n{path} {arguments}".rstrip() + "\n```\n")
        parts.append(paragraphs(command.help or ""))
        # Typer names an argument and shows its help only if it has one.
        given = [
            [f"`{name_of_argument(p)}`", paragraphs(p.help or "").strip()]
            for p in shown
            if p.param_type_name == "argument"
        ]
        if given:
            parts.append(table(["argument", "meaning"], given))
        options = [p for p in shown if p.param_type_name == "option" and p.name != "help"]
        if options:
            rows = [
                [
                    ", ".join(f"`{o}`" for o in (*option.opts, *option.secondary_opts)),
                    paragraphs(option.help or "").strip(),
                    default_of(option),
                ]
                for option in options
            ]
            parts.append(table(["option", "meaning", "default"], rows))
    return "\n".join(parts)


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each command with its path. Typer brings a click of its own, whose classes have no names."""
    if hasattr(command, "commands"):
        if command.invoke_without_command and command.params and path != "rms-pipeline":
            yield path, command
        for name, sub in command.commands.items():
            yield from commands(sub, f"{path} {name}")
    else:
        yield path, command


def argument(parameter: Any) -> str:
    name = name_of_argument(parameter)
    return name if parameter.required else f"[{name}]"


def name_of_argument(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    return f"{parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}"


def default_of(option: Any) -> str:
    if option.is_flag:
        return "on" if option.default else "off"
    return "" if option.default in (None, ()) else f"`{option.default}`"


def tables_page(connection: Connection) -> str:
    parts = [
        "# Tables and columns\n",
        "Everything lies in the schema `RMS_SCHEMA`. The same words are comments in the database: "
        "`\\dt+` and `\\d+ opportunities` in psql show them. Tables whose description begins with "
        "*Internal* may change with any version. All others keep their columns. Times are in UTC, "
        "money is in the account's currency. [Questions with their SQL](../how-to/analyse.md), and "
        "[the functions](#functions) for the past and for the company's days.\n",
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, c.relkind = 'v', obj_description(c.oid, 'pg_class') FROM pg_class c"
            " WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))"
            " AND c.relkind IN ('r', 'v', 'p') AND c.relname NOT LIKE '%alembic%'"
            " ORDER BY obj_description(c.oid, 'pg_class') LIKE 'Internal:%', 1"
        )
        for name, is_view, says in cursor.fetchall():
            cursor.execute(
                "SELECT attname, format_type(atttypid, atttypmod), attnotnull,"
                " col_description(attrelid, attnum) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum",
                (name,),
            )
            columns = [
                [f"`{column}`", kind, "" if required or is_view else "may be empty", text or ""]
                for column, kind, required, text in cursor.fetchall()
            ]
            parts.append(f"## `{name}`\n\n{'A view. ' if is_view else ''}{says or ''}\n")
            parts.append(table(["column", "type", "", "meaning"], columns))
        parts.append("## Functions\n")
        cursor.execute(
            "SELECT proname, pg_get_function_identity_arguments(oid), prorettype::regtype::text,"
            " obj_description(oid, 'pg_proc') FROM pg_proc WHERE pronamespace ="
            " to_regnamespace(quote_ident(current_schema())) AND prorettype <> 'trigger'::regtype"
            " AND (obj_description(oid, 'pg_proc') IS NOT NULL OR proname = ANY(%s)) ORDER BY 1",
            (list(_FUNCTIONS),),
        )
        functions = [
            [f"`{name}({arguments})`", kind, says or _FUNCTIONS[name], f"`{example_of(name)}`"]
            for name, arguments, kind, says in cursor.fetchall()
        ]
        parts.append(table(["function", "rows or values of", "meaning", "example"], functions))
    return "\n".join(parts)


# What the database itself does not say.
_FUNCTIONS = {"rms_time_zone": "The company's time zone, as RMS_TIME_ZONE names it."}
_CALLS = {
    "rms_time_zone": "SELECT now() AT TIME ZONE rms_time_zone()",
    "rms_midnight": "SELECT rms_midnight('2026-11-01', 'America/Havana')",
    "rms_local_day": "SELECT id FROM opportunities WHERE hire && rms_local_day('2026-06-06')",
}


def example_of(function: str) -> str:
    if function in _CALLS:
        return _CALLS[function]
    record = "" if function.endswith(("s_as_of", "ies_as_of")) else "1001, "
    return f"SELECT * FROM {function}({record}now() - interval '1 day')"


def http_page() -> str:
    nowhere = Database(SecretStr("postgresql:///nowhere"), SecretStr("postgresql:///nowhere"))
    web = create_app(
        nowhere,
        current=load_settings(_env_file=None),
        webhook_tokens=[SecretStr("t" * 16)],
        access=Access(SecretStr("t" * 16)),
        metrics=Metrics(),
        launcher=Launcher(nowhere, "http://127.0.0.1:1"),
    )
    described = web.openapi()
    parts = [
        "# HTTP\n",
        "Of the web service, port 8400. Everything but the webhook and `/healthz` takes "
        "`Authorization: Bearer <RMS_API_TOKEN>`, or the session of a browser that signed in. "
        'Every refusal is `{"success": false, "error": "what happened and what to do"}`. '
        "`/openapi.json` describes all of it for programs. Calendar feeds need no token. [Who has "
        "access](../how-to/share.md), and [examples](../how-to/share.md#the-sync-api).\n",
    ]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## `{method.upper()} {path}`\n")
            summary = operation.get("summary", "").rstrip(".")
            parts.append(f"{summary}.\n" if summary else "")
            parts.append(paragraphs(operation.get("description", "")))
            given = [
                [f"`{p['name']}`", p["in"], p.get("description", ""), default_in(p["schema"])]
                for p in operation.get("parameters", [])
            ]
            if given:
                parts.append(table(["parameter", "in", "meaning", "default"], given))
            answers = [
                [status, answer["description"].replace("Successful Response", "Done.")]
                for status, answer in sorted(operation["responses"].items())
            ]
            parts.append(table(["status", "meaning"], answers))
    parts.append(
        "## Pages, and the same as JSON\n\nFor people, and for programs that send the token. The "
        "answers of these addresses may gain fields. [What the pages show](../how-to/desk.md), and "
        "[the filters of lists](../how-to/desk.md#lists).\n"
    )
    addresses = hidden(web)
    if new := [path for path in addresses if path not in _PAGES]:
        raise LookupError(f"Say in _PAGES of docs/make_reference.py what {', '.join(new)} shows.")
    parts.append(table(["address", "what"], [[f"`{path}`", _PAGES[path]] for path in addresses]))
    return "\n".join(parts)


def hidden(web: Any) -> list[str]:
    """The addresses that the description for programs leaves out, without parts of pages."""
    return sorted(
        {
            route.path
            for route in iter_route_contexts(web.routes)
            if route.path and "GET" in (route.methods or ())
            if not route.include_in_schema
            if not route.path.startswith(("/fragments/", "/counts/"))
        }
    )


_PAGES = {
    "/": "The dashboard: totals, statuses, weeks, syncs, webhooks, recent changes.",
    "/calendar": "Hires by month, week or as an agenda.",
    "/calendar.json": "The same as JSON.",
    "/calendar/feeds": "The calendar feeds, and when each was last read.",
    "/calendar/feeds/{secret}.ics": "A feed in iCalendar format. It needs no token.",
    "/changes": "What was changed, when, by whom, from what to what.",
    "/changes.json": "The same as JSON. `next` is the address of the following page.",
    "/compared": "Statuses and coming weeks compared with earlier ones, with the SQL.",
    "/compared.json": "The same as JSON.",
    "/dagster": "Signs the browser in at Dagster's UI, and goes there.",
    "/find": "A search over opportunities, customers, venues, owners, pages and commands.",
    "/find.json": "The same as JSON: `/find.json?q=festival`.",
    "/further-back": "How far back is mirrored, and what more would cost.",
    "/further-back.json": "The same as JSON.",
    "/login": "The form to log in.",
    "/openapi.json": "This description for programs.",
    "/opportunities": "The list of opportunities, with its filters.",
    "/opportunities.csv": "All rows of that list as CSV, with the same parameters.",
    "/opportunities.json": "One page of that list as JSON.",
    "/opportunities.xlsx": "All rows of that list as a workbook.",
    "/opportunities/{id_}": "One opportunity and its timeline. `?as_of=2026-05-31`: a past day.",
    "/opportunities/{id_}.json": "Its record. `?as_of=` works as well.",
    "/opportunities/{id_}/items.json": "Its items, if opportunity_items is mirrored.",
    "/opportunities/{id_}/timeline.json": "Everything that happened to it.",
    "/print/opportunities": "All rows of the list, to print.",
    "/today": "What goes out, comes back or is late. `?day=2026-05-31`: another day.",
    "/today.json": "The same as JSON.",
    "/today/checks": "Opportunities whose data makes no sense (the view sense_checks).",
    "/today/checks.json": "The same as JSON.",
    "/today/compared": "The figures of a day compared with earlier ones, with the SQL.",
    "/today/compared.json": "The same as JSON.",
    "/views/{id_}": "Goes to the list that somebody saved.",
    "/won-and-lost": "What was won and lost by month.",
    "/won-and-lost.json": "The same as JSON.",
    "/won-and-lost/{month}": "The opportunities of one month, such as `2026-05`.",
    "/won-and-lost/{month}.json": "The same as JSON.",
}
for _kind, _one in (("customers", "customer"), ("venues", "venue"), ("owners", "owner")):
    _PAGES |= {
        f"/{_kind}": f"All {_kind}, ranked by what is confirmed.",
        f"/{_kind}.json": "The same as JSON.",
        f"/{_kind}/{{id_}}": f"One {_one}: its year, and its jobs.",
        f"/{_kind}/{{id_}}.json": "The same as JSON.",
        f"/{_kind}/{{id_}}/compared": f"The year of one {_one} and earlier ones, with the SQL.",
        f"/{_kind}/{{id_}}/compared.json": "The same as JSON.",
    }


def default_in(schema: dict[str, object]) -> str:
    return f"`{schema['default']}`" if "default" in schema else ""


def metrics_page() -> str:
    metrics = Metrics()
    rows = [
        [
            f"`{name_of(metric.name, metric.type)}`",
            metric.type,
            ", ".join(f"`{label}`" for label in labels_of(metrics, metric.name)),
            metric.documentation,
        ]
        for metric in metrics.registry.collect()
    ]
    return (
        "# Metrics\n\n"
        "`GET /metrics` of the web service, in the format of Prometheus. What was never measured "
        "is `NaN`, not 0, except that a mirror without a proof is not complete. An alert that "
        "compares with `NaN` stays silent, so alert on `rms_collection_complete`, which is always "
        "0 or 1. "
        "Counters begin at 0 when the service starts. Gauges are read from the database at each "
        "request, so all web services show the same. Metrics whose names begin "
        "with `rms_collection_` have a value for each collection. Those of opportunities have "
        "older names, too, such as `rms_mirror_complete`.\n\n"
        + table(["metric", "kind", "labels", "meaning"], rows)
    )


def labels_of(metrics: Metrics, name: str) -> tuple[str, ...]:
    """The labels of a metric, which it shows only once it has a value."""
    known = (*vars(metrics).values(), *vars(metrics.of_each).values())
    (found,) = {m._labelnames for m in known
                if isinstance(m, MetricWrapperBase) and m._name == name}  # fmt: skip
    return tuple(found)


def name_of(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def dagster_page() -> str:
    defs = build_defs()
    parts = [
        "# Assets, checks, jobs, schedules, sensors\n",
        "With a `key_prefix` the names begin with it, such as `acme__initial_sync`. [How to work "
        "with them](../how-to/dagster.md). A check that fails says on its page what to do.\n",
        "## Assets\n",
    ]
    graph = defs.resolve_asset_graph()
    rows = []
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        upstream = ", ".join(f"`{k.to_user_string()}`" for k in sorted(node.parent_keys))
        rows.append([f"`{key.to_user_string()}`", upstream, plain(node.description)])
    parts.append(table(["asset", "made from", "meaning"], rows))
    parts.append("## Asset checks\n")
    rows = []
    for check in sorted(graph.asset_check_keys, key=lambda k: (k.asset_key, k.name)):
        spec = graph.get_check_spec(check)
        asset = f"`{check.asset_key.to_user_string()}`"
        rows.append([f"`{check.name}`", asset, plain(spec.description)])
    parts.append(table(["check", "of", "what holds when it passes"], rows))
    parts.append("## Jobs\n")
    jobs = [j for j in defs.resolve_all_job_defs() if not j.name.startswith("__")]
    rows = [[f"`{j.name}`", plain(j.description)] for j in sorted(jobs, key=lambda j: j.name)]
    parts.append(table(["job", "what it does"], rows))
    parts.append("## Schedules\n")
    rows = [
        [f"`{s.name}`", f"`{s.cron_schedule}`", on(s.default_status.value), plain(s.description)]
        for s in defs.schedules or ()
        if isinstance(s, dg.ScheduleDefinition)
    ]
    parts.append(table(["schedule", "when", "at first", "what"], rows))
    parts.append("## Sensors\n")
    rows = [
        [f"`{s.name}`", on(s.default_status.value), plain(s.description)]
        for s in defs.sensors or ()
        if isinstance(s, dg.SensorDefinition)
    ]
    parts.append(table(["sensor", "at first", "what"], rows))
    return "\n".join(parts)


def on(status: str) -> str:
    return "on" if status == "RUNNING" else "off"


def plain(text: str | None) -> str:
    return " ".join((text or "").split())


def paragraphs(text: str) -> str:
    """Help as the command shows it, without the marks of the terminal's bold."""
    return re.sub(r"\[/?bold\]", "", inspect.cleandoc(text)) + "\n" if text else ""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(plain(c).replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(titles), "|" + "---|" * len(titles), *map(line, rows)]) + "\n"


def main() -> None:
    from rms_pipeline_tests.conftest import with_all_tables
    from rms_pipeline_tests.servers import embedded_postgresql, new_database

    with (
        embedded_postgresql() as server,
        new_database(server, with_all_tables(server)) as url,
        contextlib.closing(psycopg2.connect(url)) as connection,
    ):
        for name, text in pages(connection).items():
            (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
