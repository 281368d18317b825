"""Random input for everything that reads a stranger's bytes, each with an oracle.

``make fuzz`` runs every target of :mod:`.targets` twice: under Hypothesis, which puts input
together from a target's tokens, and under atheris, which is led by coverage. What either found
worth keeping lies in ``corpus/<target>/``, and the suite replays it (``tests/fuzz/test_corpus.py``).
"""
