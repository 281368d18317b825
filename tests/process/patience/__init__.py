"""A directory for ``PYTHONPATH``: daemons that have it there wait long for Redis."""
