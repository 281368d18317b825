"""A randomized simulation of the proxy's handler between clients and upstreams.

Other tests fix the order of events. Here a seed draws the order: which client requests what, when
an upstream answers, how much of the answer one read brings, which clients read slowly or leave, and
what fails. The handler, its exchanges, responses and the cache store are real; connections and time
are simulated. So a seed always gives the same run, and a thousand steps take a few hundredths of a
second.

1. :mod:`.plans` draws requests and answers, :mod:`.endings` how an upstream attempt may end.
2. :mod:`.environment` is the state that both sides share; :mod:`.clients` and :mod:`.upstreams` are
   the two sides, one step at a time.
3. :mod:`.simulation` interleaves their steps and lets everything end; :mod:`.run` does so for a
   seed.
4. :mod:`.checks` compares the clients' answers with what the upstreams sent.

``python -m tests.simulation FIRST LAST`` runs more seeds than the test suite.
"""
