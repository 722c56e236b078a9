from __future__ import annotations

import pytest

from balancer.errors import InputError
from classifier.endpoints import Endpoint


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://a:b:c"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="URL is none"):
        Endpoint(url, "a")


def test_an_endpoint_needs_a_model_and_a_time() -> None:
    with pytest.raises(InputError, match="No model"):
        Endpoint("http://localhost/v1", " ")
    with pytest.raises(InputError, match="timeout of 0 s"):
        Endpoint("http://localhost/v1", "a", timeout=0)
