"""Is run by each interpreter at its start."""

from tests.support.patient_redis import wait_long_for_redis

wait_long_for_redis()
