"""The component, in a project of somebody else's that is made with `dg`."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.core.package_entry import discover_package_objects
from jsonschema import Draft202012Validator

from rms_pipeline import CurrentRms, CurrentRmsComponent, Mirror, build_defs
from rms_pipeline.defs.component import AccountInYaml, MirrorInYaml, _attributes
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import SettingsError
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.histories import history_in_files
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.rows import query

PROJECT = Path(__file__).parent.parent.parent

ACCOUNT = """
type: rms_pipeline.CurrentRmsComponent
attributes:
  account:
    subdomain: %s
    api_key: "{{ env.SCRATCH_KEY }}"
    base_url: %s
    requests_per_minute: 0
  mirror:
    url: "{{ env.SCRATCH_URL }}"
    schema: %s
  key_prefix: %s
  group: rental
"""


# Dagster's own word about what its components use.
pytestmark = pytest.mark.filterwarnings("ignore::dagster_shared.utils.warnings.BetaWarning")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with nothing in it yet; its folder."""
    package = tmp_path / "src" / "scratch"
    (package / "defs").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "scratch"\nversion = "0"\n\n[tool.dg]\ndirectory_type = "project"\n\n'
        '[tool.dg.project]\nroot_module = "scratch"\nregistry_modules = ["rms_pipeline"]\n'
    )
    for folder in (package, package / "defs"):
        (folder / "__init__.py").write_text("")
    (package / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n\n@dg.definitions\n"
        "def defs():\n    return dg.load_from_defs_folder(path_within_project=Path(__file__))\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "scratch"]:
        del sys.modules[name]


def test_two_accounts_in_yaml_are_loaded_and_mirrored_side_by_side(
    scratch: Path, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_KEY", SANDBOX_API_KEY)
    monkeypatch.setenv("SCRATCH_URL", empty_url)
    history = tmp_path / "history"
    history.mkdir()
    with SandboxServer(Store(12)) as server:
        for name in ("acme", "globex"):
            folder = scratch / "src" / "scratch" / "defs" / name
            folder.mkdir()
            (folder / "defs.yaml").write_text(ACCOUNT % (SANDBOX_SUBDOMAIN, server.url, name, name))
        found = dg.load_from_defs_folder(path_within_project=scratch / "src")
        assert {s.group_name for s in found.resolve_all_asset_specs()} == {"rental"}
        with history_in_files(history) as instance:
            for name in ("acme", "globex"):
                job = found.resolve_job_def(f"{name}__initial_sync")
                assert job.execute_in_process(instance=instance).success
    for name in ("acme", "globex"):
        ((rows,),) = query(database_at(empty_url), f"SELECT count(*) FROM {name}.opportunities")
        assert rows


@pytest.mark.parametrize(
    "attributes", ["key_prefx: acme", "account: {key_prefx: acme}", "mirror: {key_prefx: acme}"]
)
def test_a_word_that_the_yaml_does_not_know_is_refused(scratch: Path, attributes: str) -> None:
    folder = scratch / "src" / "scratch" / "defs" / "acme"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        f"type: rms_pipeline.CurrentRmsComponent\nattributes:\n  {attributes}\n"
    )
    with pytest.raises(ComponentTreeException) as error:
        dg.load_from_defs_folder(path_within_project=scratch / "src").resolve_all_asset_specs()
    told: list[str] = []
    cause: BaseException | None = error.value
    while cause is not None:
        told.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    assert any("key_prefx" in text for text in told)


def loaded(scratch: Path, attributes: str) -> dg.Definitions:
    """The definitions of one component with these attributes."""
    folder = scratch / "src" / "scratch" / "defs" / "acme"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        f"type: rms_pipeline.CurrentRmsComponent\nattributes:\n{attributes}"
    )
    found = dg.load_from_defs_folder(path_within_project=scratch / "src")
    dg.Definitions.validate_loadable(found)
    return found


OF_VARIABLES = """
  account:
    subdomain: "{{ env.SCRATCH_ACCOUNT }}"
    api_key: "{{ env.SCRATCH_KEY }}"
    requests_per_minute: "{{ env.SCRATCH_LIMIT }}"
  mirror:
    url: "{{ env.SCRATCH_URL }}"
    schema: "12"
"""


def test_a_variable_that_is_not_set_stands_for_no_other_account_and_no_other_database(
    scratch: Path,
) -> None:
    # Without secrets, as in CI.
    found = loaded(scratch, OF_VARIABLES.replace('"12"', "acme"))
    resources = found.resources or {}
    for resource, variable in (("current_rms", "SCRATCH_ACCOUNT"), ("mirror", "SCRATCH_URL")):
        told = f"is the variable {variable}, which is not set"
        with pytest.raises(SettingsError, match=told):
            _ = resources[resource].settings
    with (
        dg.instance_for_test() as instance,
        pytest.raises(dg.DagsterInvalidConfigError, match="SCRATCH_URL"),
    ):
        found.resolve_job_def("initial_sync").execute_in_process(instance=instance)


