"""Reload: which settings are applied, and what is logged."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from goproxyai.config.settings import Settings
from goproxyai.config.sources import LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.reload import Reload, changed_names
from goproxyai.daemon.service import Daemon
from tests.support.harness import lines


@attrs.define
class Reloader:
    """Reloads a daemon that does not run.

    :ivar found: the configuration or the error that a read gives; ``None`` where no read is
        expected.
    :ivar levels: the log levels that were set, each with the number of lines logged before.
    """

    daemon: Daemon
    found: LoadedConfig | SettingError | None = None
    levels: list[tuple[str, int]] = attrs.field(factory=list)

    def __call__(self, found: LoadedConfig | SettingError | None) -> list[str]:
        """Reload with *found*; return the logged lines."""
        self.found = found
        with capturedLogs() as events:

            def set_log_level(level: str) -> None:
                self.levels.append((level, len(events)))

            Reload(self.daemon, self._read, set_log_level).run()
        return lines(events)

    def _read(self) -> LoadedConfig:
        assert self.found is not None, "unexpected read"
        if isinstance(self.found, SettingError):
            raise self.found
        return self.found


@pytest.fixture
def reload() -> Reloader:
    return Reloader(make_daemon(MemoryReactorClock(), Settings.from_texts({"RATE_LIMIT": "5"})))


def config(hidden: tuple[str, ...] = (), **texts: str) -> LoadedConfig:
    return LoadedConfig(Settings.from_texts({"RATE_LIMIT": "5", **texts}), hidden)


def test_changed_names_are_reloadable_or_need_a_restart() -> None:
    before = Settings.from_texts({})
    assert changed_names(before, before) == ([], [])
    after = Settings.from_texts(
        {"RATE_LIMIT": "1", "PORT": "1", "COALESCE": "off", "LOG_LEVEL": "warn"}
    )
    assert changed_names(before, after) == (["RATE_LIMIT", "LOG_LEVEL"], ["LISTEN", "COALESCE"])


def test_changed_settings_are_applied_and_logged(reload: Reloader) -> None:
    assert reload(config(RATE_LIMIT="7", CACHE_TTL="7s")) == [
        "info: configuration reloaded, changed: RATE_LIMIT, CACHE_TTL"
    ]
    assert (reload.daemon.settings.rate_limit, reload.daemon.settings.cache_ttl) == (7, 7.0)
    assert reload(config(RATE_LIMIT="7", CACHE_TTL="7s")) == [
        "info: configuration reloaded, nothing changed"
    ]
    assert reload.levels == []


def test_invalid_value_changes_nothing_and_is_logged(reload: Reloader) -> None:
    before = reload.daemon.settings
    assert reload(SettingError("RATE_LIMIT is 'x', expected a whole number")) == [
        "error: configuration not reloaded, all settings stay as they are: RATE_LIMIT is 'x', "
        "expected a whole number"
    ]
    assert reload.daemon.settings is before


def test_times_of_reloads_are_shown(reload: Reloader) -> None:
    stats, now = reload.daemon.stats, [5.0]
    stats.wall = lambda: now[0]
    assert stats.reload() == {"succeeded_at": None, "failed_at": None}
    reload(config(RATE_LIMIT="7"))
    now[0] = 6.0
    reload(SettingError("RATE_LIMIT is 'x', expected a whole number"))
    assert stats.reload() == {"succeeded_at": 5.0, "failed_at": 6.0}


def test_settings_that_need_a_restart_are_logged_at_each_reload(reload: Reloader) -> None:
    found = config(RATE_LIMIT="7", COALESCE="off", OPENAI_API_URL="http://other.test")
    restart = "warn: restart the proxy to apply: OPENAI_API_URL, COALESCE"
    assert reload(found) == ["info: configuration reloaded, changed: RATE_LIMIT", restart]
    assert reload.daemon.settings == config(RATE_LIMIT="7").settings
    assert reload(found) == ["info: configuration reloaded, nothing changed", restart]


def test_overridden_settings_are_logged(reload: Reloader) -> None:
    assert reload(config(("CACHE_TTL", "PORT"))) == [
        "info: configuration reloaded, nothing changed",
        "warn: CONFIG sets CACHE_TTL, PORT without effect: an option or the environment takes "
        "precedence",
    ]


def test_log_level_changes_after_the_lines_of_the_reload(reload: Reloader) -> None:
    logged = reload(config(("CACHE_TTL",), LOG_LEVEL="error", COALESCE="off"))
    assert len(logged) == 3
    assert reload.levels == [("error", 3)]


def test_reload_during_the_stop_reads_nothing(reload: Reloader) -> None:
    reload.daemon.stopping = True
    assert reload(None) == ["info: configuration not reloaded: the proxy is stopping"]
