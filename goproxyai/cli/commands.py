"""The table of the commands.

The parser, the help, the completion of shells, the manual page and
``docs/reference/command-line.md`` are all derived from :data:`COMMANDS` and
:data:`~goproxyai.config.variables.VARIABLES`.
"""

from __future__ import annotations

from typing import Final

import attrs

SHELLS: Final = ("bash", "zsh", "fish")

SUMMARY: Final = "A caching, rate-limiting HTTP proxy for the OpenAI API"

SETTINGS_NOTE: Final = (
    "Each setting is an option, an environment variable, and a line NAME=value in the file that "
    "CONFIG names. An option overrides the variable, and both override the file."
)


@attrs.frozen
class Option:
    """An option of a command that is not a setting.

    :ivar argument: the name of its value in the help; empty for an option without a value.
    :ivar is_file: whether the value is a path.
    """

    name: str
    help: str
    argument: str = ""
    is_file: bool = False


@attrs.frozen
class Command:
    """A command.

    :ivar summary: a few words, for lists of commands.
    :ivar text: one or more sentences.
    :ivar takes_settings: whether each setting is an option of the command.
    :ivar operands: the operands, for the usage line.
    :ivar choices: the values of the only operand.
    :ivar examples: command lines, each with what it does.
    """

    name: str
    summary: str
    text: str
    options: tuple[Option, ...] = ()
    takes_settings: bool = False
    operands: str = ""
    choices: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


_JSON = Option("json", "Print a JSON document.")
_LOG_FILE = Option(
    "logfile", "The file that the log is appended to. If not given, standard output.", "FILE", True
)

COMMANDS: Final = (
    Command(
        "run",
        "serve in the foreground",
        "Serve in the foreground until SIGTERM or Ctrl-C: the same service as that of `twistd "
        "--nodaemon goproxyai`, with the same settings, signals and log. SIGTERM and Ctrl-C let "
        "the requests in progress finish. The exit status is 0, or the signal; 1 if the start "
        "failed, with one line that says why.",
        (_LOG_FILE,),
        takes_settings=True,
        examples=(
            ("goproxyai run", "serve on port 8080"),
            (
                "goproxyai run --port 9090 --proxy-url http://proxy.example:3128",
                "use an egress proxy",
            ),
        ),
    ),
    Command(
        "demo",
        "serve made-up traffic from a made-up OpenAI API",
        "Start a made-up OpenAI API, the proxy in front of it, and made-up clients, all on "
        "loopback: hits, misses, streams, errors, a client that exceeds its rate limit, and "
        "after ten minutes an outage every few minutes, to be watched on the dashboard. No API "
        "key, network or other program is needed. The API accepts any key, or none. Settings and "
        "the environment have no effect. Ctrl-C ends the demo, with status 0.",
        (
            Option(
                "port",
                "The port of the proxy on 127.0.0.1, 0 for a free one. Default: 8080.",
                "PORT",
            ),
            Option(
                "outage",
                "Begin with an outage, after 15 s. Without the option, the API answers all "
                "requests for ten minutes.",
            ),
            Option(
                "once",
                "Run the official client for Python against the proxy once, through an egress "
                "proxy and TLS, and print a table of its requests. Needs a checkout of the "
                "repository, and the packages openai and trustme. Other options have no effect.",
            ),
        ),
        examples=(
            ("goproxyai demo", "the dashboard is on http://127.0.0.1:8080/dashboard"),
            ("curl -i http://127.0.0.1:8080/v1/models", "an answer without a key"),
        ),
    ),
    Command(
        "check",
        "check the configuration, its files and the way to upstream",
        "Check the configuration, the files that it names (certificates, CONFIG, prices, the log's "
        "directory), and then each step to upstream: DNS, TCP, CONNECT or SOCKS through the egress "
        "proxy, TLS, and the response to GET /v1/models without an API key, of which status 401 is "
        "a success, and each step to the server of STATE_URL. Each step has its time, what failed, "
        "and what to do. The exit status is 1 if a part has failed.",
        (_JSON, _LOG_FILE),
        takes_settings=True,
        examples=(
            ("goproxyai check", "as the service of this shell's environment would connect"),
            ("goproxyai check --config /etc/goproxyai/goproxyai.env", "another configuration"),
        ),
    ),
    Command(
        "health",
        "ask a running daemon whether it is healthy",
        "Ask the daemon on this machine for /health, and print one line. The exit status is 1 if "
        "the daemon does not answer with status 200 within 3 s. The address is that of PORT, "
        "LISTEN and ADMIN_LISTEN in the environment or in the file of CONFIG; of several, one "
        "without TLS and without the PROXY protocol. The certificate of an ssl: address is not "
        "verified, because the connection stays on the machine.",
        (
            Option("ready", "Ask for /health/ready, which fails while the daemon stops."),
            Option(
                "url",
                "Ask the daemon at this URL, such as https://proxy.example:8443. Its certificate "
                "is verified.",
                "URL",
            ),
        ),
        examples=(
            ("goproxyai health", "the daemon of this shell's environment"),
            ("goproxyai health --ready --url http://localhost:8080", "the daemon at a URL"),
        ),
    ),
    Command(
        "config",
        "show every setting, its value and its source",
        "Show every setting, its value and its source: option, environment, file or default. "
        "Secrets are masked. Nothing is started. The exit status is 1 if a setting is invalid.",
        (_JSON,),
        takes_settings=True,
        examples=(("goproxyai config --json", "for programs"),),
    ),
    Command(
        "completion",
        "print the completion for a shell",
        "Print a script that completes commands and options in a shell.",
        operands="bash|zsh|fish",
        choices=SHELLS,
        examples=(
            ('eval "$(goproxyai completion bash)"', "in ~/.bashrc"),
            ('eval "$(goproxyai completion zsh)"', "in ~/.zshrc, after compinit"),
            ("goproxyai completion fish | source", "in config.fish"),
        ),
    ),
)

BY_NAME: Final = {command.name: command for command in COMMANDS}
