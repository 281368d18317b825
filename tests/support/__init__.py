"""Doubles that stand where the network would: they speak real bytes, and fail on command.

* :mod:`.authority`: a throw-away certificate authority.
* :mod:`.ledger`: what was seen so far, and a way to wait for more.
* :mod:`.requests`: a request as it came over the wire.
* :mod:`.steps`: the script of an answer.
* :mod:`.answers`: the bytes of answers.
* :mod:`.serving`: what the servers share: connections, scripts, an orderly end.
* :mod:`.openai_api`: what OpenAI would answer.
* :mod:`.upstream`: the OpenAI API.
* :mod:`.proxy`: an HTTP egress proxy.

Nothing here imports the reactor; it is handed in.
"""
