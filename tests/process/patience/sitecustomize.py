"""Interpreters run this file when they start."""

from tests.support.patient_redis import wait_long_for_redis

wait_long_for_redis()
