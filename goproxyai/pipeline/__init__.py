"""The way of a request under ``/v1``, one module a step, in this order:

1. :mod:`.admit`: who is the client, and has it a token left?
2. :mod:`.access_log`: every request leaves one event, written when it is over.
3. :mod:`.lookup`: may it be answered from the cache, and is there an answer?
4. :mod:`.forward`: upstream's answer, relayed as it comes.
5. :mod:`.store`: what came is kept, if it may be and came whole.
6. :mod:`.respond`: the answers of our own making, hits and errors.

Before them, :mod:`.identify` gives it a name; beside them, :mod:`.meter` watches what an answer
costs and how evenly it comes, and :mod:`.aggregate` makes numbers of events. :mod:`.relay` joins the
steps; :mod:`.answers` is the one place that turns an exception into an answer.
"""
