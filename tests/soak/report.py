"""The printed report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.soak.deployment import Deployment
from tests.soak.soak import Soak


def report(soak: Soak) -> str:
    """The counts of all deployments, then the problems."""
    plan = soak.plan
    parts = [f"seed {plan.seed}, {plan.seconds:g} s of load, in {len(plan.cycles)} cycles"]
    parts += [_counts_of(deployment) for deployment in soak.deployments]
    problems = soak.problems
    parts.append("\n".join(problems) if problems else "No problems.")
    return "\n\n".join(parts)


def _counts_of(deployment: Deployment) -> str:
    audit = deployment.audit
    processes = deployment.process.number
    rows = [
        f"{deployment.where}: {len(audit.calls)} requests, {processes} process(es)",
        f"  outcomes: {_counts(audit.outcomes)}",
        f"  wrong answers: {audit.wrong}, hidden truncations: {audit.hidden}",
        f"  tunnels that upstream finished first: {audit.finished_by_upstream}",
        f"  statuses: {_counts(audit.statuses)}",
        f"  clients: {_counts(audit.kinds)}",
        f"  Cache-Status: {_counts(audit.cache_statuses)}",
    ]
    rows += [f"  {name}: {_counts(counts)}" for name, counts in sorted(audit.by_cause.items())]
    rows += [f"  idle {number}: {one}" for number, one in enumerate(deployment.measurements)]
    return "\n".join(rows)


def _counts(counts: Counter[str] | Counter[int]) -> str:
    pairs: Iterable[tuple[object, int]] = counts.most_common()
    return ", ".join(f"{name or '-'} {count}" for name, count in pairs if count)
