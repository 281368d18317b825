"""The root certificates that the environment names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from goproxyai.config.variable import SettingError
from goproxyai.egress.trust_roots import prepare_trust_roots
from tests.support.authority import Authority

HASHED_NAME = "0a1b2c3d.0"


@pytest.fixture
def roots(tmp_path: Path, authority: Authority) -> Path:
    """A file with a root certificate."""
    path = tmp_path / "roots.pem"
    path.write_bytes(authority.pem.read_bytes())
    return path


def prepared(directory: Path, **environ: str) -> dict[str, str]:
    prepare_trust_roots(environ, str(directory))
    return environ


def problem(directory: Path, **environ: str) -> str:
    with pytest.raises(SettingError) as caught:
        prepare_trust_roots(environ, str(directory))
    return str(caught.value)


def test_environment_without_roots_is_left_as_it_is(tmp_path: Path) -> None:
    assert prepared(tmp_path, PATH="/bin") == {"PATH": "/bin"}


def test_empty_variables_are_removed(tmp_path: Path) -> None:
    assert prepared(tmp_path, SSL_CERT_FILE=" ", SSL_CERT_DIR="") == {}


def test_paths_become_absolute(roots: Path) -> None:
    directory = roots.parent
    (directory / "hashed").mkdir()
    (directory / "hashed" / HASHED_NAME).symlink_to(roots)
    environ = prepared(directory, SSL_CERT_FILE="roots.pem", SSL_CERT_DIR="missing:hashed")
    assert environ["SSL_CERT_FILE"] == str(roots)
    assert environ["SSL_CERT_DIR"] == f"{directory}/missing:{directory}/hashed"
    assert prepared(Path("/"), **environ) == environ


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path, SSL_CERT_FILE="/x/roots.pem") == (
        "SSL_CERT_FILE is '/x/roots.pem', expected a file of PEM certificates "
        "(No such file or directory)"
    )


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)
def test_file_without_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "roots.pem").write_bytes(content)
    assert "No certificate in it" in problem(tmp_path, SSL_CERT_FILE="roots.pem")


def test_pipe_or_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        assert "Not a regular file" in problem(tmp_path, SSL_CERT_FILE=name)


@pytest.mark.parametrize("names", [[], ["roots.pem"], [HASHED_NAME]])
def test_directory_without_hashed_certificate_is_refused(roots: Path, names: list[str]) -> None:
    directory = roots.parent / "directory"
    directory.mkdir()
    for name in names:
        (directory / name).write_bytes(roots.read_bytes() if name == "roots.pem" else b"other")
    assert problem(roots.parent, SSL_CERT_DIR="directory") == (
        "SSL_CERT_DIR is 'directory', expected a directory of certificates with hashed names, as "
        "`openssl rehash` makes them"
    )


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path, SSL_CERT_DIR="missing").startswith(
        "SSL_CERT_DIR is 'missing', expected"
    )
