"""``goproxyai health`` against the daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from goproxyai.cli.main import main
from tests.support.harness import ProxyHarness
from tests.support.ports import free_port

Capture = pytest.CaptureFixture[str]

tls_warnings = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated")


async def run(capsys: Capture, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Return the exit status, the output and the error output."""
    status = await deferToThread(main, ["health", *arguments], environ)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "word", "path"), [((), "healthy", ""), (("--ready",), "ready", "/ready")]
)
@pytest_twisted.ensureDeferred
async def test_daemon_that_answers_is_healthy(
    harness: ProxyHarness, capsys: Capture, arguments: tuple[str, ...], word: str, path: str
) -> None:
    await harness.start()
    status, out, err = await run(capsys, *arguments, PORT=str(harness.port))
    assert (status, err) == (0, "")
    url = f"http://127.0.0.1:{harness.port}/health{path}"
    assert re.fullmatch(rf"{word}: {url} answered in \d+ ms\n", out)


@pytest.mark.parametrize("prefix", ["", "haproxy:"])
@pytest_twisted.ensureDeferred
async def test_unix_socket_is_asked(
    harness: ProxyHarness, capsys: Capture, tmp_path: Path, prefix: str
) -> None:
    listen = f"{prefix}unix:{tmp_path / 'own.sock'}"
    await harness.start(LISTEN=f"tcp:0:interface=127.0.0.1 {listen}", TRUSTED_PROXIES="unix")
    status, out, err = await run(capsys, LISTEN=listen)
    assert (status, err) == (0, "")
    assert out.startswith(f"healthy: unix:{tmp_path / 'own.sock'}/health ")


@tls_warnings
@pytest.mark.parametrize("prefix", ["", "haproxy:"])
@pytest_twisted.ensureDeferred
async def test_certificate_is_not_verified_on_the_machine_itself(
    harness: ProxyHarness, capsys: Capture, tmp_path: Path, prefix: str
) -> None:
    file = tmp_path / "own.pem"
    file.write_bytes(harness.authority.good().pem)
    port = free_port()
    listen = f"{prefix}ssl:{port}:interface=127.0.0.1:privateKey={file}"
    await harness.start(LISTEN=listen)
    status, out, _ = await run(capsys, LISTEN=listen)
    assert (status, out.partition("/health")[0]) == (0, f"healthy: https://127.0.0.1:{port}")
    if not prefix:
        status, out, err = await run(capsys, f"--url=https://127.0.0.1:{port}")
        assert (status, out) == (1, "")
        assert "certificate verify failed" in err


@pytest_twisted.ensureDeferred
async def test_file_of_config_has_the_address(
    harness: ProxyHarness, capsys: Capture, tmp_path: Path
) -> None:
    await harness.start()
    file = tmp_path / "own.env"
    file.write_text(f"PORT={harness.port}\n")
    status, _, err = await run(capsys, CONFIG=str(file))
    assert (status, err) == (0, "")


@pytest_twisted.ensureDeferred
async def test_draining_daemon_is_not_ready(harness: ProxyHarness, capsys: Capture) -> None:
    await harness.start()
    assert harness.daemon is not None
    harness.daemon.admin.stats.ready = False
    url = f"http://localhost:{harness.port}"
    status, out, err = await run(capsys, "--ready", f"--url={url}/")
    assert (status, out) == (1, "")
    assert err == f"not ready: {url}/health/ready: status 503, draining\n"


@pytest_twisted.ensureDeferred
async def test_other_status_is_not_healthy(harness: ProxyHarness, capsys: Capture) -> None:
    await harness.start(RELAY_PATHS="/other/")
    status, out, err = await run(capsys, f"--url=http://127.0.0.1:{harness.port}/v1")
    assert (status, out) == (1, "")
    assert err.endswith("/v1/health: status 404, not_found\n")


@pytest_twisted.ensureDeferred
async def test_daemon_that_does_not_listen_is_not_healthy(capsys: Capture) -> None:
    port = free_port()
    status, out, err = await run(capsys, PORT=str(port))
    assert (status, out) == (1, "")
    assert err == f"not healthy: http://127.0.0.1:{port}/health: Connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "expected"),
    [
        (["--url=localhost:8080"], {}, 2,
         "goproxyai health: --url must be like http://localhost:8080"),
        (["--url=http://a:b"], {}, 2, "goproxyai health: --url must be like http://localhost:8080"),
        (["--redy"], {}, 2, "goproxyai health: unknown option --redy; did you mean --ready?"),
        ([], {"CONFIG": "absent.env"}, 1, "goproxyai: CONFIG is 'absent.env', expected a file of "
         "NAME=value lines (No such file or directory)"),
        ([], {"PORT": "0"}, 1, "goproxyai: LISTEN and ADMIN_LISTEN have no address that is known "
         "in advance; give --url"),
    ],
)  # fmt: skip
def test_mistake_is_one_line(
    capsys: Capture, arguments: list[str], environ: dict[str, str], status: int, expected: str
) -> None:
    assert main(["health", *arguments], environ) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{expected}\n")


def test_invalid_file_of_config_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text("PORT\n")
    assert main(["health"], {"CONFIG": str(file)}) == 1
    assert capsys.readouterr().err.endswith("(line 1 is not NAME=value)\n")


def test_check_without_options_imports_neither_twisted_nor_the_settings() -> None:
    program = (
        "import sys, goproxyai.cli.main as m\n"
        "m.main(['health'], {'PORT': '1'})\n"
        "print([n for n in ('twisted', 'goproxyai.config.variables') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