def test_a_key_of_digits_is_a_text_and_a_limit_of_digits_a_number(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_KEY", "12345678")
    monkeypatch.setenv("SCRATCH_LIMIT", "60")
    monkeypatch.setenv("SCRATCH_ACCOUNT", "1234")
    found = loaded(
        scratch,
        OF_VARIABLES.replace('"12"', "\"{{ env('SCRATCH_SCHEMA', 'acme') }}\"").replace(
            '"{{ env.SCRATCH_ACCOUNT }}"', '"1e5"'
        ),
    )
    account = (found.resources or {})["current_rms"].settings
    assert (account.subdomain, account.requests_per_minute) == ("1e5", 60)
    assert account.api_key.get_secret_value() == "12345678"
    assert (found.resources or {})["mirror"].schema_name == "acme"


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ('  key_prefix: "{{ env.NOT_SET }}"\n', "key_prefix .* the variable NOT_SET is not set"),
        ('  collections: ["{{ env.NOT_SET }}"]\n', "collections .* NOT_SET is not set"),
        (
            '  account: {base_url: "https://{{ env.NOT_SET }}/api"}\n',
            "base_url .* the variable NOT_SET is not set",
        ),
        ("  account: {days_back: many}\n", "days_back is 'many', which is not a whole number"),
    ],
)
def test_what_definitions_need_and_do_not_get_is_named(
    scratch: Path, attributes: str, says: str
) -> None:
    with pytest.raises(ComponentTreeException) as error:
        loaded(scratch, attributes)
    assert re.search(says, str(error.value.__cause__))


@pytest.mark.parametrize(
    ("attributes", "place", "says"),
    [
        ("account: {api_kee: x}", "account", "'api_kee' was unexpected"),
        ("account: {days_back: many}", "account.days_back", "'many' does not match"),
        ("account: {days_back: 1.5}", "account.days_back", "1.5 is not of type 'integer'"),
        ("account:", "account", "None is not of type 'object'"),
        ("mirror: {url: 3}", "mirror.url", "3 is not of type 'string'"),
        ("collections: [opportunites]", "collections.0", "'opportunites' is not one of"),
        ("key_prefix: [acme, 3]", "key_prefix.1", "3 is not of type 'string'"),
        ("owners: 3", "owners", "3 is not of type 'array'"),
    ],
)
def test_dg_check_says_what_is_wrong_and_where(attributes: str, place: str, says: str) -> None:
    model = CurrentRmsComponent.get_model_cls()
    assert model is not None
    check = Draft202012Validator(model.model_json_schema())
    (wrong,) = check.iter_errors(yaml.safe_load(attributes))
    assert ".".join(map(str, wrong.absolute_path)) == place
    assert says in wrong.message


@pytest.mark.parametrize(
    "attributes",
    [
        'account: {days_back: "{{ env.DAYS }}", days_ahead: 30, subdomain: null}',
        'schedules: "{{ env.ON }}"',
        "key_prefix: [a, b]",
        "collections: members",
    ],
)
def test_dg_check_takes_what_is_right(attributes: str) -> None:
    model = CurrentRmsComponent.get_model_cls()
    assert model is not None
    check = Draft202012Validator(model.model_json_schema())
    assert list(check.iter_errors(yaml.safe_load(attributes))) == []


def test_dg_writes_a_yaml_that_needs_but_two_variables(scratch: Path) -> None:
    with Child(
        *(DG, "scaffold", "defs", "rms_pipeline.CurrentRmsComponent", "acme"),
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(scratch / "src")},
    ) as process:
        told, _ = process.communicate(60)
    assert process.returncode == 0, told
    text = (scratch / "src/scratch/defs/acme/defs.yaml").read_text()
    # All that it may say stands below, as comments.
    comments = [line for line in text.splitlines() if line.startswith("#")]
    whole = CurrentRmsComponent.get_model_cls()
    assert whole is not None
    models = (whole, AccountInYaml, MirrorInYaml)
    names = {of.alias or name for model in models for name, of in model.model_fields.items()}
    assert {f"{name}:" for name in names} <= {line.strip("# ") for line in comments}
    assert max(map(len, comments)) <= 100
    written = yaml.safe_load(text)
    assert written["type"] == "rms_pipeline.CurrentRmsComponent"
    assert written["attributes"]["account"]["api_key"] == "{{ env.ACME_API_KEY }}"
    assert written["attributes"]["key_prefix"] == "acme"


