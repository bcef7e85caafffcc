"""Prints the token of a file as soon as its second argument, an open file, has ended.

Several such processes ask at the same moment (`test_tokens.py`).
"""

import os
import sys
from pathlib import Path

from rms_pipeline.web.tokens import kept_token

if __name__ == "__main__":
    os.read(int(sys.argv[2]), 1)
    sys.stdout.write(kept_token(Path(sys.argv[1]), "RMS_API_TOKEN").get_secret_value())
