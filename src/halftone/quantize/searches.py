"""Which FP8 scale a block of sixteen weights gets, when its maximum alone does not decide.

Parts of the NVFP4 kernel. Every search measures the true squared error with the scale as stored
(rounded to FP8), keeps the MinMax scale unless another is strictly better, and takes the smallest
code among equals, so that a result never depends on the order of trials.

`MEAN_SQUARED_ERROR` tries the codes of a fixed window around MinMax's. `EXHAUSTIVE` gives what
trying all 126 codes gives, and leaves out only codes that cannot win:

- downward: a block's largest weight is clipped at 6 steps, and the smaller the step, the more.
  Once this one weight's error exceeds the best sum, no smaller step can win;
- upward: the points of step 2h that lie within 7h are among the points of step h. So where h is
  itself a code's step and covers the largest weight, 2h cannot be strictly better.
"""

from typing import Any, Final

import numpy as np

from halftone.checkpoint.bits import nearest_e2m1
from halftone.checkpoint.jit import inline
from halftone.checkpoint.lanes import splat, total

MIN_MAX: Final = 0
MEAN_SQUARED_ERROR: Final = 1
EXHAUSTIVE: Final = 2

LAST_CODE: Final = 126  # 0x7E is 448; code 0 is never stored: a step of zero cannot be divided by
_BELOW: Final = 3
_ABOVE: Final = 7
_COVERED: Final = np.float32(6.5)  # of 7: the margin is for float32


@inline
def block_error(magnitudes: Any, step: Any) -> Any:
    """The squared error of a block quantized with `step`."""
    values, _ = nearest_e2m1(magnitudes / splat(step))
    error = magnitudes - values * splat(step)
    return total(error * error)


@inline
def mean_squared_error(magnitudes: Any, steps: Any, code: Any, error: Any) -> Any:
    """(code, error) of the best step in the window around MinMax's `code` of that `error`."""
    best_code, best_error = code, error
    for candidate in range(max(code - _BELOW, 1), min(code + _ABOVE, LAST_CODE) + 1):
        found = block_error(magnitudes, steps[candidate])
        if found < best_error:
            best_code, best_error = candidate, found
    return best_code, best_error


@inline
def exhaustive(magnitudes: Any, steps: Any, largest: Any, code: Any, error: Any) -> Any:
    """(code, error) of the best of all steps; `code` and `error` are MinMax's."""
    best_code, best_error = code, error
    for candidate in range(code - 1, 0, -1):
        clipped = largest - np.float32(6.0) * steps[candidate]
        if clipped > np.float32(0.0) and clipped * clipped > best_error:
            break
        found = block_error(magnitudes, steps[candidate])
        if found < best_error or (found == best_error and best_code != code):
            best_code, best_error = candidate, found
    for candidate in range(code + 1, LAST_CODE + 1):
        half = _code_of_half(candidate)
        if half > 0 and largest <= _COVERED * steps[half]:
            if candidate >= 16:  # all greater codes have a half too, and a greater one
                break
            continue
        found = block_error(magnitudes, steps[candidate])
        if found < best_error:
            best_code, best_error = candidate, found
    return best_code, best_error


@inline
def _code_of_half(code: Any) -> Any:
    """The code of half the scale, or 0 where there is none.

    From 16 on codes are normal numbers, eight to a doubling; below, the value is code / 512.
    """
    if code >= 16:
        return code - 8
    return code // 2 if code % 2 == 0 else 0
