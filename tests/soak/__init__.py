"""The soak: the daemon as a process under load, with injected faults and a full audit.

``make soak`` (``SECONDS=600``, ``SEED=1``) runs the long form and prints a report;
``python -m tests.soak --plan`` prints the schedule of the faults. See
``docs/explanation/reliability.md``.

* :mod:`.faults`: the faults, and the outcomes that each may cause.
* :mod:`.plan`: the schedule, a pure function of the seed.
* :mod:`.answers`: answers with a checksum and the identity of their request, and the verification.
* :mod:`.upstream`: the upstreams and the egress proxy, which inject faults.
* :mod:`.environment`: both of them, the resolved names, and the current faults.
* :mod:`.process`: the daemon (or nginx instead) as a process, with measurements of it.
* :mod:`.instrumentation`: on the daemon's Python path: name resolution and object counts.
* :mod:`.connection`: a client connection, and the end of each request on it.
* :mod:`.client_kinds`: the kinds of clients.
* :mod:`.load`: all clients of one deployment.
* :mod:`.audit`: every request, compared with the daemon's access log and counters.
* :mod:`.soak`: the run. :mod:`.report`: its printed report.
"""
