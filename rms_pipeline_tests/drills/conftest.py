"""What the drills share with the tests of the parts."""

from rms_pipeline_tests.sync.conftest import mirror_of as mirror_of
