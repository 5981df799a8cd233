"""Short names of models: what tables, plans and progress call them."""

from collections import Counter
from collections.abc import Sequence


def short_names(given: Sequence[str]) -> dict[str, str]:
    """By name as given, a path or `owner/name[@revision]`: its last part, with as many of those
    before it as it takes to tell all apart.
    """
    parts = {name: name.rstrip("/").split("/") or [name] for name in given}
    taken = dict.fromkeys(parts, 1)
    for _ in range(max(map(len, parts.values()))):
        short = {name: "/".join(every[-taken[name] :]) for name, every in parts.items()}
        counts = Counter(short.values())
        if max(counts.values()) == 1:
            return short
        for name, other in short.items():
            taken[name] += counts[other] > 1
    return {name: name for name in parts}
