"""Runs a command and adds a line to its stderr: seconds from exec to exit, peak memory in MB,
seconds of processors.

Small on purpose: Linux counts what its parent holds at that moment as the memory of a new process.
"""

import os
import sys
import time

began = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
processors = usage.ru_utime + usage.ru_stime
print(f"\n{time.monotonic() - began} {usage.ru_maxrss / 1024} {processors}", file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
