"""The root certificates that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name for OpenSSL.

OpenSSL ignores a file or directory that it cannot read. Every TLS connection would then fail, and
only the first request would show that.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Iterator, MutableMapping

from goproxyai.config.variable import SettingError

FILE, DIRECTORIES = "SSL_CERT_FILE", "SSL_CERT_DIR"

_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]{1,4}")


def prepare_trust_roots(environ: MutableMapping[str, str], directory: str) -> None:
    """Check the variables, make their paths absolute, and remove empty variables.

    With a variable that is set and empty, OpenSSL would load no certificates.

    :param environ: the environment of this process, which OpenSSL reads.
    :param directory: of relative paths.
    :raises SettingError: if a variable names no certificate that can be loaded.
    """
    for name in (FILE, DIRECTORIES):
        text = environ.get(name)
        if text is not None and not text.strip():
            del environ[name]
    file = environ.get(FILE)
    if file is not None:
        environ[FILE] = path = os.path.join(directory, file)
        problem = _problem_of_file(path)
        if problem:
            raise SettingError(
                f"{FILE} is {file!a}, expected a file of PEM certificates ({problem})"
            )
    given = environ.get(DIRECTORIES)
    if given is not None:
        paths = [os.path.join(directory, path) for path in given.split(os.pathsep) if path]
        environ[DIRECTORIES] = os.pathsep.join(paths)
        if not any(not _problem_of_file(path) for each in paths for path in _hashed_files(each)):
            raise SettingError(
                f"{DIRECTORIES} is {given!a}, expected a directory of certificates with hashed "
                "names, as `openssl rehash` makes them"
            )


def _hashed_files(directory: str) -> Iterator[str]:
    """Yield the files that OpenSSL would look for in *directory*."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if _HASHED_NAME.fullmatch(name):
            yield os.path.join(directory, name)


def _problem_of_file(path: str) -> str:
    """Return why no certificate can be loaded from *path*, or an empty string."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for a writer
            return "Not a regular file"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "No certificate in it"
    except OSError as error:
        return error.strerror or "It cannot be read"
    return "" if context.cert_store_stats()["x509"] else "No certificate in it"
