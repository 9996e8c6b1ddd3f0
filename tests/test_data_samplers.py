import pickle
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lafr_data.samplers import Draw, ResumableSampler, item_generator


class Numbers(Dataset):
    """Items that tell their index and a random number of their own generator."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        value = item_generator(self.seed, index).random()
        return torch.tensor([index, value], dtype=torch.float64)


def epoch_of(sampler: ResumableSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return [(int(index), index.draw) for index in sampler]


def test_draw_survives_pickling_as_an_index():
    draw = pickle.loads(pickle.dumps(Draw(3, 17)))
    assert (draw, draw.draw, "abcd"[draw]) == (3, 17, "d")


def test_epoch_covers_the_data_and_every_draw_is_new():
    sampler = ResumableSampler(Numbers(10), ratio=3)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert len(first) == len(sampler) == 30
    assert set(Counter(index for index, _ in first).values()) == {3}
    assert [index for index, _ in first] != [index for index, _ in second]
    assert len({draw for _, draw in first + second}) == 60
    assert epoch_of(sampler, 0) == first


def test_processes_share_an_epoch_evenly():
    ranks = [epoch_of(ResumableSampler(Numbers(11), 2, rank), 4) for rank in range(2)]
    assert [len(part) for part in ranks] == [6, 6]
    draws = [draw for part in ranks for _, draw in part]
    assert sorted(draws) == list(range(4 * 12, 5 * 12))
    assert {index for part in ranks for index, _ in part} == set(range(11))


@pytest.mark.parametrize(("replicas", "rank"), [(1, 0), (2, 1)])
def test_skip_continues_where_a_run_stopped(replicas: int, rank: int):
    whole = ResumableSampler(Numbers(10), replicas, rank, ratio=2)
    resumed = ResumableSampler(Numbers(10), replicas, rank, ratio=2)
    resumed.skip(1, 3)
    assert epoch_of(resumed, 1) == epoch_of(whole, 1)[3:]
    assert epoch_of(resumed, 2) == epoch_of(whole, 2)
    resumed.skip(1, len(whole))
    assert epoch_of(resumed, 1) == []


def test_order_depends_on_the_seed():
    assert epoch_of(ResumableSampler(Numbers(50, seed=0)), 0) != epoch_of(ResumableSampler(Numbers(50, seed=1)), 0)


def test_loader_gives_the_same_items_with_any_number_of_workers():
    """Also with workers that live through epochs, which copies of the dataset could not follow by themselves."""
    epochs = []
    for workers in (0, 2):
        sampler = ResumableSampler(Numbers(8), ratio=2)
        loader = DataLoader(
            Numbers(8), batch_size=4, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
        )
        items = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            items.append(torch.cat(list(loader)))
        epochs.append(torch.stack(items))
    assert torch.equal(epochs[0], epochs[1])
    assert len(epochs[0][..., 1].unique()) == 32  # no random number twice, in or between epochs


def test_plain_index_is_repeatable():
    dataset = Numbers(5)
    assert torch.equal(dataset[2], dataset[2])
    assert torch.equal(dataset[2], dataset[Draw(2, 0)])
    assert not torch.equal(dataset[2], dataset[Draw(2, 1)])
