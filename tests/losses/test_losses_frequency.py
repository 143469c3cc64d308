"""The probability that an item stands in a batch, counted and learned."""

import pytest
import torch
from torch import Tensor

from weft.losses import ExactFrequency, StreamingFrequency, together

COUNT = torch.tensor([0, 0, 500, 300, 120, 60, 15, 5])
BATCH = 8


def batches(steps: int, seed: int = 0) -> list[Tensor]:
    """Items drawn by their counts, several of a batch alike."""
    draw = torch.Generator().manual_seed(seed)
    return list(torch.multinomial(COUNT.float(), steps * BATCH, replacement=True, generator=draw).view(steps, BATCH))


def test_exact_is_one_less_the_probability_that_all_draws_miss() -> None:
    found = ExactFrequency(COUNT)(torch.arange(8), BATCH)
    slow = [1 - (1 - n / 1000) ** BATCH for n in COUNT.tolist()]
    torch.testing.assert_close(found, torch.tensor(slow))
    assert found[2] < 1
    rare = ExactFrequency(torch.tensor([1, 10**9]))(torch.tensor([0]), 1)
    assert rare.item() == pytest.approx(1e-9, rel=1e-3)


def test_streaming_finds_the_true_frequencies() -> None:
    streaming, items = StreamingFrequency(64, hashes=2, alpha=0.002, seed=1), torch.arange(2, 8)
    for batch in batches(6_000):
        streaming.observe(batch)
    torch.testing.assert_close(streaming(items, BATCH), ExactFrequency(COUNT)(items, BATCH), rtol=0.15, atol=0.0)


def test_streaming_follows_a_change_as_fast_as_alpha_says() -> None:
    streaming, always = StreamingFrequency(64, alpha=0.05), torch.tensor([3])
    for step in range(100):
        streaming.observe(always if step % 10 == 0 else torch.tensor([4]))
    assert streaming(always, 1).item() == pytest.approx(0.1, rel=0.3)
    for _ in range(200):
        streaming.observe(always)
    assert streaming(always, 1).item() == pytest.approx(1.0, rel=0.01)


def test_an_item_counts_once_a_batch_and_a_stranger_has_no_probability() -> None:
    streaming = StreamingFrequency(64)
    for _ in range(3):
        streaming.observe(torch.tensor([5, 5, 5]))
    assert streaming(torch.tensor([5, 9]), 3).tolist() == [1.0, 0.0]


def test_items_that_share_a_slot_are_told_apart_by_another_hash() -> None:
    """With one table some of twenty items in 32 slots look more frequent than they are, with four none does."""
    draw = torch.Generator().manual_seed(0)
    one, four = (StreamingFrequency(32, hashes=n, alpha=0.002, seed=3) for n in (1, 4))
    for _ in range(3_000):
        batch = torch.randint(2, 22, (1,), generator=draw)
        one.observe(batch)
        four.observe(batch)
    items = torch.arange(2, 22)
    assert one(items, 1).max() > 0.08
    assert four(items, 1).max() < 0.07


def test_the_state_carries_on() -> None:
    whole, first = StreamingFrequency(16), StreamingFrequency(16)
    stream = batches(60)
    for batch in stream[:30]:
        whole.observe(batch)
        first.observe(batch)
    second = StreamingFrequency(16)
    second.load_state_dict(first.state_dict())
    for batch in stream[30:]:
        whole.observe(batch)
        second.observe(batch)
    items = torch.arange(8)
    assert torch.equal(whole(items, BATCH), second(items, BATCH))
    assert set(whole.state_dict()) == {"step", "last_HS", "gap_HS", "met_HS"}


def test_together_is_the_probability_of_at_least_one() -> None:
    a, b = torch.tensor([0.2, 1.0, 0.0]), torch.tensor([0.5, 0.3, 0.0])
    torch.testing.assert_close(together(a, b), torch.tensor([0.6, 1.0, 0.0]))
    assert together(torch.tensor([1e-12]), torch.tensor([0.0])).item() == pytest.approx(1e-12)
