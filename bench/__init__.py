"""The benchmark: goproxyai beside what a user would pick instead, on one machine, in one run.

1. The measured daemon runs on core 0; load and upstream share core 1. Everything is on loopback,
   and one daemon at a time is under load.
2. Rounds are interleaved, so that a slow minute of the machine hits all peers; the median counts.
3. Errors are never speed. A run counts only if the load tool saw no error and no other status, if
   the answers were compared with what upstream sends, and if upstream's own counter says that
   every miss reached it and that no hit did.
4. A run that other processes disturbed, taking over a tenth of a core, is repeated, twice at
   most (in a quick run: never), and left out where its cell has a quiet one; a cell without is
   marked with ``!``.
5. A cell that fails is shown as failed, and the exit status is 1.

==============  ==================================================================================
module          idea
==============  ==================================================================================
``machine``     cores, programs, and what processes use
``daemons``     how a daemon is started on its core, and ended
``peers``       what is compared; ``gateways`` and ``stock`` are peers too
``stage``       the upstreams, and the daemons that stand before them
``wrk``         requests as fast as they go, checked
``gauge``       the tool for latency, streams, connections and transfers
``workload``    what all workloads share; ``throughput``, ``latency``, ``streams``, ``memory``,
                ``filling``, ``growth``, ``transfer`` are the workloads
``results``     what was measured, medians, ratios
``targets``     what the project set out to reach
``report``      the page; ``plot`` draws its picture
==============  ==================================================================================
"""
