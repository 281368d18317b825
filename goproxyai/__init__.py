"""A caching, limiting, byte-exact relay in front of the OpenAI API.

Read the way of a request in :mod:`goproxyai.pipeline`.
"""

__version__ = "0.1.0"
