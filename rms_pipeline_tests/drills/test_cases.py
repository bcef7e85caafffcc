"""The cases of properties that other modules show in the ways that differ most: see `cases.py`."""

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
from rms_pipeline_tests.sync.test_lies import (
    lie,
    test_a_count_that_is_wrong_loses_no_row_and_proves_nothing,
    test_an_api_that_finds_no_record_by_its_id_deletes_none,
)
from rms_pipeline_tests.sync.test_odd_lists import (
    test_a_cap_at_a_multiple_of_the_page_size_hides_nothing,
    test_whatever_lists_hold_what_is_said_to_be_complete_is,
)
from rms_pipeline_tests.sync.test_one_bad_record import (
    test_everything_else_of_a_first_sync_is_stored,
    test_first_pages_of_which_nothing_comes_do_not_end_a_list_without_order,
    test_lists_that_are_none_end_the_sync_although_each_record_comes_by_its_id,
    test_pages_shrink_until_they_come_and_later_syncs_remember,
    test_pages_that_lie_too_deep_cost_nothing_but_lanes,
    test_whichever_way_the_unsure_facts_turn_out,
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
)

__all__ = [
    "environment",
    "lie",
    "old_url",
    "sandbox",
    "test_a_cap_at_a_multiple_of_the_page_size_hides_nothing",
    "test_a_count_that_is_wrong_loses_no_row_and_proves_nothing",
    "test_a_difference_of_one_in_thousands_is_found_with_few_calls",
    "test_a_full_sync_makes_the_table_equal_to_the_api_field_by_field",
    "test_a_sync_in_the_foreground_answers_in_json_and_is_in_the_history",
    "test_a_walk_costs_one_call_for_each_page_and_no_more_than_three_besides",
    "test_an_api_that_finds_no_record_by_its_id_deletes_none",
    "test_an_api_that_refuses_a_parameter_with_422_is_mirrored_all_the_same",
    "test_an_older_version_with_its_rows_is_brought_up_to_date_and_goes_on",
    "test_an_upgrade_keeps_every_row_of_every_table_and_the_next_sync_completes",
    "test_every_way_of_syncing_is_right_with_each_fact_otherwise",
    "test_everything_else_of_a_first_sync_is_stored",
    "test_first_pages_of_which_nothing_comes_do_not_end_a_list_without_order",
    "test_five_changes_among_thousands_cost_one_call_and_the_work_of_five",
    "test_lists_that_are_none_end_the_sync_although_each_record_comes_by_its_id",
    "test_pages_shrink_until_they_come_and_later_syncs_remember",
    "test_pages_that_lie_too_deep_cost_nothing_but_lanes",
    "test_rows_that_shift_between_pages_are_neither_missed_nor_counted_twice",
    "test_whatever_a_webhook_does_while_it_is_counted_the_certificate_is_true",
    "test_whatever_lists_hold_what_is_said_to_be_complete_is",
    "test_where_whole_days_are_compared_nothing_is_lost_and_the_proof_says_so",
    "test_whichever_way_the_unsure_facts_turn_out",
]
