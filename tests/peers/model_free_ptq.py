"""llm-compressor's `model_free_ptq` on CPU; run in the quantize environment as a process.

    python model_free_ptq.py SOURCE TARGET SCHEME [IGNORE ...]
    python model_free_ptq.py --cases CASES.json ANSWERS.json

A single case prints `{"seconds": …}`, what the library's call took. CASES is a list of
`{"source", "target", "scheme", "ignore"}`, or with `"config"` (a `quantization_config`) in place of
the last two; `"observer"` chooses how weights are measured. ANSWERS gets, in the same order, null
or the error that the library raised. It must import neither the tests nor the package under test.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from llmcompressor import model_free_ptq

Case = dict[str, Any]


def quantize(case: Case) -> None:
    """Carry out one case; raises whatever the library raises."""
    chosen: dict[str, Any] = {}
    if "config" in case:
        chosen["config"] = QuantizationConfig.model_validate(case["config"])
    else:
        scheme = preset_name_to_scheme(case["scheme"], [])
        if "observer" in case:
            scheme.weights.observer = case["observer"]
        chosen |= {"scheme": scheme, "ignore": case["ignore"]}
    model_free_ptq(case["source"], case["target"], device="cpu", max_workers=1, **chosen)


def outcome(case: Case) -> str | None:
    """None, or the library's error: refusals are answers too."""
    try:
        quantize(case)
    except (KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Carry out one case from the command line, or many from a file."""
    torch.set_num_threads(2)
    if sys.argv[1] == "--cases":
        cases = json.loads(Path(sys.argv[2]).read_text())
        Path(sys.argv[3]).write_text(json.dumps([outcome(case) for case in cases]))
        return
    parser = argparse.ArgumentParser()
    for name in ("source", "target", "scheme"):
        parser.add_argument(name)
    parser.add_argument("ignore", nargs="*")
    case = vars(parser.parse_args())
    begin = time.perf_counter()
    quantize(case)
    print(json.dumps({"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
