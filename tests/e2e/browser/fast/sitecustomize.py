"""On a daemon's ``PYTHONPATH``: its clock goes ``FAST`` times as fast, so that an hour passes soon.

Python imports this module before any other, and so before anybody has kept a clock for himself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def hastened(clock: Callable[[], float], rate: float) -> Callable[[], float]:
    began = clock()
    return lambda: began + (clock() - began) * rate


_RATE = float(os.environ["FAST"])
time.time = hastened(time.time, _RATE)
time.monotonic = hastened(time.monotonic, _RATE)
time.perf_counter = hastened(time.perf_counter, _RATE)
