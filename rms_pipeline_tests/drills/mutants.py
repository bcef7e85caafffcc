"""Some seventy small faults, each put into a copy of the code: the tests named for it must fail.

    python -m rms_pipeline_tests.drills.mutants [--area merge] [--only 3] [--of FOLDER]

prints a line for each mutant, and ends with exit code 1 when one survived. A mutant is the exact
text of what it replaces, wherever in the package that stands, once. When the text is gone, whoever
changed the code says here what the same fault is now.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rms_pipeline_tests import forks, workers
from rms_pipeline_tests.drills.pytest_forks import PytestForks
from rms_pipeline_tests.servers import SERVERS_VARIABLE, Prepared

PROJECT = Path(__file__).parent.parent.parent
PACKAGE = "rms_pipeline"


class TextIsGone(Exception):
    """What a mutant replaces does not stand in the package, or more than once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`fault` is what is wrong with the code once `new` stands where `old` did; `tests` notice."""

    area: str
    fault: str
    old: str
    new: str
    tests: tuple[str, ...]


TRAPS = "sync/test_traps.py"
SYNC = "test_sync.py"
MERGE = "mirror/test_merge.py"
BUDGET = "mirror/test_budget.py"
ACCESS = "web/test_access.py"
SCHEMA = "mirror/test_schema.py"
GUARD = "dagster_ui/test_guard.py"
SOCKETS = "web/test_sockets.py"
RECEIVER = "web/test_receiver.py"
SCHEMAS = "test_two_schemas.py"
OWN_OBJECTS = "sync/test_own_objects.py"
DOUBTS = "sync/test_doubts.py"
PROVE = "sync/test_prove.py"
LIES = "sync/test_lies.py"
ITEMS = "collections/test_opportunity_items.py"
ODD_LISTS = "sync/test_odd_lists.py"
AT_ONCE = "sync/test_all_at_once.py"
CATCHING_UP = "sync/test_catching_up.py"
BAD_RECORD = "sync/test_one_bad_record.py"

MUTANTS = (
    Mutant(
        "scan",
        "a lane goes on one id too far after each page",
        "        return ids[-1] + 1\n",
        "        return ids[-1] + 2\n",
        (f"{SYNC}::test_lost_dead_long_and_undated_ones_are_mirrored_and_far_ones_are_not",),
    ),
    Mutant(
        "scan",
        "between two ranges one id belongs to neither",
        "[*(c - 1 for c in inside), upper]",
        "[*(c - 2 for c in inside), upper]",
        (f"{SYNC}::test_whichever_way_the_unsure_facts_turn_out_the_copy_is_complete",),
    ),
    Mutant(
        "scan",
        "an API that ignores ranges is believed",
        "if not inside or not ascending(ids):",
        "if not ascending(ids):",
        (f"{SYNC}::test_whichever_way_the_unsure_facts_turn_out_the_copy_is_complete",),
    ),
    Mutant(
        "scan",
        "a lane ends one id before the next one begins",
        "later[0] - 1 for later in behind",
        "later[0] - 2 for later in behind",
        (f"{SYNC}::test_a_full_sync_makes_the_table_equal_to_the_api_field_by_field",),
    ),
    Mutant(
        "scan",
        "the watermark has no overlap",
        "OVERLAP = timedelta(minutes=5)",
        "OVERLAP = timedelta(0)",
        ("sync/test_landing.py",),
    ),
    Mutant(
        "merge",
        "a deletion is undone by what was asked for before it was known",
        "if old.deleted or old.asked_at >= new.answered_at:",
        "if old.asked_at >= new.answered_at:",
        ("mirror/test_order.py",),
    ),
    Mutant(
        "merge",
        "of overlapping fetches the older record wins",
        "return new.updated_at > old.updated_at",
        "return new.updated_at < old.updated_at",
        ("mirror/test_order.py", MERGE),
    ),
    Mutant(
        "merge",
        "the same record in other bytes counts as updated",
        'f" AND (o.id = ANY(%s) OR ({before}) IS DISTINCT FROM ({after}))"',
        'f" AND (o.id = ANY(%s) OR true)"',
        (f"{SYNC}::test_an_edit_is_updated_and_a_record_in_other_bytes_is_unchanged",),
    ),
    Mutant(
        "merge",
        "a record that PostgreSQL refuses costs those beside it",
        "        if len(batch.records) == 1:",
        "        if len(batch.records) >= 1:",
        (MERGE,),
    ),
    Mutant(
        "merge",
        "faults of a record that has not changed are found once only",
        "array_of(None if o.faults else",
        "array_of(None if False else",
        (MERGE,),
    ),
    Mutant(
        "deletions",
        "a row goes although something newer was learnt of it",
        "if known.fetch is None or supersedes(Fetch(*gone[id_], None, deleted=True), known.fetch)",
        "if True",
        ("mirror/test_deletions.py",),
    ),
    Mutant(
        "deletions",
        "rows outside the window are never asked for again",
        "limit = None if calls is None else client.counts.calls + calls",
        "limit = 0",
        (
            f"{TRAPS}::test_rows_outside_the_window_are_asked_for_again_oldest_first_and_go_when_gone",
        ),
    ),
    Mutant(
        "deletions",
        "any share of the rows may go unasked",
        "GUARDED_PERIOD = 0.05, 20,",
        "GUARDED_PERIOD = 1.0, 20,",
        (f"{TRAPS}::test_when_too_many_rows_would_be_deleted_none_is_unless_confirmed",),
    ),
    Mutant(
        "deletions",
        "what the API still has counts as gone",
        "        if answer is None:\n            verdict.gone",
        "        if True:\n            verdict.gone",
        ("sync/test_by_id.py", TRAPS),
    ),
    Mutant(
        "deletions",
        "an older page brings a deleted row back",
        "        _note_gone(cursor, collection, [i for i in going if i not in kept], gone)",
        "        pass",
        (f"{TRAPS}::test_nothing_fetched_before_a_deletion_brings_the_row_back",),
    ),
    Mutant(
        "deletions",
        "a row that is restored stays among the deleted ones",
        'cursor.execute(f"DELETE FROM {collection.deleted} WHERE id = ANY(%s)", (found.restored,))',
        "pass",
        (f"{TRAPS}::test_a_record_that_reappears_comes_back",),
    ),
    Mutant(
        "proof",
        "a mirror that lacks rows is called complete",
        "alike=counted == mirrored + unstorable,",
        "alike=counted >= mirrored + unstorable,",
        ("sync/test_cost.py", TRAPS),
    ),
    Mutant(
        "proof",
        "what moved while it was counted is taken for counted",
        "if self._was_still(proof.content, merged):",
        "if True:",
        ("sync/test_prove.py",),
    ),
    Mutant(
        "proof",
        "rows that the API does not list where they should be stay",
        "            suspects |= mirrored - ids\n",
        "",
        ("sync/test_settling.py", TRAPS, "sync/test_any_sequence.py"),
    ),
    Mutant(
        "proof",
        "what a list shows twice is counted twice",
        "counted = total - repeated",
        "counted = total",
        ("sync/test_prove.py",),
    ),
    Mutant(
        "proof",
        "what differs is not read again",
        "\nROUNDS, MOST_CALLS = 4, 200\n",
        "\nROUNDS, MOST_CALLS = 1, 200\n",
        ("sync/test_cost.py", TRAPS),
    ),
    Mutant(
        "queue",
        "an API that is down costs events their attempts",
        '" attempts = attempts - %(blameless)s::int,"',
        '" attempts = attempts - (%(blameless)s AND false)::int,"',
        ("web/test_fast_lane.py", "sync/test_queued.py"),
    ),
    Mutant(
        "queue",
        "a claim that a wrong clock made for a far day is waited for",
        "\" OR claimed_until > clock_timestamp() + interval '10 min')\"",
        '")"',
        ("sync/test_queued.py",),
    ),
    Mutant(
        "queue",
        "a replayed dead letter dies at its first refusal",
        "SET dead_at = NULL, attempts = 0, waits = 0,",
        "SET dead_at = NULL, waits = 0,",
        ("mirror/test_queue.py",),
    ),
    Mutant(
        "queue",
        "a replayed dead letter stays dead",
        "SET dead_at = NULL, attempts = 0,",
        "SET attempts = 0,",
        ("web/test_fast_lane.py",),
    ),
    Mutant(
        "queue",
        "rows do not tell that a webhook refreshed them",
        'f"UPDATE {claimed.collection.name} SET last_webhook_at = clock_timestamp()"',
        'f"UPDATE {claimed.collection.name} SET synced_at = synced_at"',
        ("web/test_fast_lane.py", "defs/test_webhook_refresh.py"),
    ),
    Mutant(
        "queue",
        "an event that is at fault never becomes a dead letter",
        "ATTEMPTS = 8",
        "ATTEMPTS = 8_000",
        ("mirror/test_queue.py",),
    ),
    Mutant(
        "merge",
        "a list that lags takes back what was asked for singly",
        "if answer.doubting and not alike and contradicts(fetch, k.fetch):",
        "if not answer.doubting and not alike and contradicts(fetch, k.fetch):",
        (f"{DOUBTS}::test_a_list_that_lags_takes_nothing_back",),
    ),
    Mutant(
        "merge",
        "a list that lags brings back what was deleted",
        "    if old.deleted:\n        return True\n    times",
        "    times",
        (f"{DOUBTS}::test_a_list_that_lags_brings_back_nothing_that_was_deleted",),
    ),
    Mutant(
        "merge",
        "what was found of a few is not found of the others",
        "    if behind:\n        lagging |= {*behind, *others}\n",
        "    lagging |= behind\n    if not told:\n        pass\n",
        (f"{DOUBTS}::test_a_list_that_lags_takes_nothing_back",),
    ),
    Mutant(
        "merge",
        "where no single record is found the list has no word either",
        "    with contextlib.suppress(FindsNone):\n        for verdict in ask_by_id(",
        "    with contextlib.suppress():\n        for verdict in ask_by_id(",
        (f"{DOUBTS}::test_where_the_single_record_cannot_be_had_the_list_has_its_word",),
    ),
    Mutant(
        "deletions",
        "a refresh by list brings back what is gone",
        "if i in self.wanted.gone\n",
        "if i in ()\n",
        (f"{DOUBTS}::test_a_refresh_of_many_brings_back_nothing_that_a_list_still_shows",),
    ),
    Mutant(
        "deletions",
        "another record in place of the one asked for is believed",
        "if answer is not None and answer.ids != (id_,):",
        "if answer is not None and not answer:",
        (f"{LIES}::test_a_single_record_that_is_another_settles_no_event_and_costs_no_other",),
    ),
    Mutant(
        "deletions",
        "an API that finds no record by its id makes all of them gone",
        "            verdict.shown_none = not asking.demand_singles()\n",
        "",
        (f"{LIES}::test_an_api_that_finds_no_record_by_its_id_deletes_none",),
    ),
    Mutant(
        "proof",
        "what a list showed as it was before is counted with the others",
        " | set(self._left.ids) | self._lagging\n",
        " | set(self._left.ids)\n",
        (f"{DOUBTS}::test_two_that_make_up_for_one_another_in_a_list_that_lags_are_both_seen",),
    ),
    Mutant(
        "proof",
        "what others changed in the mirror while it was counted is not noticed",
        "return content_number(self._connection, self._collection) == content",
        "return True",
        (PROVE, AT_ONCE),
    ),
    Mutant(
        "proof",
        "what cannot be had since it was counted counts as mirrored",
        "if self._cannot_be_had() != self._counted_around:",
        "if not self._counted_around:",
        (LIES,),
    ),
    Mutant(
        "proof",
        "a count that may be capped is believed",
        "if not counted or counted < self._greatest:",
        "if not counted or counted <= self._greatest:",
        (f"{PROVE}::test_counts_that_are_capped_prove_nothing", PROVE, ODD_LISTS),
    ),
    Mutant(
        "proof",
        "a list that holds what is outside the window is counted as the window",
        "if not odd and not around.contains(starts, ends):",
        "if odd and not around.contains(starts, ends):",
        ("sync/test_scope.py", "sync/test_ignored_filters.py"),
    ),
    Mutant(
        "proof",
        "what was fetched singly a moment ago is taken for surplus",
        "        self._left.ids |= dict.fromkeys(young, True)\n",
        "        young = set()\n",
        (f"{PROVE}::test_a_row_without_a_new_time_that_was_fetched_a_moment_ago_is_no_surplus",),
    ),
    Mutant(
        "proof",
        "what is counted and never sent makes up for a row that is gone",
        "        nameless += never_sent\n",
        "",
        (
            f"{ODD_LISTS}::"
            "test_one_that_is_counted_and_never_sent_is_said_and_makes_up_for_no_row_that_is_gone",
        ),
    ),
    Mutant(
        "proof",
        "a count of an API whose list goes on beyond it is believed",
        "if not self._scan.counts_believed:",
        "if self._scan.counts_believed is None:",
        (
            f"{ODD_LISTS}::"
            "test_counts_that_leave_out_what_the_list_holds_make_up_for_no_row_that_lacks",
        ),
    ),
    Mutant(
        "proof",
        "of two lists that take turns always the same is asked for",
        "turn = min(all_of_them, key=lambda segment: at[segment.name])",
        "turn = all_of_them[0]",
        (
            f"{PROVE}::test_where_those_without_a_date_take_turns_a_quiet_proof_still_costs_four_calls",
        ),
    ),
    Mutant(
        "scan",
        "a full page is the end on the count's word",
        "is_over = left_over <= 0 and (not ids or not is_doubtful)",
        "is_over = left_over <= 0",
        (f"{PROVE}::test_counts_that_are_capped_prove_nothing", LIES, ODD_LISTS),
    ),
    Mutant(
        "scan",
        "one page that sends nothing of what it counts ends the reading",
        "if answer.page.records or not answer.page.meta.total_row_count or is_last:",
        "if answer is not None or is_last:",
        (
            f"{ODD_LISTS}::"
            "test_a_page_that_comes_empty_once_is_asked_for_again_and_all_is_read_by_id",
        ),
    ),
    Mutant(
        "scan",
        "the watermark is by the API's clock, however far ahead that is",
        "return min(api_date, asked_at) - overlap",
        "return max(api_date, asked_at) - overlap",
        (f"{TRAPS}::test_an_incremental_sync_finds_edits_however_wrong_the_clock_of_the_api_is",),
    ),
    Mutant(
        "scan",
        "a record that fails its page fails all of them",
        "if not is_of_the_question(error) or not self.accepts(params):",
        "if is_of_the_question(error) or not self.accepts(params):",
        (BAD_RECORD, "sync/test_page_size.py"),
    ),
    Mutant(
        "queue",
        "a record older than its event settles it",
        "or _is_older(at, self.wanted.told.get(i), SLACK)",
        "or _is_older(at, None, SLACK)",
        (CATCHING_UP,),
    ),
    Mutant(
        "queue",
        "what is not there yet is settled at its first attempt",
        "patient = {i for i in alive - destroyed if waits[i] < len(PATIENCE)}",
        "patient = {i for i in alive - destroyed if waits[i] < 0}",
        (CATCHING_UP,),
    ),
    Mutant(
        "budget",
        "walks leave no room for a live refresh",
        "Lane.WALK: 0.9, Lane.PARTS",
        "Lane.WALK: 1.0, Lane.PARTS",
        (f"{BUDGET}::test_walks_are_paced_at_nine_tenths_of_the_limit_and_use_it",),
    ),
    Mutant(
        "budget",
        "the allowance is not cut by a refusal",
        "greatest(0.7 * level, 0.1)",
        "greatest(level, 0.1)",
        (f"{BUDGET}::test_a_refusal_cuts_the_allowance_once_and_time_gives_it_back",),
    ),
    Mutant(
        "budget",
        "a pause may be of any length",
        "LONGEST_PAUSE = 900.0",
        "LONGEST_PAUSE = 90_000_000.0",
        (
            "mirror/test_budget_by_clock.py::test_no_moment_kept_in_the_row_makes_anybody_wait_for_ever",
            f"{BUDGET}::test_a_pause_is_no_longer_than_a_quarter_of_an_hour",
        ),
    ),
    Mutant(
        "budget",
        "a slot may lie as far off as a wrong clock put it",
        "least(slot, now + step + interval '7 s')",
        "slot",
        ("mirror/test_budget_by_clock.py", BUDGET),
    ),
    Mutant(
        "budget",
        "a clock that was set back makes a pause longer",
        "least(paused_until - back, now",
        "least(paused_until, now",
        (
            f"{BUDGET}::test_a_clock_that_was_set_back_shortens_no_pause_and_makes_nobody_wait_longer",
        ),
    ),
    Mutant(
        "budget",
        "calls of half a minute ago are forgotten",
        "BUCKETS = 61 * _PER_SECOND + 1",
        "BUCKETS = 31 * _PER_SECOND + 1",
        (BUDGET, "mirror/test_budget_by_clock.py"),
    ),
    Mutant(
        "access",
        "tokens may be guessed without end",
        "MOST_FAILURES = 10",
        "MOST_FAILURES = 10_000",
        (ACCESS,),
    ),
    Mutant(
        "access",
        "another site may use a person's session",
        "            refuse_foreign_page(request)\n            return True",
        "            return True",
        (ACCESS,),
    ),
    Mutant(
        "access",
        "another site's script may use the token",
        "        refuse_foreign_origin(request)\n        return True",
        "        return True",
        (ACCESS,),
    ),
    Mutant(
        "access",
        "logging in may lead to another host",
        r'if re.fullmatch(r"/(?!/)[\x21-\x5b\x5d-\x7e]*", wanted):',
        'if wanted.startswith("/"):',
        (ACCESS,),
    ),
    Mutant(
        "access",
        "behind TLS the session may travel in clear",
        "or self._is_behind_tls(request),\n            httponly=True,\n            samesite",
        "and False,\n            httponly=True,\n            samesite",
        (ACCESS,),
    ),
    Mutant(
        "migrations",
        "another program's table of our name is not set aside",
        'set_aside(op.get_bind(), ("walks", "mirror_state"))',
        "pass",
        (SCHEMA,),
    ),
    Mutant(
        "migrations",
        "rows of an older mapping stay as they are",
        "    for collection in stale:\n        adopt_mapping(database, collection)",
        "    pass",
        ("mirror/test_redecode.py",),
    ),
    Mutant(
        "migrations",
        "an index that people's queries rely on is not made",
        'op.execute("CREATE INDEX ON opportunities (organisation_id)")',
        "pass",
        (SCHEMA,),
    ),
    Mutant(
        "migrations",
        "a table of another owner is told as a missing right",
        'if "owner" in said:',
        "if False:",
        (SCHEMA,),
    ),
    Mutant(
        "migrations",
        "views that stand in the way of a migration are not named",
        'f"{what_depends(error)} Drop those, run "\n',
        '"Drop those, run "\n',
        ("mirror/test_views.py",),
    ),
    Mutant(
        "dagster_ui",
        "a mutation goes by GET",
        "        if not all(_only_asks(query) for query in queries):\n",
        "        if False:\n",
        (f"{GUARD}::test_a_mutation_by_get_is_refused_to_everybody",),
    ),
    Mutant(
        "dagster_ui",
        "of several queries in an address one is looked at",
        "if not all(_only_asks(query) for query in queries):",
        "if not any(_only_asks(query) for query in queries):",
        (f"{GUARD}::test_a_mutation_by_get_is_refused_to_everybody",),
    ),
    Mutant(
        "dagster_ui",
        "any host name is answered",
        "if len(given) != 1 or _host_name(given[0]) not in self._hosts:",
        "if len(given) != 1:",
        (f"{GUARD}::test_another_name_that_leads_here_is_refused_whoever_asks",),
    ),
    Mutant(
        "dagster_ui",
        "the origin of who opens a websocket is not needed",
        "self._demand_own_origin(connection, needed=self._has_session(connection))",
        "self._demand_own_origin(connection, needed=False)",
        (f"{GUARD}::test_a_session_alone_sends_nothing_that_no_page_of_ours_stands_behind",),
    ),
    Mutant(
        "dagster_ui",
        "a websocket asks for no session",
        "if not self._knows(connection) or self._websockets >= _MOST_WEBSOCKETS:",
        "if self._websockets >= _MOST_WEBSOCKETS:",
        (f"{GUARD}::test_nothing_reaches_dagster_without_a_session_or_the_token",),
    ),
    Mutant(
        "dagster_ui",
        "a page of another origin is let through",
        "if not given or any(_authority(origin) != own for origin in given):",
        "if not given:",
        (f"{GUARD}::test_a_page_of_another_origin_reaches_nothing_even_with_the_session",),
    ),
    Mutant(
        "dagster_ui",
        "a path with a line feed is another path",
        'if re.search(r"[\\x00-\\x1f\\x7f]", connection.scope["path"]):',
        "if False:",
        (f"{GUARD}::test_an_address_with_a_control_character_is_refused",),
    ),
    Mutant(
        "dagster_ui",
        "a form may send GraphQL",
        ".strip().lower() not in _JSON:",
        '.strip().lower() in ("text/html",):',
        (f"{GUARD}::test_graphql_is_taken_as_json_only_which_no_form_can_send",),
    ),
    Mutant(
        "dagster_ui",
        "a ticket opens twice",
        "            if ticket in self._used:\n",
        "            if False:\n",
        (f"{GUARD}::test_a_browser_without_a_session_is_sent_to_sign_in_and_comes_back",),
    ),
    Mutant(
        "dagster_ui",
        "a frame of another site shows it",
        '                and request.headers.get("Sec-Fetch-Dest", "document") == "document"\n',
        "",
        (f"{GUARD}::test_what_another_site_has_a_browser_ask_is_refused_unless_it_is_a_link",),
    ),
    Mutant(
        "access",
        "the right token is throttled like wrong ones",
        "        if matches(given, self.sessions.token):\n            return True\n"
        "        if seconds",
        "        if seconds",
        (f"{ACCESS}::test_the_right_token_always_works_and_wrong_ones_are_slowed",),
    ),
    Mutant(
        "access",
        "everybody is believed about whom they speak for",
        "proxy_headers=bool(trusted_proxies),\n        forwarded_allow_ips=list(trusted_proxies),",
        'proxy_headers=True,\n        forwarded_allow_ips="*",',
        (f"{ACCESS}::test_only_a_configured_proxy_can_say_whom_it_forwards",),
    ),
    Mutant(
        "access",
        "two instances on one host share a cookie",
        'mark = self._derived("rms_pipeline instance 1")[:8]',
        'mark = "12345678"',
        (f"{ACCESS}::test_cookies_of_two_instances_on_one_host_do_not_collide",),
    ),
    Mutant(
        "sockets",
        "an unfinished header is waited for",
        'self._wait_for("header", self._limits.header_seconds)',
        'self._wait_for("header")',
        (
            f"{SOCKETS}::test_a_header_that_does_not_end_is_waited_for_no_longer_than_one_that_is_silent",
        ),
    ),
    Mutant(
        "sockets",
        "a header may be of any size",
        '"h11_max_incomplete_event_size": limits.header_bytes,',
        '"h11_max_incomplete_event_size": 1 << 30,',
        (f"{SOCKETS}::test_an_endless_header_is_cut_off",),
    ),
    Mutant(
        "sockets",
        "connections are not bounded",
        "elif len(self.open) >= self.limits.connections:",
        "elif False:",
        (f"{SOCKETS}::test_connections_that_are_all_at_work_are_kept_and_one_more_is_told_so",),
    ),
    Mutant(
        "sockets",
        "one address may take all connections",
        "if self._of_address[address] >= most and not self._is_proxy(address):",
        "if False:",
        (f"{SOCKETS}::test_one_address_does_not_take_all_and_a_proxy_may",),
    ),
    Mutant(
        "sockets",
        "a body is waited for",
        'self._wait_for("body", self._limits.body_seconds)',
        'self._wait_for("body")',
        (f"{SOCKETS}::test_a_body_that_trickles_is_not_waited_for",),
    ),
    Mutant(
        "sockets",
        "an answer that nobody reads is kept",
        "if (self.flow.write_paused or self.transport.is_closing()) and left > before - must:",
        "if False:",
        (f"{SOCKETS}::test_a_client_that_does_not_read_is_disconnected_and_a_slow_reader_is_not",),
    ),
    Mutant(
        "sockets",
        "a body may have two lengths",
        'if not {b"content-length", b"transfer-encoding"} <= names:',
        "if True:",
        (f"{SOCKETS}::test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read",),
    ),
    Mutant(
        "intake",
        "webhooks may bring any number of events",
        "if self.minute >= MOST_A_MINUTE:",
        "if False:",
        (f"{RECEIVER}::test_more_than_people_can_do_in_a_minute_is_refused_for_now",),
    ),
    Mutant(
        "intake",
        "unknown opportunities fill the queue",
        "is_crowded = found.strangers >= MOST_STRANGERS and record is not None",
        "is_crowded = False",
        (
            f"{RECEIVER}::test_unknown_opportunities_fill_their_part_of_the_queue_and_known_ones_come_in",
        ),
    ),
    Mutant(
        "intake",
        "bodies fill the disk",
        "return self._brought.bytes < MOST_BYTES_A_MINUTE",
        "return True",
        (f"{RECEIVER}::test_beyond_so_many_bytes_a_minute_only_short_fields_are_kept",),
    ),
    Mutant(
        "intake",
        "a body may be of any size",
        "            too_big = len(body) > MOST_BYTES\n",
        "            too_big = False\n",
        (f"{RECEIVER}::test_a_body_over_8_mib_is_refused_with_413",),
    ),
    Mutant(
        "intake",
        "a wrong webhook token is taken",
        "if not any(matches(given, token) for token in tokens):",
        "if not given:",
        (f"{RECEIVER}::test_a_wrong_token_is_refused_before_the_body_is_read",),
    ),
    Mutant(
        "databases",
        "two mirrors in a database have the same locks",
        '    whole = name if schema == PUBLIC else f"{schema} {name}"\n',
        "    whole = name\n",
        (f"{SCHEMAS}::test_a_lock_of_one_mirror_holds_up_nobody_in_the_other",),
    ),
    Mutant(
        "databases",
        "two mirrors in a database wake each other",
        '    return _CHANNEL if schema == PUBLIC else f"{_CHANNEL}_{schema}"\n',
        "    return _CHANNEL\n",
        (f"{SCHEMAS}::test_an_event_of_one_mirror_wakes_its_own_fast_lane_only",),
    ),
    Mutant(
        "databases",
        "two mirrors in a database share one history of Dagster",
        '    return "dagster" if schema == PUBLIC else f"dagster_{schema}"\n',
        '    return "dagster"\n',
        (f"{SCHEMAS}::test_two_accounts_side_by_side_are_each_equal_to_their_own_account",),
    ),
    Mutant(
        "databases",
        "a schema that is absent is not created",
        "        if database.schema != PUBLIC:\n"
        "            _ensure_schema(database, database.schema)\n",
        "",
        (f"{SCHEMAS}::test_a_schema_that_may_not_be_created_is_asked_for_in_one_sentence",),
    ),
    Mutant(
        "databases",
        "one refused row fails its batch",
        "        if not is_about_a_row(error):\n            raise\n"
        "        if len(batch.records) == 1:",
        "        if True:\n            raise\n        if len(batch.records) == 1:",
        (f"{OWN_OBJECTS}::test_a_row_that_the_database_refuses_costs_only_itself_and_is_named",),
    ),
    Mutant(
        "deletions",
        "an API that lists nothing and finds nothing is believed",
        "        elif others:\n            told",
        "        elif others and False:\n            told",
        (f"{LIES}::test_an_api_that_shows_nothing_all_of_a_sudden_deletes_none",),
    ),
    Mutant(
        "deletions",
        "the last rows go without a person",
        "shown_none and len(going) > 1",
        "shown_none and False",
        (f"{LIES}::test_the_last_rows_go_when_a_person_confirms_that_nothing_is_left",),
    ),
    Mutant(
        "deletions",
        "a list of items that became empty is believed at once",
        "AND l.answered_at < l.asked_at + %(empty_for)s AND",
        "AND l.answered_at < l.asked_at AND %(empty_for)s IS NULL AND",
        (f"{ITEMS}::test_a_list_that_is_empty_by_mistake_takes_no_row_away",),
    ),
    Mutant(
        "scan",
        "a list of items whose count stops at one page is in order",
        "            if not ids.issuperset(page.ids):\n                return False\n",
        "",
        (f"{ITEMS}::test_no_part_is_hidden_by_an_order_by_chance_and_a_count_of_one_page",),
    ),
    Mutant(
        "queue",
        "thousands of unknown records hide the known ones",
        "%(strangers)s OR EXISTS (",
        "%(strangers)s OR true OR EXISTS (",
        ("mirror/test_queue.py",),
    ),
)


def texts_in(project: Path) -> dict[Path, str]:
    """The text of each file that a mutant may change."""
    paths = sorted((project / PACKAGE).rglob("*.*"))
    return {path: path.read_text() for path in paths if path.suffix in (".py", ".sql")}


def place_of(mutant: Mutant, texts: Mapping[Path, str]) -> Path:
    """The file that holds what the mutant replaces. Raises TextIsGone unless that is there once."""
    found = [(path, n) for path, text in texts.items() if (n := text.count(mutant.old))]
    if [count for _, count in found] != [1]:
        raise TextIsGone(
            f"{mutant.area}: {mutant.fault}: {mutant.old!r} stands "
            f"{'nowhere' if not found else 'in ' + ', '.join(f'{p} ({n})' for p, n in found)}"
        )
    return found[0][0]


@contextmanager
def copy_of(project: Path) -> Iterator[Path]:
    """The code, the tests and what they read, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="rms-mutants-") as name:
        folder = Path(name) / "project"
        # With what was compiled: it is that of the same text.
        left_out = shutil.ignore_patterns(".*", "storage", "logs", "history")
        shutil.copytree(project, folder, ignore=left_out)
        for hidden in (".env.example", ".ci"):
            source = project / hidden
            if source.is_dir():
                shutil.copytree(source, folder / hidden)
            elif source.exists():
                shutil.copy(source, folder / hidden)
        yield folder


