"""Runs a compiled pipeline with kfp's own local runner; called by tests of the pipeline.

    kfp_local.py PIPELINE.yaml PIPELINE_ROOT CACHE_ROOT ARGUMENTS.json

A process of its own, for kfp prints, warns and keeps global state. Exits 1 where the run failed.
"""

import json
import logging
import sys
from pathlib import Path

from kfp import components, local

pipeline, root, cache, arguments = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, level=logging.INFO)  # tells what came from the cache
local.init(
    runner=local.SubprocessRunner(use_venv=False),
    pipeline_root=root,
    raise_on_error=True,
    enable_caching=True,
    cache_root=cache,
)
run = components.load_component_from_text(Path(pipeline).read_text())
try:
    run(**json.loads(Path(arguments).read_text()))
except RuntimeError as error:
    print(error)
    sys.exit(1)
