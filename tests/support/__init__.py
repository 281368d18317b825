"""Fake servers and clients for tests, which send real bytes and fail on command.

* :mod:`.authority`: a temporary certificate authority.
* :mod:`.records`: a list of records that a test can wait on.
* :mod:`.requests`: a request as a fake server received it.
* :mod:`.steps`: the steps of a scripted answer.
* :mod:`.answers`: the bytes of answers.
* :mod:`.serving`: the base of the fake servers.
* :mod:`.openai_api`: the answers of the OpenAI API.
* :mod:`.upstream`: a fake OpenAI API server.
* :mod:`.proxy`: a fake egress proxy.
* :mod:`.memory_transport`: a socket in memory; :mod:`.memory_server`: a connection to a client over
  it; :mod:`.memory_upstream`: a connection to an upstream over it.
* :mod:`.malformed_requests`: requests that are refused with 400.
* :mod:`.ports`: unused ports for processes.
* :mod:`.raw_client`: a client of exact bytes.
* :mod:`.harness`: the daemon between a raw client and a fake upstream.

No module imports the reactor; tests pass it in.
"""
