"""A real Prometheus beside the real daemon, and what both are held against.

* :mod:`.upstream`: an OpenAI that keeps books of the tokens that it has sold.
* :mod:`.load`: requests of every kind, and the books of the clients that make them.
* :mod:`.watch`: Prometheus, and promtool, as processes.
* ``alerts_test.yml``: the alerts, by promtool's own tests.
"""
