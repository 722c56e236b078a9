import socket
import time

import huggingface_hub
import pytest
import timm
import torch
from timm.layers import grn

from balancer.errors import InputError
from classifier.models import backbones
from classifier.models.backbones import GlobalResponseNorm, timm_model, with_own_norms


def test_weights_of_a_hub_that_is_out_of_reach_are_refused_at_once(tmp_path, monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(backbones, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    begun = time.monotonic()
    with pytest.raises(InputError, match="published weights of resnet18 could not be fetched"):
        timm_model("resnet18", True, num_classes=3)
    assert time.monotonic() - begun < 10  # six tries of the client's take 30 seconds or more
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_global_response_norm_is_timms(channels_last: bool) -> None:
    torch.manual_seed(0)
    theirs = grn.GlobalResponseNorm(6, channels_last=channels_last)
    torch.nn.init.normal_(theirs.weight)
    torch.nn.init.normal_(theirs.bias)
    own = GlobalResponseNorm(theirs)
    x = torch.randn((3, 4, 5, 6) if channels_last else (3, 6, 4, 5), requires_grad=True)
    results = []
    for layer in (theirs, own):
        y = layer(x)
        found = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
        results.append([y, *found])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert own(x.bfloat16()).dtype == torch.bfloat16
    silent = torch.zeros_like(x, requires_grad=True)
    own(silent).sum().backward()
    assert silent.grad is not None and silent.grad.isfinite().all()


def test_own_norms_take_the_place_of_timms_under_their_names() -> None:
    theirs = timm.create_model("convnextv2_atto")
    names = list(theirs.state_dict())
    own = with_own_norms(theirs)
    assert list(own.state_dict()) == names
    assert not any(isinstance(m, grn.GlobalResponseNorm) for m in own.modules())
    assert sum(isinstance(m, GlobalResponseNorm) for m in own.modules()) == 12
