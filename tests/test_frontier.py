import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlem_jax import frontier as fr

# Few different numbers, so that equal costs and equal errors are common.
COSTS = st.sampled_from([1.0, 2.0, 3.0, 5.0])
ERRORS = st.sampled_from([0.1, 0.2, 0.5, 1.0, math.nan])
runs = st.lists(st.tuples(COSTS, ERRORS), min_size=1, max_size=8)


@given(runs, st.randoms())
def test_the_order_of_runs_changes_nothing(points, random):
    shuffled = random.sample(points, len(points))
    assert fr.frontier(points) == fr.frontier(shuffled)
    if fr.frontier(points):
        wanted = [0.05, 0.1, 0.15, 0.3, 1.0, 2.0]
        np.testing.assert_array_equal(*(fr.cost_range(own, wanted) for own in (points, shuffled)))
        assert fr.ratio(points, shuffled) == fr.ratio(shuffled, points)


@given(runs)
def test_on_a_frontier_is_what_no_other_run_beats(points):
    known = [point for point in points if not math.isnan(point[1])]

    def beaten(point):
        return any(c <= point[0] and e <= point[1] and (c, e) != point for c, e in known)

    assert fr.frontier(points) == sorted({point for point in known if not beaten(point)})


def test_of_runs_of_equal_cost_the_better_one_counts():
    for first, second in ((3, 1), (1, 3)):
        runs = [(100, 4), (150, first), (150, second), (200, 0.5)]
        found = fr.cost_range(runs, [2.0])
        np.testing.assert_allclose(found, np.full((2, 1), (100 * 150) ** 0.5), rtol=1e-12)


def test_cost_at_an_error_follows_a_power_law_and_skips_what_does_not_pay():
    costs = np.array([10.0, 40.0, 20.0, 30.0])
    errors = 7.0 * costs**-1.5
    wanted = 7.0 * np.array([15.0, 35.0]) ** -1.5
    found = fr.cost_range(list(zip(costs, errors, strict=True)), wanted)
    np.testing.assert_allclose(found, [[15.0, 35.0]] * 2, rtol=1e-12)
    errors[2] = 1.0  # At cost 20 it fails: the runs at 10 and 30 remain.
    found = fr.cost_range(list(zip(costs, errors, strict=True)),
                          7.0 * np.array([10.0, 30.0]) ** -1.5)  # fmt: skip
    np.testing.assert_allclose(found, [[10.0, 30.0]] * 2)


def test_a_ratio_of_costs_is_taken_at_equal_error():
    own = [(10.0, 1e-2), (40.0, 1e-3)]
    assert fr.ratio(own, own) == pytest.approx((1, 1, 2, 2))
    costlier = [(cost * 3, error) for cost, error in own]
    assert fr.ratio(own, costlier) == pytest.approx((3, 3, 2, 2))
    assert fr.ratio(own, []) is None
    assert fr.ratio([], own) is None


def test_a_bound_is_a_bound():
    own = [(20.0, 1e-2), (40.0, 1e-3)]
    # Better at its cheapest run than the method anywhere: at most 10 / 20 and 10 / 40.
    better = fr.ratio(own, [(10.0, 1e-5), (40.0, 1e-6)])
    assert better == (0, 0.375, 0, 2)
    assert (fr.bound(better), fr.told_ratio(better)) == ("at most", "<= 0.38, 0 of 2")
    # As good nowhere: it would cost at least 60 / 20 and 60 / 40.
    worse = fr.ratio(own, [(60.0, 1.0)])
    assert worse == (2.25, math.inf, 0, 2)
    assert (fr.bound(worse), fr.told_ratio(worse)) == ("at least", ">= 2.25, 0 of 2")
    # A median of one that is measured, 3, and one that is at most 2 lies between 1.5 and 2.5.
    mixed = fr.ratio([(20.0, 1e-1), (40.0, 1e-3)], [(40.0, 1e-2), (120.0, 1e-3)])
    assert mixed == pytest.approx((1.5, 2.5, 1, 2))
    assert (fr.bound(mixed), fr.told_ratio(mixed)) == ("between", "1.50 to 2.50, 1 of 2")
    # The middle one of three is measured: the bounds on either side of it do not matter.
    three = fr.ratio([(20.0, 1.0), (20.0, 1e-2), (20.0, 1e-9)], [(20.0, 1e-2), (40.0, 1e-3)])
    assert three == pytest.approx((1, 1, 1, 3))
    assert fr.bound(three) == "measured"


def test_a_run_that_ended_at_no_number_is_worse_than_any():
    other = [(10.0, 1e-2), (20.0, 1e-3)]
    assert fr.ratio([(5.0, math.nan)], other) == (0, 2, 0, 1)
    with pytest.raises(ValueError, match="expected runs of positive cost and error"):
        fr.ratio(other, [(5.0, math.nan)])
    with pytest.raises(ValueError, match="expected runs of positive cost and error"):
        fr.cost_range([(1.0, 1.0), (2.0, 0.0)], [0.5])


@given(runs, runs, st.floats(0.05, 2), st.floats(0.01, 100))
def test_a_costlier_rival_is_never_the_cheaper_one(own, other, more, factor):
    other = [(cost, error) for cost, error in other if not math.isnan(error)] or [(1.0, 1.0)]
    found = fr.ratio(own, other)
    assert found.low <= found.high
    costlier = fr.ratio(own, [(cost * (1 + more), error) for cost, error in other])
    assert costlier.low >= found.low
    assert costlier.high >= found.high
    # Nor does it depend on the unit of either.
    same = fr.ratio([(c * factor, e) for c, e in own], [(c * factor, e) for c, e in other])
    np.testing.assert_allclose(same, found, rtol=1e-9)


def test_an_interval_is_open_where_resamples_are_bounds():
    def resampled(low, high):
        return [fr.Ratio(2.0, 2.0, 1, 1)] * 90 + [fr.Ratio(low, high, 0, 1)] * 10

    assert fr.middle(resampled(2.0, 2.0)) == (2, 2)
    assert fr.middle(resampled(0.0, 3.0)) == (0, 3)
    assert fr.middle(resampled(1.0, math.inf)) == (1, math.inf)
    assert fr.middle([None]) is None
    measured = fr.Ratio(2.0, 2.0, 3, 6)
    assert fr.told_ratio(measured, (1.5, 2.25)) == "2.00 (1.50-2.25), 3 of 6"
    assert fr.told_ratio(measured, (0.0, 3.0)) == "2.00 (<= 3.00), 3 of 6"
    assert fr.told_ratio(measured, (1.0, math.inf)) == "2.00 (>= 1.00), 3 of 6"
    assert fr.told_ratio(measured, (0.0, math.inf)) == "2.00 (?), 3 of 6"
    assert fr.told_ratio(None) == "-"
