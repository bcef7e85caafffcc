"""`python -m rms_pipeline.cli`: the command without its script."""

from rms_pipeline.cli import main

main()
