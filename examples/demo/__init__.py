"""A demonstration of the daemon on one machine, without a network: ``python -m examples.demo``.

The official client talks to the daemon, which runs as a process of its own. The daemon connects to
a fake OpenAI API with TLS, through an egress proxy with credentials. Each row of the printed table
is checked; a wrong row makes the exit status 1.
"""
