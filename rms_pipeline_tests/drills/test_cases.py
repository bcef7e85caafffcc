"""The cases of properties that other modules show in the ways that differ most: see `cases.py`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rms_pipeline_tests.collections.test_opportunity_items import (
    account,
    beginning,
    test_a_kill_at_any_statement_loses_nothing_and_deletes_nothing_wrongly,
    test_a_list_of_several_pages_is_read_whole_whatever_the_api_obeys,
    test_a_list_that_cannot_be_read_costs_only_itself_and_is_named,
    test_an_item_that_changed_while_the_account_s_list_could_not_be_read_is_found_by_a_later_sync,
    test_an_item_whose_opportunity_is_odd_costs_only_itself,
    test_no_item_goes_because_a_list_sends_less_than_it_counts,
    test_no_part_is_hidden_by_an_order_by_chance_and_a_count_of_one_page,
)
from rms_pipeline_tests.conftest import looks_at_rows
from rms_pipeline_tests.current_rms.test_lenient import (
    test_what_is_good_json_is_split_as_the_strict_parser_splits_it_and_is_not_mended,
)
from rms_pipeline_tests.defs.test_build_defs import (
    accounts,
    instance,
    test_another_account_in_the_same_schema_is_refused_at_first_use_by_both_names,
    test_errors_name_the_fields_that_somebody_set,
    test_two_accounts_in_one_code_location_are_each_mirrored_into_its_own_schema,
)
from rms_pipeline_tests.kept_connections import kept_connections
from rms_pipeline_tests.mirror.test_backup import (
    full_url,
    served,
    test_a_dump_is_restored_into_another_server_and_the_next_sync_is_incremental,
)
from rms_pipeline_tests.mirror.test_merge import (
    test_merges_that_share_new_and_known_ids_never_wait_for_one_another_in_a_circle,
)
from rms_pipeline_tests.mirror.test_plan import (
    test_what_the_plan_for_an_older_release_says_is_what_happens,
)
from rms_pipeline_tests.mirror.test_releases import (
    old_url,
    test_an_older_version_with_its_rows_is_brought_up_to_date_and_goes_on,
)
from rms_pipeline_tests.mirror.test_upgrades import (
    test_an_upgrade_keeps_every_row_of_every_table_and_the_next_sync_completes,
)
from rms_pipeline_tests.sync.test_all_at_once import (
    test_whatever_a_webhook_does_while_it_is_counted_the_certificate_is_true,
)
from rms_pipeline_tests.sync.test_cost import (
    test_a_difference_of_one_in_thousands_is_found_with_few_calls,
    test_five_changes_among_thousands_cost_one_call_and_the_work_of_five,
)
from rms_pipeline_tests.sync.test_doubts import (
    test_a_list_that_lags_takes_nothing_back,
    test_what_was_set_back_is_stored_for_a_few_calls,
)
from rms_pipeline_tests.sync.test_lies import (
    lie,
    test_a_count_that_is_wrong_loses_no_row_and_proves_nothing,
    test_a_suspect_that_cannot_be_asked_for_stops_neither_the_sync_nor_other_deletions,
    test_an_api_that_finds_no_record_by_its_id_deletes_none,
    test_an_api_that_shows_nothing_all_of_a_sudden_deletes_none,
)
from rms_pipeline_tests.sync.test_odd_lists import (
    test_a_cap_at_a_multiple_of_the_page_size_hides_nothing,
    test_what_begins_to_be_listed_twice_makes_up_for_no_row_that_is_gone,
    test_what_takes_more_calls_than_one_proof_may_make_is_found_by_the_next_ones,
    test_whatever_lists_hold_what_is_said_to_be_complete_is,
    test_where_all_ids_cost_too_many_calls_one_that_begins_to_be_listed_twice_is_found_by_halving,
)
from rms_pipeline_tests.sync.test_one_bad_record import (
    test_a_full_page_is_not_the_end_on_the_word_of_a_count_that_stops,
    test_everything_else_of_a_first_sync_is_stored,
    test_first_pages_of_which_nothing_comes_do_not_end_a_list_without_order,
    test_ids_may_be_far_apart,
    test_ids_may_be_the_greatest_that_there_are,
    test_lists_that_are_none_end_the_sync_although_each_record_comes_by_its_id,
    test_one_that_comes_only_when_it_is_asked_for_alone_is_proved_that_way,
    test_pages_shrink_until_they_come_and_later_syncs_remember,
    test_pages_that_lie_too_deep_cost_nothing_but_lanes,
    test_whichever_way_the_unsure_facts_turn_out,
)
from rms_pipeline_tests.sync.test_own_objects import (
    test_a_deletion_that_the_database_refuses_is_held_back_alone_and_said,
    test_a_row_that_the_database_refuses_costs_only_itself_and_is_named,
    test_what_is_only_added_costs_nothing,
)
from rms_pipeline_tests.sync.test_prove import (
    test_a_difference_is_found_for_twice_the_logarithm_and_six_calls,
    test_counts_that_are_capped_prove_nothing,
    test_more_ranges_see_what_two_do_not,
    test_where_those_without_a_date_take_turns_a_quiet_proof_still_costs_four_calls,
)
from rms_pipeline_tests.sync.test_scope import (
    stored,
    test_ignored_dates_are_reported_and_leave_the_mirror_right,
    test_where_the_dates_are_refused_the_whole_account_is_read_and_the_sync_says_so,
)
from rms_pipeline_tests.sync.test_small_accounts import (
    test_a_count_that_stops_where_one_range_holds_all_is_not_believed,
    test_a_range_that_holds_all_that_is_left_is_told_from_a_count_that_stops,
    test_one_that_comes_while_a_full_page_is_looked_behind_is_no_sign_of_wrong_counts,
    test_the_first_proof_of_a_small_account_shows_it_and_so_does_each_after_it,
)
from rms_pipeline_tests.sync.test_traps import (
    test_an_api_that_refuses_a_parameter_with_422_is_mirrored_all_the_same,
    test_rows_that_shift_between_pages_are_neither_missed_nor_counted_twice,
)
from rms_pipeline_tests.sync.test_whole_days import (
    test_where_whole_days_are_compared_nothing_is_lost_and_the_proof_says_so,
)
from rms_pipeline_tests.test_api_facts import (
    test_every_way_of_syncing_is_right_with_each_fact_otherwise,
)
from rms_pipeline_tests.test_command import (
    environment,
    sandbox,
    test_a_sync_in_the_foreground_answers_in_json_and_is_in_the_history,
)
from rms_pipeline_tests.test_sync import (
    test_a_full_sync_makes_the_table_equal_to_the_api_field_by_field,
    test_a_walk_costs_one_call_for_each_page_and_no_more_than_three_besides,
    test_whichever_way_the_unsure_facts_turn_out_the_copy_is_complete,
)
from rms_pipeline_tests.test_two_schemas import (
    one,
    test_the_command_syncs_two_accounts_at_once_and_nothing_gets_into_public,
)

__all__ = [
    "account",
    "accounts",
    "beginning",
    "environment",
    "full_url",
    "instance",
    "lie",
    "old_url",
    "one",
    "sandbox",
    "served",
    "stored",
    "test_a_cap_at_a_multiple_of_the_page_size_hides_nothing",
    "test_a_count_that_is_wrong_loses_no_row_and_proves_nothing",
    "test_a_count_that_stops_where_one_range_holds_all_is_not_believed",
    "test_a_deletion_that_the_database_refuses_is_held_back_alone_and_said",
    "test_a_difference_is_found_for_twice_the_logarithm_and_six_calls",
    "test_a_difference_of_one_in_thousands_is_found_with_few_calls",
    "test_a_dump_is_restored_into_another_server_and_the_next_sync_is_incremental",
    "test_a_full_page_is_not_the_end_on_the_word_of_a_count_that_stops",
    "test_a_full_sync_makes_the_table_equal_to_the_api_field_by_field",
    "test_a_kill_at_any_statement_loses_nothing_and_deletes_nothing_wrongly",
    "test_a_list_of_several_pages_is_read_whole_whatever_the_api_obeys",
    "test_a_list_that_cannot_be_read_costs_only_itself_and_is_named",
    "test_a_list_that_lags_takes_nothing_back",
    "test_a_range_that_holds_all_that_is_left_is_told_from_a_count_that_stops",
    "test_a_row_that_the_database_refuses_costs_only_itself_and_is_named",
    "test_a_suspect_that_cannot_be_asked_for_stops_neither_the_sync_nor_other_deletions",
    "test_a_sync_in_the_foreground_answers_in_json_and_is_in_the_history",
    "test_a_walk_costs_one_call_for_each_page_and_no_more_than_three_besides",
    "test_an_api_that_finds_no_record_by_its_id_deletes_none",
    "test_an_api_that_refuses_a_parameter_with_422_is_mirrored_all_the_same",
    "test_an_api_that_shows_nothing_all_of_a_sudden_deletes_none",
    "test_an_item_that_changed_while_the_account_s_list_could_not_be_read_is_found_by_a_later_sync",
    "test_an_item_whose_opportunity_is_odd_costs_only_itself",
    "test_an_older_version_with_its_rows_is_brought_up_to_date_and_goes_on",
    "test_an_upgrade_keeps_every_row_of_every_table_and_the_next_sync_completes",
    "test_another_account_in_the_same_schema_is_refused_at_first_use_by_both_names",
    "test_counts_that_are_capped_prove_nothing",
    "test_errors_name_the_fields_that_somebody_set",
    "test_every_way_of_syncing_is_right_with_each_fact_otherwise",
    "test_everything_else_of_a_first_sync_is_stored",
    "test_first_pages_of_which_nothing_comes_do_not_end_a_list_without_order",
    "test_five_changes_among_thousands_cost_one_call_and_the_work_of_five",
    "test_ids_may_be_far_apart",
    "test_ids_may_be_the_greatest_that_there_are",
    "test_ignored_dates_are_reported_and_leave_the_mirror_right",
    "test_lists_that_are_none_end_the_sync_although_each_record_comes_by_its_id",
    "test_merges_that_share_new_and_known_ids_never_wait_for_one_another_in_a_circle",
    "test_more_ranges_see_what_two_do_not",
    "test_no_item_goes_because_a_list_sends_less_than_it_counts",
    "test_no_part_is_hidden_by_an_order_by_chance_and_a_count_of_one_page",
    "test_one_that_comes_only_when_it_is_asked_for_alone_is_proved_that_way",
    "test_one_that_comes_while_a_full_page_is_looked_behind_is_no_sign_of_wrong_counts",
    "test_pages_shrink_until_they_come_and_later_syncs_remember",
    "test_pages_that_lie_too_deep_cost_nothing_but_lanes",
    "test_rows_that_shift_between_pages_are_neither_missed_nor_counted_twice",
    "test_the_command_syncs_two_accounts_at_once_and_nothing_gets_into_public",
    "test_the_first_proof_of_a_small_account_shows_it_and_so_does_each_after_it",
    "test_two_accounts_in_one_code_location_are_each_mirrored_into_its_own_schema",
    "test_what_begins_to_be_listed_twice_makes_up_for_no_row_that_is_gone",
    "test_what_is_good_json_is_split_as_the_strict_parser_splits_it_and_is_not_mended",
    "test_what_is_only_added_costs_nothing",
    "test_what_takes_more_calls_than_one_proof_may_make_is_found_by_the_next_ones",
    "test_what_the_plan_for_an_older_release_says_is_what_happens",
    "test_what_was_set_back_is_stored_for_a_few_calls",
    "test_whatever_a_webhook_does_while_it_is_counted_the_certificate_is_true",
    "test_whatever_lists_hold_what_is_said_to_be_complete_is",
    "test_where_all_ids_cost_too_many_calls_one_that_begins_to_be_listed_twice_is_found_by_halving",
    "test_where_the_dates_are_refused_the_whole_account_is_read_and_the_sync_says_so",
    "test_where_those_without_a_date_take_turns_a_quiet_proof_still_costs_four_calls",
    "test_where_whole_days_are_compared_nothing_is_lost_and_the_proof_says_so",
    "test_whichever_way_the_unsure_facts_turn_out",
    "test_whichever_way_the_unsure_facts_turn_out_the_copy_is_complete",
]


@pytest.fixture(autouse=True)
def connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Connections are reused in a test if they are in the module that it is from."""
    home = sys.modules[request.function.__module__]
    marks = getattr(home, "pytestmark", ())
    names = {mark.name for mark in (marks if isinstance(marks, list) else [marks] if marks else [])}
    has_its_own = hasattr(home, "connections") or "new_connections" in names
    if has_its_own or home.__file__ is None or not looks_at_rows(Path(home.__file__)):
        yield
        return
    with kept_connections():
        yield