@pytest.mark.parametrize(
    ("name", "schema", "variable", "prefix"),
    [
        ("acme-rentals", "acme_rentals", "ACME_RENTALS", "acme-rentals"),
        ("1acme", "rms_1acme", "RMS_1ACME", "rms_1acme"),
        ("acme.uk", "acme_uk", "ACME_UK", "acme_uk"),
        ("Acme", "acme", "ACME", "Acme"),
        ("dagster", "rms_dagster", "RMS_DAGSTER", "dagster"),
        ("pg_acme", "rms_pg_acme", "RMS_PG_ACME", "pg_acme"),
        ("Über Rent", "ber_rent", "BER_RENT", "ber_rent"),
        ("东京", "rms", "RMS", "rms"),
        ("a" * 60, "a" * 36, "A" * 36, "a" * 60),
    ],
)
def test_what_dg_writes_can_be_loaded_whatever_the_folder_is_called(
    name: str, schema: str, variable: str, prefix: str
) -> None:
    made = _attributes(name)
    assert made["mirror"] == {"url": f"{{{{ env.{variable}_POSTGRES_URL }}}}", "schema": schema}
    assert made["account"]["api_key"] == f"{{{{ env.{variable}_API_KEY }}}}"
    assert made["key_prefix"] == prefix
    account = CurrentRms(subdomain=made["account"]["subdomain"], api_key=dg.EnvVar("NOT_SET"))
    place = Mirror(url=dg.EnvVar("NOT_SET"), schema=schema)
    assert build_defs(account, place, key_prefix=prefix)


DG = str(Path(sys.executable).with_name("dg"))


def test_dg_finds_the_component_where_the_package_says() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    modules = project["entry-points"]["dagster_dg_cli.registry_modules"].values()
    found = discover_package_objects(list(modules))
    assert {f"{key.namespace}.{key.name}" for key in found} == {"rms_pipeline.CurrentRmsComponent"}


def test_all_that_the_yaml_may_say_is_explained() -> None:
    model = CurrentRmsComponent.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    shapes = [schema, *schema.get("$defs", {}).values()]
    told = {name: of for shape in shapes for name, of in shape.get("properties", {}).items()}
    assert {"key_prefix", "subdomain", "schema"} <= told.keys()
    assert [name for name, of in told.items() if not of.get("description")] == []


@pytest.mark.parametrize(
    ("in_yaml", "resource"), [(AccountInYaml, CurrentRms), (MirrorInYaml, Mirror)]
)
def test_the_yaml_takes_every_field_of_its_resource(
    in_yaml: type[dg.Model], resource: type[dg.ConfigurableResource[Any]]
) -> None:
    # What `build_defs` sets itself is nobody's to say.
    set_by_us = {"asset_prefix", "account"}
    fields = {f.alias or n for n, f in resource.model_fields.items() if n not in set_by_us}
    assert {f.alias or n for n, f in in_yaml.model_fields.items()} == fields
    for name, field in in_yaml.model_fields.items():
        told = resource.model_fields[name]
        assert (field.description or "").startswith(told.description or "?")
        assert ("{{ env." in (field.description or "")) is (not told.repr)


def test_the_python_of_the_page_makes_definitions_that_resolve() -> None:
    names: dict[str, object] = {}
    exec(block("python"), names)
    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert {"acme/opportunities", "globex/opportunities", "hires_of_next_week"} <= keys
    dg.Definitions.validate_loadable(defs)


def test_the_yaml_of_the_page_is_loaded(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "k")
    monkeypatch.setenv("ACME_POSTGRES_URL", "postgresql://u@127.0.0.1:1/rental")
    folder = scratch / "src" / "scratch" / "defs" / "acme"
    folder.mkdir()
    (folder / "defs.yaml").write_text(block("yaml"))
    found = dg.load_from_defs_folder(path_within_project=scratch / "src")
    assert found.resolve_job_def("acme__incremental_sync")
    tables = {s.metadata.get("dagster/table_name") for s in found.resolve_all_asset_specs()}
    assert "rental.acme.opportunities" in tables
    # What it shows of tags and automation reaches the tables alone.
    (folder / "defs.yaml").write_text(block("yaml") + block("yaml", 1))
    found = dg.load_from_defs_folder(path_within_project=scratch / "src")
    changed = {s.key.path[-1]: s for s in found.resolve_all_asset_specs() if "domain" in s.tags}
    assert changed.keys() == {"opportunities", "members"}
    assert all(spec.automation_condition is not None for spec in changed.values())


def block(language: str, number: int = 0) -> str:
    """An example in `language` of the page that explains this, the first by default."""
    page = (PROJECT / "docs" / "how-to" / "own-dagster.md").read_text()
    return page.split(f"```{language}\n")[number + 1].partition("```")[0]


def test_a_subclass_may_say_more_of_each_asset() -> None:
    class Ours(CurrentRmsComponent):
        def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
            return spec.merge_attributes(tags={"domain": "rental"})

    made = Ours(key_prefix="acme").build_defs(dg.ComponentTree.for_test().load_context)
    assert {s.tags["domain"] for s in made.resolve_all_asset_specs()} == {"rental"}
