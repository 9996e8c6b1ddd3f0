"""MapMemory: memory is used again, but never while a tensor has it."""

from __future__ import annotations

import gc
import threading

import torch

from lafr_arch.map_memory import SMALL, MapMemory

SHAPE = (2, SMALL // 4)  # 2 MB in fp32


def test_memory_comes_back_when_the_last_tensor_is_gone():
    memory = MapMemory()
    first = memory.empty(SHAPE, torch.float32)
    assert (first.shape, first.dtype, first.is_contiguous(), first.data_ptr() % 64) == (SHAPE, torch.float32, True, 0)
    place = first.data_ptr()
    part = first.view(-1)[1:]
    del first
    assert memory.empty(SHAPE, torch.float32).data_ptr() != place, "a view still has it"
    del part
    assert place in {tensor.data_ptr() for tensor in (memory.empty(SHAPE, torch.float32) for _ in range(2))}


def test_tensors_in_use_never_share():
    memory, held = MapMemory(), []
    for index in range(200):
        tensor = memory.empty((SMALL // 4 + 1000 * (index % 7),), torch.float32)
        tensor.fill_(index)
        held.append((index, tensor))
        if len(held) > 5:
            value, oldest = held.pop(index % 5)
            assert (oldest == value).all()
            del oldest
    assert all((tensor == value).all() for value, tensor in held)


def test_a_block_serves_half_its_size_but_not_less():
    memory = MapMemory()
    place = memory.empty((4 * SMALL,), torch.uint8).data_ptr()
    assert memory.empty((SMALL,), torch.uint8).data_ptr() != place
    assert memory.empty((2 * SMALL,), torch.bfloat16).data_ptr() == place


def test_what_nobody_asks_for_is_given_back():
    memory = MapMemory(patience=3)
    memory.empty((100 * SMALL,), torch.uint8)
    assert memory.free_bytes > 100 * SMALL
    for _ in range(4):
        memory.empty((SMALL,), torch.uint8)
    assert memory.free_bytes < 3 * SMALL


def test_small_tensors_are_torchs_own():
    memory = MapMemory()
    assert memory.empty((3, 4), torch.bfloat16).shape == (3, 4)
    gc.collect()
    assert memory.free_bytes == 0


def test_threads():
    memory, wrong = MapMemory(), []

    def work(value: int) -> None:
        for _ in range(50):
            tensor = memory.empty(SHAPE, torch.float32).fill_(value)
            wrong.extend([value] * int((tensor != value).any()))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
