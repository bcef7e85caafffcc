"""Cases like those of `test_cases.py`, which need a browser or the web service.

They are apart because no test of a module can run an event loop while its browser is open.
"""

from rms_pipeline_tests.browser.test_tasks import (
    before_them,
    someone,
    stand,
    test_a_question_of_the_morning_is_answered_in_as_many_clicks_as_the_page_says,
)
from rms_pipeline_tests.web.conftest import serve
from rms_pipeline_tests.web.test_receiver import (
    test_no_body_whatever_makes_it_fail,
    test_requests_made_from_its_own_description_never_make_it_fail,
)

__all__ = [
    "before_them",
    "serve",
    "someone",
    "stand",
    "test_a_question_of_the_morning_is_answered_in_as_many_clicks_as_the_page_says",
    "test_no_body_whatever_makes_it_fail",
    "test_requests_made_from_its_own_description_never_make_it_fail",
]
