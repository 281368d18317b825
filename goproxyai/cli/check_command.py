"""``goproxyai check``: the configuration, its files, and the ways to upstreams and Redis."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from goproxyai import __version__
from goproxyai.cli.commands import BY_NAME
from goproxyai.cli.file_checks import check_configuration, check_files
from goproxyai.cli.findings import Finding, has_failed, report
from goproxyai.cli.help import text_width
from goproxyai.cli.options import parse_settings
from goproxyai.cli.upstream_check import UpstreamCheck
from goproxyai.config.sources import ConfigSources
from goproxyai.daemon.process_setup import use_monotonic_clock
from goproxyai.egress.resolver import SharedResolver
from goproxyai.egress.tls import tls_to


def run(arguments: list[str], environ: MutableMapping[str, str]) -> int:
    """Check; the exit status is 1 if a part has failed.

    :raises SystemExit: with the exit status.
    """
    options = parse_settings(BY_NAME["check"], arguments, environ)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)

    async def main(reactor: Any) -> None:
        use_monotonic_clock(reactor)
        reactor.installNameResolver(SharedResolver(reactor))
        findings = await check(reactor, options.sources, environ, options["logfile"])
        print(json_text(findings) if options["json"] else report(findings, text_width()))
        sys.exit(1 if has_failed(findings) else 0)

    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    raise AssertionError("react ends the process")


async def check(
    reactor: Any,
    sources: ConfigSources,
    environ: MutableMapping[str, str],
    log_file: str | None = None,
    tls: Callable[[str], Any] = tls_to,
) -> list[Finding]:
    """Return all findings; upstreams are not contacted if the configuration is invalid.

    :param environ: as in :func:`~.file_checks.check_configuration`.
    :param tls: as in :class:`~goproxyai.egress.routes.Routes`.
    """
    config, findings = check_configuration(sources, environ)
    if config is None:
        return findings
    findings += check_files(reactor, config, sources, log_file)
    for url in config.settings.openai_api_url:
        findings += await UpstreamCheck(reactor, config.settings, url, tls).run()
    if config.settings.state_url is not None:
        # hiredis and the scripts are imported only where they are needed.
        from goproxyai.cli.state_check import StateCheck

        findings += await StateCheck(reactor, config.settings, config.settings.state_url).run()
    return findings


def json_text(findings: list[Finding]) -> str:
    """Return the findings as a JSON document."""
    document = {
        "version": __version__,
        "ok": not has_failed(findings),
        "findings": [finding.document() for finding in findings],
    }
    return json.dumps(document, indent=2)
