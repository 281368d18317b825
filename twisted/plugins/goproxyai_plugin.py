"""Makes ``twistd goproxyai`` known."""

from twisted.application.service import ServiceMaker

goproxyai = ServiceMaker(
    "goproxyai", "goproxyai.plugin", "A caching relay in front of the OpenAI API", "goproxyai"
)
