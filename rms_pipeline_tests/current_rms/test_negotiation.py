"""What an account refuses to include, or to send on a page, is found out and asked for no more."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import NotFound, Unprocessable
from rms_pipeline.current_rms.terms import Refusal
from rms_pipeline.mirror.api_terms import StoredTerms, try_all_again
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Faults, SandboxServer, Store, Switches

INCLUDES = OPPORTUNITIES.includes
MakeClient = Callable[..., CurrentRmsClient]


def keys(answer: ListAnswer | None) -> set[str]:
    """Which associations the first record has."""
    assert answer is not None
    return set(msgspec.json.decode(answer.page.records[0])) & set(INCLUDES)


def refused(client: CurrentRmsClient) -> dict[str, int | None]:
    return {r.name: r.status for r in client.terms.refusals}


@pytest.mark.parametrize("api", ["v2.1", "v1"])
@pytest.mark.parametrize("nested", ["asked", "always"])
def test_a_record_reads_the_same_whichever_way_it_came(
    client_for: MakeClient, api: str, nested: str
) -> None:
    switches = Switches(api=api, nested=nested)  # type: ignore[arg-type]
    with SandboxServer(Store(5), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        listed = client.list_records(())
        single = client.get_record(listed.ids[0])
    assert single is not None
    assert bytes(single.page.records[0]) == bytes(listed.page.records[0])
    assert {"destination", "billing_address", "opportunity_surcharges"} <= keys(listed)
    assert refused(client) == {}


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(
    "names",
    [
        ("destination",),
        ("member",),
        ("opportunity_surcharges",),
        ("venue", "destination"),
        INCLUDES,
    ],
    ids="+".join,
)
def test_an_include_that_is_refused_is_found_out_in_few_calls(
    client_for: MakeClient, status: int, names: tuple[str, ...]
) -> None:
    switches = Switches(api="v2.1", refused_includes=dict.fromkeys(names, status))
    with SandboxServer(Store(5), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        answer = client.list_records(())
        assert refused(client) == dict.fromkeys(names, status)
        assert not keys(answer) & set(names)
        assert len(sandbox.requests) <= (7 if len(names) == 1 else 16)
        sandbox.requests.clear()
        client.list_records(())
        assert client.get_record(answer.ids[0]) is not None
        assert client.get_record(answer.ids[1]) is not None
        assert len(sandbox.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_without_words_is_found_out_by_halving(
    client_for: MakeClient, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rms_pipeline.current_rms.transport.api_words", lambda _: "")
    switches = Switches(api="v2.1", refused_includes={"owner": status})
    with SandboxServer(Store(5), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        client.list_records(())
        assert refused(client) == {"owner": status}
        assert len(sandbox.requests) <= 9


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_record_is_not_taken_for_gone_because_an_include_is_refused(
    client_for: MakeClient, status: int
) -> None:
    store = Store(5)
    with SandboxServer(store, switches=Switches(refused_includes={"venue": status})) as sandbox:
        client = client_for(sandbox.url)
        assert "venue" not in keys(client.get_record(store.ids()[0]))
        assert refused(client) == {"venue": status}
        assert client.get_record(999_999) is None


@pytest.mark.parametrize("status", [404, 410])
def test_records_that_are_gone_cost_a_call_each_and_condemn_no_include(
    client_for: MakeClient, status: int
) -> None:
    with SandboxServer(Store(5), switches=Switches(gone_status=status)) as sandbox:  # type: ignore[arg-type]
        client = client_for(sandbox.url)
        assert client.get_record(999_999, expected=False) is None
        assert client.get_record(999_998) is None
        client.get_record(sandbox.store.ids()[0])
        assert client.get_record(999_997) is None
        assert refused(client) == {}
        # One that should be there is asked for without includes too, where none was found yet.
        came = [answer for _, _, answer in sandbox.requests]
        assert came == [status, status, status, 200, status]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_one_record_that_cannot_be_had_with_its_associations_condemns_none_of_them(
    client_for: MakeClient, status: int
) -> None:
    with SandboxServer(Store(5)) as sandbox:
        odd = sandbox.store.ids()[0]

        def refuse(path: str) -> None:
            names = {"venue": status} if f"/{odd}?" in path else {}
            sandbox.switches = replace(sandbox.switches, refused_includes=names)

        sandbox.before_request = refuse
        client = client_for(sandbox.url)
        with pytest.raises(Unprocessable):
            client.get_record(odd)
        assert refused(client) == {}


def test_an_include_that_is_refused_from_one_day_to_the_next_makes_nothing_gone(
    client_for: MakeClient,
) -> None:
    with SandboxServer(Store(5)) as sandbox:
        first, second = sandbox.store.ids()[:2]
        client = client_for(sandbox.url)
        client.get_record(first)
        client._negotiation._granted.clear()  # as if it were the next day
        sandbox.switches = replace(sandbox.switches, refused_includes={"member": 404})
        assert client.get_record(second) is not None
        assert refused(client) == {"member": 404}


def test_a_mishap_condemns_nothing(client_for: MakeClient) -> None:
    with SandboxServer(Store(5), faults=Faults(queue=["error_400"])) as sandbox:
        client = client_for(sandbox.url)
        with pytest.raises(Unprocessable):
            client.list_records(())
        assert refused(client) == {}
        assert keys(client.list_records(())) == set(INCLUDES)
        sandbox.faults.queue = ["error_400", "error_400"]
        client._negotiation._granted.clear()
        client.list_records(())
        assert refused(client) == {}


def test_a_wrong_address_is_no_matter_of_includes(client_for: MakeClient) -> None:
    with SandboxServer(Store(5)) as sandbox:
        client = client_for(f"{sandbox.url}/elsewhere")
        with pytest.raises(NotFound):
            client.list_records(())
        assert refused(client) == {}
        asked = [path.partition("?")[2] for _, path, _ in sandbox.requests]
        # The second time with nothing that the first could have been refused for.
        assert len(asked) == 2
        assert asked[1] == "page=1&per_page=1"


def test_an_account_that_refuses_everything_teaches_nothing(client_for: MakeClient) -> None:
    with SandboxServer(Store(5)) as sandbox:
        client = client_for(sandbox.url)
        client.count(())
        sandbox.faults.queue = ["error_400"] * 50
        with pytest.raises(Unprocessable):
            client.list_records(())
        assert len(sandbox.requests) == 4
        assert client.terms.refusals == ()


@pytest.mark.parametrize("most", [25, 20, 7, 1])
def test_a_per_page_that_is_refused_is_lowered_until_it_is_granted(
    client_for: MakeClient, most: int
) -> None:
    switches = Switches(api="v2.1", max_per_page=most, per_page_over="422")
    with SandboxServer(Store(40), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        answer = client.list_records(())
        assert len(answer.ids) == client.page_size <= most
        assert client.page_size > most // 2
        assert len(sandbox.requests) <= 9
        sandbox.requests.clear()
        client.list_records((), page=2)
        assert len(sandbox.requests) == 1
        assert {r.kind for r in client.terms.refusals} == {"per_page"}


def test_per_page_and_includes_may_be_refused_at_the_same_time(client_for: MakeClient) -> None:
    switches = Switches(
        api="v2.1", per_page_over="422", refused_includes={"owner": 404, "venue": 400}
    )
    with SandboxServer(Store(40), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        answer = client.list_records(())
    assert len(answer.ids) == 25
    assert keys(answer) == set(INCLUDES) - {"owner", "venue"}


def test_what_was_refused_is_tried_again_after_a_week(client_for: MakeClient) -> None:
    switches = Switches(refused_includes={"venue": 422})
    with SandboxServer(Store(5), switches=switches) as sandbox:
        client = client_for(sandbox.url)
        client.list_records(())
        now = client.now
        client.now = lambda: now() + timedelta(days=6)
        sandbox.requests.clear()
        client.list_records(())
        assert len(sandbox.requests) == 1
        client.now = lambda: now() + timedelta(days=8)
        client.list_records(())
        assert refused(client) == {"venue": 422}
        assert client.terms.refusals[0].noted_at > now() + timedelta(days=7)
        client.now = lambda: now() + timedelta(days=16)
        sandbox.switches = Switches()
        assert keys(client.list_records(())) == set(INCLUDES)
        assert refused(client) == {}


def test_what_one_process_found_refused_no_other_has_to_find_out(
    client_for: MakeClient, emptied: Database
) -> None:
    with SandboxServer(Store(5), switches=Switches(refused_includes={"venue": 404})) as sandbox:
        early, late = client_for(sandbox.url), client_for(sandbox.url)
        early.terms, late.terms = (
            StoredTerms(emptied, "acme", OPPORTUNITIES),
            StoredTerms(emptied, "acme", OPPORTUNITIES),
        )
        early.list_records(())
        sandbox.requests.clear()
        late.list_records(())
        assert len(sandbox.requests) == 2
        next_one = client_for(sandbox.url)
        next_one.terms = StoredTerms(emptied, "acme", OPPORTUNITIES)
        sandbox.requests.clear()
        next_one.list_records(())
        assert len(sandbox.requests) == 1
        with emptied.session() as connection:
            try_all_again(connection)
        sandbox.switches = Switches()
        again = client_for(sandbox.url)
        again.terms = StoredTerms(emptied, "acme", OPPORTUNITIES)
        assert keys(again.list_records(())) == set(INCLUDES)
    assert StoredTerms(emptied, "acme", OPPORTUNITIES).refusals == ()


def test_a_refusal_is_told_in_a_sentence() -> None:
    noted_at = datetime(2026, 11, 24, tzinfo=UTC)
    refusal = Refusal("include", "destination", 422, noted_at)
    assert refusal.sentence == "include destination refused with 422 as of 2026-11-24"
    ignored = Refusal("filter", "updated_at_gteq", None, noted_at)
    assert ignored.sentence == "filter updated_at_gteq ignored as of 2026-11-24"
