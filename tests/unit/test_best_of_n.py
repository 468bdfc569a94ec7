"""The subset estimator against enumeration, and over-optimisation that is there and that is not."""

import math
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.evaluate.statistics.best_of_n import curve, expected_best, fit_gold, overoptimisation, rank_weights
from alignkit.ops import ensemble

small = st.lists(st.integers(-3, 3), min_size=1, max_size=7)


def test_by_hand():
    """Proxies 1 2 3 with golds 10 0 5: of the pairs (1,2) (1,3) (2,3) the best are 2, 3, 3."""
    assert expected_best([1, 2, 3], [10, 0, 5], 1) == pytest.approx(5)
    assert expected_best([1, 2, 3], [10, 0, 5], 2) == pytest.approx((0 + 5 + 5) / 3)
    assert expected_best([3, 1, 2], [5, 10, 0], 3) == 5
    assert expected_best([1, 1], [0, 1], 2) == 0.5


@given(small, st.data())
def test_it_is_the_mean_over_all_subsets(proxy, data):
    gold = data.draw(st.lists(st.integers(-5, 5), min_size=len(proxy), max_size=len(proxy)))
    n = data.draw(st.integers(1, len(proxy)))
    chosen = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        chosen.append(fmean(gold[i] for i in subset if proxy[i] == top))
    # a tie within a subset is decided among its own members, which over all subsets is the mean of the tied ones
    assert expected_best(proxy, gold, n) == pytest.approx(fmean(chosen))
    assert expected_best(proxy, proxy, n) <= max(proxy) + 1e-12


@pytest.mark.parametrize("samples", [1, 2, 10, 1000])
def test_weights_are_binomial_ratios_and_sum_to_one(samples):
    for n in {1, 2, samples // 2, samples} - {0} if samples > 1 else {1}:
        weights = rank_weights(samples, n)
        assert weights.sum() == pytest.approx(1)
        rank = max(n, samples - 1)
        assert weights[rank - 1] == pytest.approx(math.comb(rank - 1, n - 1) / math.comb(samples, n))


def test_sizes_outside_the_pool_are_errors():
    for n in (0, 4):
        with pytest.raises(ValueError, match="1 <= n <= samples"):
            expected_best([1, 2, 3], [1, 2, 3], n)


def pools(prompts, *, flaw, seed=0):
    """Gold is normal. The proxy adds noise and, with `flaw`, a bonus that few and bad answers get."""
    random = np.random.Generator(np.random.Philox(key=seed))
    gold = random.normal(size=(prompts, 256))
    hacked = (random.random(size=gold.shape) < 0.01) & flaw
    gold = np.where(hacked, gold - 3, gold)
    proxy = gold + 0.5 * random.normal(size=gold.shape) + 9 * hacked
    return [(p.tolist(), g.tolist()) for p, g in zip(proxy, gold, strict=True)]


def test_a_hackable_proxy_is_caught_and_an_honest_one_is_not():
    sizes = [1, 4, 16, 64, 256]
    hacked, honest = pools(60, flaw=True), pools(60, flaw=False)
    found = overoptimisation(hacked, sizes)
    assert (found.verdict, found.last) == ("over-optimised", 256)
    assert 4 <= found.peak <= 16
    assert overoptimisation(honest, sizes).verdict == "no detectable over-optimisation"
    alpha, beta = fit_gold(curve(hacked, sizes))
    assert alpha > 0
    assert beta > 0
    points = curve(honest, sizes)
    assert [point.gold for point in points] == sorted(point.gold for point in points)
    assert points[0].kl == 0
    assert points[-1].kl == pytest.approx(math.log(256) - 255 / 256)
    assert points[-1].gold_interval.low < points[-1].gold < points[-1].gold_interval.high


def test_a_curve_without_gold_has_none():
    [point] = curve([([1.0, 2.0], None)], [2])
    assert (point.proxy, point.gold, point.gold_interval) == (2, None, None)
    assert fit_gold([point]) is None
    with pytest.raises(ValueError, match="two prompts"):
        overoptimisation([([1.0], [1.0])], [1, 2])


@pytest.mark.parametrize("reducer", ["worst", "mean_minus_variance"])
def test_a_pessimistic_ensemble_repairs_what_a_single_proxy_does_to_gold_unless_all_share_the_flaw(reducer):
    """Five proxies, each of which overrates its own 1 % of the answers, which are bad ones. The fitted curve turns
    down for one proxy and not for the ensemble, in each of 5 seeds (one-sided sign test: p = 1/32)."""
    sizes = [1, 4, 16, 64, 256]
    for seed in range(5):
        random = np.random.Generator(np.random.Philox(key=seed))
        gold = random.normal(size=(40, 256))
        own = random.random(size=(5, *gold.shape)) < 0.01
        gold = np.where(own.any(0), gold - 2, gold)
        noise = 0.3 * random.normal(size=own.shape)
        verdicts, betas = [], []
        for flaws in (own, np.broadcast_to(own[:1], own.shape)):
            members = torch.from_numpy(gold + noise + 8 * flaws)
            for proxy in (members[0], ensemble.reduce(members, reducer, weight=0.5)):
                pools = [(p.tolist(), g.tolist()) for p, g in zip(proxy.numpy(), gold, strict=True)]
                verdicts.append(overoptimisation(pools, sizes, seed=seed).verdict == "over-optimised")
                betas.append(fit_gold(curve(pools, sizes))[1])
        assert verdicts == [True, False, True, True], f"single, ensemble, shared single, shared ensemble; seed {seed}"
        assert betas[0] > 2 * abs(betas[1])
