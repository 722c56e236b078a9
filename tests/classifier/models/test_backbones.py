import socket
import time

import huggingface_hub
import pytest

from balancer.errors import InputError
from classifier.models import backbones
from classifier.models.backbones import timm_model


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
