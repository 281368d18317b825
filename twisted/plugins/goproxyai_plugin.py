"""Registers ``goproxyai`` as a subcommand of twistd."""

from twisted.application.service import ServiceMaker

goproxyai = ServiceMaker(
    "goproxyai", "goproxyai.plugin", "A caching relay in front of the OpenAI API", "goproxyai"
)
