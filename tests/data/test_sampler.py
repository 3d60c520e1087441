"""Which images come in which step."""

import numpy as np
import pytest

from utils.data.sampler import Key, StepSampler


def test_an_epoch_shows_each_image_once_and_the_next_another_order() -> None:
    sampler = StepSampler(20, 4, (64, 32), seed=1)
    orders = []
    for sampler.epoch in (0, 1):
        keys = [key for batch in sampler for key in batch]
        assert sorted(key.index for key in keys) == list(range(20))
        assert [key.position for key in keys] == list(range(20))
        assert {(key.epoch, key.width, key.height) for key in keys} == {(sampler.epoch, 64, 32)}
        orders.append([key.index for key in keys])
    assert orders[0] != orders[1]


def test_it_goes_on_in_the_middle() -> None:
    sampler = StepSampler(22, 4, (64, 64))
    whole = list(sampler)
    assert len(whole) == len(sampler) == sampler.steps == 5
    sampler.start = 3
    assert list(sampler) == whole[3:] and len(sampler) == 2


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_what_one_process_would_see(world: int) -> None:
    one = StepSampler(25, 6, (64, 64), seed=5)
    ranks = [StepSampler(25, 6 // world, (64, 64), 5, rank, world) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(one)}
    for together, *shares in zip(one, *ranks, strict=True):
        assert [key for share in shares for key in share] == together


def test_few_images_make_one_smaller_batch() -> None:
    assert [len(batch) for batch in StepSampler(3, 16, (64, 64))] == [3]


def test_rectangles_batch_images_of_one_shape() -> None:
    sizes = np.array([[416, 320], [320, 416]] * 8)
    batches = list(StepSampler(16, 4, (416, 416), sizes=sizes))
    seen = [(key.width, key.height) for batch in batches for key in batch]
    for batch in batches:
        assert {tuple(sizes[key.index]) for key in batch} == {(batch[0].width, batch[0].height)}
    assert sorted(seen) == sorted(map(tuple, sizes.tolist()))


def test_multi_scale_stays_in_its_bounds() -> None:
    sampler = StepSampler(200, 2, (416, 224), multiple=32)
    sizes = {(batch[0].width, batch[0].height) for batch in sampler}
    assert len(sizes) > 8 and all(w % 32 == 0 and h % 32 == 0 for w, h in sizes)
    assert min(w for w, _ in sizes) >= 208 - 16 and max(w for w, _ in sizes) <= 624 + 16
    assert sampler.largest == (640, 320)  # 624 and 336 to the multiple
    assert all(608 >= w >= 192 and 320 >= h >= 96 for w, h in sizes)
    assert np.mean([w for w, _ in sizes]) == pytest.approx(416, rel=0.05)  # as much smaller as larger
    assert isinstance(next(iter(sampler))[0], Key)


def test_the_largest_input_is_the_size_itself() -> None:
    assert StepSampler(4, 2, (416, 224)).largest == (416, 224)
