from __future__ import annotations

from balancer.errors import InputError, unknown_name


def test_nearest_name_is_suggested_whatever_its_case() -> None:
    message = str(unknown_name("class", "Monocite", ["basophil", "MONOCYTE"]))
    assert "Did you mean 'MONOCYTE'?" in message and "basophil, MONOCYTE" in message


def test_no_suggestion_where_nothing_is_near() -> None:
    assert "Did you mean" not in str(unknown_name("class", "xyz", ["basophil"]))
    assert "known: none" in str(unknown_name("class", "xyz", []))


def test_it_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
