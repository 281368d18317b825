"""The path of a request under a relayed prefix, one module a step.

:mod:`.handler` takes an exchange through the steps:

1. :mod:`.admission`: the client's address, and a token from its bucket.
2. :mod:`.request_plan`: what the request's head decides.
3. :mod:`.cache_lookup`: an entry that answers the request, or a miss.
4. A hit: :mod:`.replay` writes the entry.
5. A miss: :mod:`.forward` sends the request upstream for one client, through
   :mod:`.upstream_request` and :mod:`.retry_state`. :mod:`.single_flight` sends it for all
   identical requests (:mod:`.flight`, :mod:`.subscriber`, :mod:`.shared_body`); subscribers that
   fall behind continue alone (:mod:`.catch_up`, :mod:`.resume`).
6. :mod:`.recorder` collects the response's body and stores it.

:mod:`.response_head` makes the header lines that the proxy adds, :mod:`.error_response` turns
exceptions into responses, :mod:`.context` holds the collaborators that the steps share.
"""
