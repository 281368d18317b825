"""A caching, rate-limiting HTTP proxy for the OpenAI API.

The path of a request starts in :mod:`goproxyai.proxy.handler`.
"""

__version__ = "0.2.0"
