"""What is printed of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.soak.soak import Deployment, Soak


def report(soak: Soak) -> str:
    """All of a run, for people; complaints last."""
    parts = [
        f"seed {soak.plan.seed}, {soak.plan.seconds:g} s of load, in {len(soak.plan.cycles)} cycles"
    ]
    parts += [_of(deployment) for deployment in soak.deployments]
    complaints = soak.complaints
    parts.append("\n".join(complaints) if complaints else "Nothing is wrong.")
    return "\n\n".join(parts)


def _of(deployment: Deployment) -> str:
    accounts = deployment.accounts
    rows = [
        f"{deployment.where}: {len(accounts.calls)} requests, {deployment.process.number} process(es)",
        f"  ended: {_counts(accounts.outcomes)}",
        f"  wrong answers: {accounts.wrong}, hidden truncations: {accounts.hidden}",
        f"  statuses: {_counts(accounts.statuses)}",
        f"  clients: {_counts(accounts.kinds)}",
        f"  Cache-Status: {_counts(accounts.caches)}",
    ]
    rows += [f"  {name}: {_counts(counts)}" for name, counts in sorted(accounts.struck.items())]
    rows += [f"  at rest {number}: {one}" for number, one in enumerate(deployment.measured)]
    return "\n".join(rows)


def _counts(counts: Counter[str] | Counter[int]) -> str:
    pairs: Iterable[tuple[object, int]] = counts.most_common()
    return ", ".join(f"{name or '-'} {count}" for name, count in pairs if count)
