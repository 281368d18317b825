"""The tracer of the setting ``TRACING``."""

from __future__ import annotations

import os
from typing import Any

from goproxyai.config.settings import Settings
from goproxyai.telemetry.trace_protocol import Tracer

_DISABLED = "OTEL_SDK_DISABLED"
"""OpenTelemetry's variable that turns tracing off for all programs of a machine."""


def make_tracer(reactor: Any, settings: Settings) -> Tracer | None:
    """Return the tracer, or ``None`` where tracing is off.

    OpenTelemetry is imported only where tracing is on.

    :raises SystemExit: with one line, where OpenTelemetry is not installed.
    """
    if settings.tracing == "off" or os.environ.get(_DISABLED, "").strip().lower() == "true":
        return None
    try:
        from goproxyai.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("goproxyai"):
            raise
    else:
        return Tracing(reactor)
    raise SystemExit(
        f"goproxyai: TRACING is {settings.tracing}, expected goproxyai[otel] to be installed"
    )
