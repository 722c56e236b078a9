"""The device that is chosen."""

from __future__ import annotations

import pytest
import torch

from balancer.devices import choose_device, computes_bfloat16
from balancer.errors import InputError


def test_the_best_device_or_the_one_asked_for():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_an_absent_device_is_a_sentence(name):
    with pytest.raises(InputError, match=f"There is no device '{name}' here"):
        choose_device(name)


def test_bfloat16_is_not_used_where_it_is_unknown():
    assert computes_bfloat16("meta") is False
