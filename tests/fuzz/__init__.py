"""Fuzzing of all code that parses untrusted bytes.

Each target of :mod:`.targets` has a check with an oracle. ``make fuzz`` runs it twice: with
Hypothesis, which builds inputs from the target's tokens, and with atheris, which is guided by
coverage. The corpus (:mod:`.corpus`) has the inputs that extended the coverage; the test suite
replays them (``tests/fuzz/test_corpus.py``).
"""
