"""Off-policy estimates by hand, and on a log of bandits whose answers are known."""

from collections.abc import Callable

import numpy as np
import pytest

from weft.metrics import Interval, bootstrap_mean, clipped, effective_rows, examination, importance_weight, ips, snips

REWARD = np.array([1.0, 0.0, 1.0, 0.0])
TARGET = np.array([0.5, 0.5, 0.1, 0.0])
PROPENSITY = np.array([0.25, 0.5, 0.2, 0.8])
WEIGHT = np.array([2.0, 1.0, 0.5, 0.0])


def test_weights_by_hand() -> None:
    np.testing.assert_allclose(importance_weight(TARGET, PROPENSITY), WEIGHT)


def test_estimates_by_hand() -> None:
    assert ips(REWARD, WEIGHT, seed=0).value == pytest.approx(2.5 / 4)
    assert snips(REWARD, WEIGHT, seed=0).value == pytest.approx(2.5 / 3.5)
    assert ips(REWARD, clipped(WEIGHT, 1.0), seed=0).value == pytest.approx(1.5 / 4)
    assert effective_rows(WEIGHT) == pytest.approx(3.5**2 / 5.25)


def test_the_logging_policy_itself_is_worth_its_mean_reward() -> None:
    same = importance_weight(PROPENSITY, PROPENSITY)
    want = bootstrap_mean(REWARD, seed=3)
    assert ips(REWARD, same, seed=3) == snips(REWARD, same, seed=3) == want
    assert effective_rows(same) == 4


def test_a_factor_common_to_all_weights_changes_ips_only() -> None:
    assert snips(REWARD, 3 * WEIGHT, seed=1).value == pytest.approx(snips(REWARD, WEIGHT, seed=1).value)
    assert ips(REWARD, 3 * WEIGHT, seed=1).value == pytest.approx(3 * ips(REWARD, WEIGHT, seed=1).value)


def test_snips_stays_within_the_rewards_and_ips_need_not() -> None:
    weight = np.array([9.0, 9.0, 9.0, 1.0])
    reward = np.ones(4)
    assert snips(reward, weight, seed=0) == (1.0, 1.0, 1.0, 4)
    assert ips(reward, weight, seed=0).value == 7.0


def log_of_bandits(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """Contexts of two kinds, three actions, a logging policy of known probabilities; the other policy's worth is known.

    Click probabilities by context and action; the target plays the better of the first two with probability 0.8.
    """
    draw = np.random.default_rng(seed)
    click = np.array([[0.30, 0.05, 0.10], [0.02, 0.20, 0.10]])
    logging = np.array([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3]])
    target = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    context = draw.integers(2, size=rows)
    action = (draw.random(rows)[:, None] > logging[context].cumsum(1)).sum(1)
    reward = (draw.random(rows) < click[context, action]).astype(np.float64)
    worth = float((click * target).sum(1).mean())
    return reward, target[context, action], logging[context, action], np.array(worth)


def test_estimates_find_the_worth_of_a_policy_that_logged_nothing() -> None:
    reward, target, propensity, worth = log_of_bandits(200_000, seed=5)
    weight = importance_weight(target, propensity)
    assert abs(reward.mean() - worth) > 0.05, "the mean of the log is another policy's"
    for found in (ips(reward, weight, seed=0, resamples=200), snips(reward, weight, seed=0, resamples=200)):
        assert found.value == pytest.approx(worth, abs=0.005)
        assert found.low < worth < found.high
        assert found.high - found.low < 0.01
    low = ips(reward, clipped(weight, 1.0), seed=0, resamples=200)
    assert low.high < worth, "clipping misses on purpose, downwards"


@pytest.mark.parametrize("estimate", [ips, snips])
def test_intervals_cover_the_worth_as_often_as_they_say(estimate: Callable[..., Interval]) -> None:
    covered = 0
    for seed in range(60):
        reward, target, propensity, worth = log_of_bandits(2_000, seed)
        found = estimate(reward, importance_weight(target, propensity), seed=seed, resamples=200)
        covered += found.low <= worth <= found.high
    assert covered >= 52


def test_rows_of_one_request_are_drawn_together() -> None:
    reward, weight = np.repeat([1.0, 0.0], 50), np.ones(100)
    request = np.repeat(np.arange(20), 5)
    alone, together = ips(reward, weight, seed=0), ips(reward, weight, request, seed=0)
    assert together.value == alone.value == 0.5
    assert together.count == 20
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert snips(reward, weight, request, seed=0) == together


def test_the_same_seed_gives_the_same_interval() -> None:
    reward, target, propensity, _ = log_of_bandits(300, seed=1)
    weight = importance_weight(target, propensity)
    assert ips(reward, weight, seed=7) == ips(reward, weight, seed=7)
    assert ips(reward, weight, seed=7) != ips(reward, weight, seed=8)


def test_nothing_shown_by_both_policies_is_no_estimate() -> None:
    nothing = snips(REWARD, np.zeros(4), seed=0)
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.low)
    assert np.isnan(effective_rows(np.zeros(4)))
    assert ips(REWARD, np.zeros(4), seed=0).value == 0


def test_examination_is_the_ratio_of_shares_by_hand() -> None:
    label = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    position = np.array([1, 1, 1, 1, 2, 2, 4, 4])
    found = examination(label, position, seed=0)
    np.testing.assert_allclose([i.value for i in found], [1, 0.5 / 0.75, np.nan, 0])
    assert [i.count for i in found] == [4, 2, 0, 2]
    assert found[0].low == found[0].high == 1


def test_random_orders_give_the_curve_and_ordered_ones_do_not() -> None:
    draw = np.random.default_rng(0)
    relevance = draw.uniform(0.2, 0.9, (8_000, 4))
    seen = np.array([1.0, 0.6, 0.4, 0.2])
    for sort, right in ((False, True), (True, False)):
        shown = -np.sort(-relevance, axis=1) if sort else relevance
        click = draw.random(shown.shape) < shown * seen
        place = np.broadcast_to(np.arange(1, 5), shown.shape)
        found = examination(click.ravel(), place.ravel(), seed=1)
        assert all(i.low < s < i.high for i, s in zip(found[1:], seen[1:], strict=True)) == right
        np.testing.assert_allclose([i.value for i in found], seen, atol=0.03 if right else 1)
        assert (abs(found[3].value - seen[3]) < 0.03) == right


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: importance_weight(TARGET, np.array([0.5, 0.0, 0.5, 0.5])), r"`propensity` must lie above 0.*row 1"),
        (lambda: importance_weight(TARGET * 3, PROPENSITY), r"`target` must lie in 0..1, got 1.5 at row 0"),
        (lambda: importance_weight(TARGET[:2], PROPENSITY), "`target` has 2, `propensity` has 4"),
        (lambda: clipped(WEIGHT, 0.0), "`most` must be above 0, got 0.0"),
        (lambda: ips(REWARD, -WEIGHT, seed=0), r"`weight` must be 0 or more, got -2.0 at row 0"),
        (lambda: snips(REWARD, WEIGHT[:3], seed=0), "`reward` has 4, `weight` has 3"),
        (lambda: ips(REWARD, WEIGHT, np.zeros(3), seed=0), "`group` has 3, `reward` has 4"),
        (lambda: examination(REWARD, np.array([1, 2, 0, 1]), seed=0), "`position` must be whole numbers from 1"),
        (lambda: examination(REWARD, np.array([1, 2]), seed=0), "`label` has 4, `position` has 2"),
    ],
)
def test_bad_arguments_are_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
