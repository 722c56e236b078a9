"""Weights that do not learn."""

from __future__ import annotations

import pytest
from torch import nn

from balancer.errors import InputError
from balancer.generators.freezing import freeze_blocks, held


def learning(modules: list[nn.Module]) -> list[bool]:
    return [all(p.requires_grad for p in module.parameters()) for module in modules]


def test_frozen_blocks_stay_frozen_when_a_held_network_is_let_go() -> None:
    layers = [nn.Linear(2, 2) for _ in range(4)]
    network = nn.Sequential(*layers)
    freeze_blocks([layers[:2], [layers[2]]], 1)
    assert learning(layers) == [False, False, True, True]
    with held(network):
        assert not any(p.requires_grad for p in network.parameters())
    assert learning(layers) == [False, False, True, True]
    with pytest.raises(RuntimeError), held(network):
        raise RuntimeError
    assert learning(layers) == [False, False, True, True]


@pytest.mark.parametrize("number", [-1, 3])
def test_more_blocks_than_there_are_is_a_sentence(number: int) -> None:
    with pytest.raises(InputError, match=f"has 2 blocks that can be frozen, not {number}"):
        freeze_blocks([[nn.Linear(2, 2)], [nn.Linear(2, 2)]], number)
