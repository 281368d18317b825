"""Chance: all orders in which the pipeline's clients and upstreams may act, one for each seed.

The tests elsewhere say what follows on what. Here a seed draws it: who asks what, when an upstream
answers, how much of it comes in a read, who reads slowly, who leaves, what breaks. The pipeline,
its exchanges, responses and store are the real ones; connections and time are not, so that a seed
always says the same, and a thousand steps take some hundredths of a second.

1. :mod:`.plans` draws what is asked and what is answered, :mod:`.endings` says how it may end.
2. :mod:`.clients` and :mod:`.upstreams` are the two ends, a step at a time.
3. :mod:`.world` lets them act by turns and brings all to an end; :mod:`.run` does so for a seed.
4. :mod:`.checks` judges what came of it, by what was sent and not by what the pipeline says.

``python -m tests.simulation FIRST LAST`` runs more seeds than the suite does.
"""
