"""Adapters to Twisted's internals: the only package that uses private names of Twisted.

Each module has a fallback or a refusal for a Twisted release that lacks a private name.
``pyproject.toml`` caps Twisted at the release that the tests ran with.
"""
