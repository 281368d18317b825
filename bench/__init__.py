"""The benchmark: goproxyai compared with alternatives, on one machine, in one run.

1. The measured daemon runs on core 0; the load generator and the upstream share core 1. All traffic
   is on loopback. One daemon at a time is under load. ``cores`` is the exception: there, the
   daemons have both cores, and CPU times are compared.
2. The rounds are interleaved, so that a slow minute of the machine affects all peers. The median
   counts.
3. A run counts only if all answers are correct: the load generator saw no error and no unexpected
   status, the answers equal those of the upstream, and by the upstream's own counter every miss
   reached it and no hit did.
4. A run is disturbed if other processes use over a tenth of a core. It is repeated at most twice
   (in a quick run: never), and left out if its cell has an undisturbed run. A cell without one is
   marked with ``!``.
5. A failed cell is shown as failed, and the exit status is 1.

==============  ==================================================================================
module          content
==============  ==================================================================================
``sizes``       the sizes of mixed traffic
``certificates``  a temporary certificate authority
``machine``     cores, programs, and the CPU time and memory of processes
``daemons``     starts a daemon on its core and ends it
``peers``       the compared proxies; ``gateways`` and ``stock`` are peers as well
``testbed``     the upstreams and the running daemons
``wrk``         the load generator for maximum rates, with checks
``gauge``       the load generator for latency, streams, connections and transfers
``workload``    the base of the workloads: ``throughput``, ``traffic``, ``cores``, ``latency``,
                ``open_loop``, ``streams``, ``memory``, ``filling``, ``growth``, ``transfer``
``results``     the measured values, medians and ratios
``targets``     the project's performance targets
``report``      the generated part of the page; ``plot`` draws its chart
``inside``      CPU time without sockets, apart from the benchmark
``instructions``  instructions of a request without sockets, apart from the benchmark
``entries``     hits of many entries without sockets, apart from the benchmark
``slow_clients``  latency under an attack of slow clients, apart from the benchmark
==============  ==================================================================================
"""
