import pytest

from classifier.report.html import interval, number, p_value, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (12345, "12 345"),
        (3.0, "3"),
        (0.01234, "0.0123"),
        (-0.002, "−0.0020"),
        (0.8123, "0.812"),
        (112.44, "112.4"),
        ([0.01, 0.2], "0.0100 to 0.200"),
        ("pass", "pass"),
    ],
)
def test_numbers_are_written_for_a_reader(value, text):
    assert number(value) == text


def test_differences_intervals_and_p_values():
    assert signed(-0.0044) == "−0.004" and signed(0.012) == "+0.012"
    assert interval([0.1, 0.95]) == "0.100–0.950"
    assert p_value(0.0004) == "< 0.001" and p_value(0.031) == "0.031"
