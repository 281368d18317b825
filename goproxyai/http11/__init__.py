"""An HTTP/1.1 engine over llhttp, for both sides of a relay.

* :mod:`.framing`: the bytes around a message: heads, chunks, what a head promises.
* :mod:`.request_head`: what a request's head says, worked out once while a client repeats it.
* :mod:`.socket_write`: hand bytes to the kernel at once, park only what it did not take.
* :mod:`.lean_loop`: a turn of the reactor, lean, and with an end.
* :mod:`.write_batch`: small writes of one turn leave together.
* :mod:`.deadlines`: one coarse ticker keeps every deadline.
* :mod:`.exchange`: a request and the answer to it, as the pipeline sees them; :mod:`.request_body`: what
  it carries.
* :mod:`.server_connection`: the connection that clients hold to us.
* :mod:`.web_adapter`: an exchange dressed up for ``twisted.web`` resources (and so for Klein).
* :mod:`.client_connection`: the connection that we hold to an upstream; :mod:`.request_upload`: a streamed body on its
  way there; :mod:`.response`: what comes back.
* :mod:`.connection_pool`: connections between requests.
"""
