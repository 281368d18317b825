"""A soak: the daemon as a process, in the middle of everything that can go wrong, and accounts.

``make soak`` (``SECONDS=600``, ``SEED=1``) runs the long form and prints a report;
``python -m tests.soak --plan`` prints what would happen when. See ``docs/reliability.md``.

* :mod:`.table`: the faults, and which outcomes each of them excuses.
* :mod:`.plan`: what happens when: a pure function of the seed.
* :mod:`.truth`: answers that say themselves what they answer, and the judgement of what came.
* :mod:`.world`: upstream, egress proxy and names, which fail as planned.
* :mod:`.subject`: the daemon (or nginx in its place) as a process, measured from outside.
* :mod:`.inside`: on the daemon's Python path: names that resolve as planned, and a look inside.
* :mod:`.wire`: a client's connection, and what became of each request on it.
* :mod:`.kinds`: the kinds of clients.
* :mod:`.crowd`: all clients of one subject.
* :mod:`.accounts`: every request, against the daemon's own log and counters.
* :mod:`.soak`: the run. :mod:`.report`: what is printed of it.
"""
