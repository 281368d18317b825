"""Checks of the configuration and of the files that it names; nothing is listened on or started."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509

from goproxyai.cli.config_command import all_warnings
from goproxyai.cli.findings import Finding, Result
from goproxyai.config.settings import Settings, has_tls
from goproxyai.config.shown_settings import DEFAULT
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.endpoints import ListenError, describe_problem, parse_endpoints
from goproxyai.daemon.tls_endpoint import TLSEndpoint, certificate_files
from goproxyai.egress.trust_roots import DIRECTORIES, FILE, prepare_trust_roots

SOON: Final = timedelta(days=14)
"""Before the end of a certificate's validity, within which a warning is given."""

_SYSTEMD: Final = "systemd:"
_PROXY_PROTOCOL: Final = "haproxy:"


def check_configuration(
    sources: ConfigSources, environ: MutableMapping[str, str]
) -> tuple[LoadedConfig | None, list[Finding]]:
    """Read the configuration; return it, if it is valid, and the findings.

    :param environ: of this process; OpenSSL reads the trust roots from it.
    """
    try:
        config = sources.read()
        prepare_trust_roots(environ, sources.directory)
    except SettingError as error:
        return None, [Finding("configuration", Result.FAILED, str(error))]
    changed = [name for name, setting in config.shown.items() if setting.source != DEFAULT]
    detail = f"set: {', '.join(changed)}" if changed else "all settings have their defaults"
    findings = [Finding("configuration", Result.OK, detail)]
    findings += [Finding("configuration", Result.WARNING, line) for line in all_warnings(config)]
    return config, findings


def check_files(
    reactor: Any,
    config: LoadedConfig,
    sources: ConfigSources,
    log_file: str | None,
    now: datetime | None = None,
) -> list[Finding]:
    """Check the files; return a finding for each problem, and one that lists the others.

    :param log_file: that the log is to be written to.
    :param now: with a time zone.
    """
    settings = config.settings
    read = [path for path in (sources.path, settings.prices, settings.tls_client_ca) if path]
    roots = [sources.environ.get(name, "").strip() for name in (FILE, DIRECTORIES)]
    read += [path for path in roots if path]
    problems = [
        *_endpoints(reactor, settings, now or datetime.now(UTC)),
        *_written("--logfile", log_file, sources.directory),
        *_written("CACHE_SNAPSHOT", settings.cache_snapshot, sources.directory),
    ]
    for description in (*settings.listen, *settings.admin_listen):
        if has_tls(description):
            read += certificate_files(description.removeprefix(_PROXY_PROTOCOL))
    written = [path for path in (log_file, settings.cache_snapshot) if path]
    detail = ", ".join([*read, *written]) or "none are used"
    if any(problem.result is Result.FAILED for problem in problems):
        return problems
    return [Finding("files", Result.OK, detail), *problems]


def _endpoints(reactor: Any, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Yield the problems of the listeners and their certificates."""
    for variable, descriptions in (
        ("LISTEN", settings.listen),
        ("ADMIN_LISTEN", settings.admin_listen),
    ):
        # The sockets of systemd are passed to the service only.
        own = tuple([each for each in descriptions if _SYSTEMD not in each])
        try:
            parsed = parse_endpoints(reactor, own, variable, settings.tls_client_ca)
        except ListenError as error:
            yield Finding("files", Result.FAILED, str(error).removeprefix("goproxyai: "))
            continue
        for description, endpoint in parsed:
            if isinstance(endpoint, TLSEndpoint):
                yield from _certificates(description, endpoint, now)


def _certificates(description: str, endpoint: TLSEndpoint, now: datetime) -> Iterator[Finding]:
    try:
        endpoint.read()
        files = certificate_files(description.removeprefix(_PROXY_PROTOCOL))
        certificates = [each for path in files[1:2] for each in _read_certificates(path)]
    except Exception as error:  # OpenSSL and Twisted raise errors of many classes
        yield Finding("files", Result.FAILED, f"{description}: {describe_problem(error)}")
        return
    for certificate in certificates[:1]:
        end = certificate.not_valid_after_utc
        if end < now:
            detail = f"{files[1]}: the certificate has expired on {end:%Y-%m-%d}"
            yield Finding("files", Result.FAILED, detail, "Renew the certificate.")
        elif end < now + SOON:
            detail = f"{files[1]}: the certificate expires on {end:%Y-%m-%d}"
            yield Finding("files", Result.WARNING, detail, "Renew the certificate.")


def _read_certificates(path: str) -> list[x509.Certificate]:
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificates(file.read())


def _written(name: str, path: str | None, directory: str) -> Iterator[Finding]:
    """Yield the problem of a file that is to be written."""
    if not path:
        return
    path = os.path.join(directory, path)
    parent = os.path.dirname(path)
    if os.path.isdir(path):
        problem = "it is a directory"
    elif os.path.exists(path):
        problem = "" if os.access(path, os.W_OK) else "it may not be written"
    elif not os.path.isdir(parent):
        problem = "its directory does not exist"
    else:
        problem = "" if os.access(parent, os.W_OK | os.X_OK) else "its directory may not be written"
    if problem:
        yield Finding("files", Result.FAILED, f"{name} is {path!a}, {problem}")
