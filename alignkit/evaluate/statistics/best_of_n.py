"""What choosing the best of n by a reward gives, estimated without bias from one pool of N >= n samples per prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox

from alignkit.evaluate.statistics.statistics import Interval, paired_bootstrap
from alignkit.types.seeds import child


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Means over prompts at one n. kl: of best-of-n from the policy, log n - (n - 1) / n, an upper bound in nats."""

    n: int
    kl: float
    proxy: float
    proxy_interval: Interval
    gold: float | None = None
    gold_interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overoptimisation:
    """peak: the n with the best gold, chosen on half of the prompts. change: gold at the largest n minus gold at the
    peak, on the other half, so that the choice of the peak cannot make it negative. verdict: two fixed phrases."""

    peak: int
    last: int
    change: float
    interval: Interval

    @property
    def verdict(self) -> str:
        return "over-optimised" if self.interval.high < 0 else "no detectable over-optimisation"


def expected_best(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """Expected gold of the sample that `proxy` ranks first among n drawn without replacement from all N.

    Sum over ranks i of C(i - 1, n - 1) / C(N, n) * gold of rank i; samples that the proxy cannot tell apart are equally
    likely to be chosen. With gold = proxy it is the expected maximum. Raises ValueError unless 1 <= n <= N.
    """
    count = len(proxy)
    if not 1 <= n <= count or len(gold) != count:
        raise ValueError(f"wanted 1 <= n <= samples with one gold each; got {n=}, {count} samples, {len(gold)} golds")
    ranked, index, counts = np.unique(np.asarray(proxy, dtype=np.float64), return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=np.asarray(gold, dtype=np.float64), minlength=len(ranked)) / counts
    by_rank = np.repeat(means, counts)
    return float(rank_weights(count, n) @ by_rank)


def rank_weights(samples: int, n: int) -> np.ndarray:
    """Chance that the sample of each rank (lowest first) is the best of n drawn without replacement from `samples`."""
    weights = np.zeros(samples)
    weights[-1] = n / samples
    for rank in range(samples - 1, n - 1, -1):  # C(rank - 1, n - 1) = C(rank, n - 1) (rank - n + 1) / rank
        weights[rank - 1] = weights[rank] * (rank - n + 1) / rank
    return weights


def curve(
    pools: Sequence[tuple[Sequence[float], Sequence[float] | None]], sizes: Sequence[int], *, seed: int = 0
) -> list[Point]:
    """One point per n of `sizes`; pools: (proxy, gold or None) of each prompt's samples. Intervals: over prompts."""
    points = []
    for n in sizes:
        proxies = [expected_best(proxy, proxy, n) for proxy, _ in pools]
        golds = [expected_best(proxy, gold, n) for proxy, gold in pools if gold is not None]
        points.append(
            Point(
                n=n,
                kl=math.log(n) - (n - 1) / n,
                proxy=float(np.mean(proxies)),
                proxy_interval=paired_bootstrap(proxies, seed=seed),
                gold=float(np.mean(golds)) if golds else None,
                gold_interval=paired_bootstrap(golds, seed=seed) if golds else None,
            )
        )
    return points


def overoptimisation(
    pools: Sequence[tuple[Sequence[float], Sequence[float]]], sizes: Sequence[int], *, seed: int = 0
) -> Overoptimisation:
    """Whether gold falls again while the proxy is optimised. Raises ValueError for fewer than two prompts or sizes."""
    if len(pools) < 2 or len(sizes) < 2:
        raise ValueError(f"wanted at least two prompts and two sizes; got {len(pools)} and {len(sizes)}")
    gold = np.array([[expected_best(proxy, truth, n) for n in sizes] for proxy, truth in pools])
    order = Generator(Philox(key=child(seed, "overoptimisation"))).permutation(len(pools))
    choose, measure = gold[order[: len(pools) // 2]], gold[order[len(pools) // 2 :]]
    peak = int(np.argmax(choose.mean(axis=0)))
    differences = measure[:, -1] - measure[:, peak]
    return Overoptimisation(
        peak=sizes[peak],
        last=sizes[-1],
        change=float(differences.mean()),
        interval=paired_bootstrap(differences.tolist(), seed=seed),
    )


def fit_gold(points: Sequence[Point]) -> tuple[float, float] | None:
    """(alpha, beta) of gold(n) - gold(1) = d (alpha - beta d) with d = sqrt(kl) (Gao et al. 2210.10760); None without
    gold at three values of n, one of them 1."""
    known = {point.n: (math.sqrt(point.kl), point.gold) for point in points if point.gold is not None}
    if len(known) < 3 or 1 not in known:
        return None
    base = known[1][1]
    d = np.array([distance for distance, _ in known.values()])
    gain = np.array([gold - base for _, gold in known.values()])
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * d], axis=1), gain, rcond=None)
    return float(alpha), float(beta)
