"""Shared state in Redis or Valkey: rate limits, and responses of the cache."""
