"""A real Prometheus that scrapes the real daemon, and the counts to compare it with.

* :mod:`.upstream`: a fake OpenAI API that counts the tokens of its answers.
* :mod:`.load`: requests of every kind, and the counts of the clients that send them.
* :mod:`.processes`: Prometheus and promtool as processes.
* ``alerts_test.yml``: promtool's unit tests of the alerts.
"""