@contextmanager
def runner() -> Iterator[PytestForks]:
    """What runs the tests of all mutants. It has imported none of our modules."""
    names = (*workers.CORE, *forks.IMPORTED)
    with PytestForks([name for name in names if not name.startswith(PACKAGE)]) as made:
        yield made


def survives(
    mutant: Mutant, folder: Path, pytests: PytestForks, prepared: Prepared | None = None
) -> bool:
    """Whether the tests named for the mutant pass with it. `folder` is a copy, and is put back.

    The tests begin with the files of servers that are `prepared`, but for mutants that change how
    tables are made.
    """
    path = place_of(mutant, texts_in(folder))
    whole = path.read_text()
    _write(path, whole.replace(mutant.old, mutant.new))
    try:
        return passes(
            mutant.tests, folder, pytests, None if mutant.area == "migrations" else prepared
        )
    finally:
        _write(path, whole)


def _write(path: Path, text: str) -> None:
    """Writes a module. What was compiled of it before may look as new, and as long, as this."""
    path.write_text(text)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def passes(
    tests: Sequence[str], folder: Path, pytests: PytestForks, prepared: Prepared | None = None
) -> bool:
    """Whether these tests pass in `folder`. Raises RuntimeError when they cannot be run at all."""
    named = [f"{PACKAGE}_tests/{t}" for t in tests]
    there = [t for t in named if (folder / t.partition("::")[0]).exists()]
    # A test that is run again until it passes would let a mutant live.
    environment = os.environ | {"PYTEST_ADDOPTS": ""}
    if prepared is not None:
        environment[SERVERS_VARIABLE] = str(prepared.folder)
    # A mutant may make a test wait for ever.
    done = pytests.run(["-n0", "-x", "-q", "--timeout=120", *there], folder, environment)
    if done.code not in (0, 1) or not there:
        raise RuntimeError(f"{named} cannot be run:\n{done.said[-5_000:]}")
    return done.code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--area", help="only the mutants of one area")
    parser.add_argument("--only", type=int, help="only the mutant with this number")
    parser.add_argument("--of", type=Path, default=PROJECT, help="the checkout to put them into")
    asked = parser.parse_args()
    survivors = 0
    with copy_of(asked.of) as folder, runner() as pytests:
        for number, mutant in enumerate(MUTANTS, 1):
            if asked.area not in (None, mutant.area) or asked.only not in (None, number):
                continue
            began = time.monotonic()
            try:
                survived = survives(mutant, folder, pytests)
                word = "SURVIVED" if survived else "killed"
            except TextIsGone as error:
                survived, word = True, f"TEXT IS GONE ({error})"
            survivors += survived
            took = time.monotonic() - began
            sys.stdout.write(
                f"{number:>2} {mutant.area:<10} {mutant.fault}: {word} ({took:.0f} s)\n"
            )
            sys.stdout.flush()
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
