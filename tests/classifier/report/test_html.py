import pytest

from classifier.report.html import count, footnotes, interval, measured, p_value, signed, verdict


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("fid", 418.9377, "418.9"),
        ("kid", -0.00011, "−0.0001"),
        ("recall", 0.0, "0.000"),
        ("density", 1.1932, "1.193"),
        ("kid", [-0.0012, 0.001], "−0.0012 to 0.0010"),
        ("fid", None, "–"),
    ],
)
def test_metrics_are_written_with_their_decimals(metric, value, text):
    assert measured(metric, value) == text


def test_counts_differences_intervals_and_p_values():
    assert count(580) == "580" and count(12345) == "12\N{NARROW NO-BREAK SPACE}345"
    assert signed(-0.0044) == "−0.004" and signed(0.012) == "+0.012"
    assert interval([0.1, 0.95]) == "0.100–0.950"
    assert p_value(0.0004) == "< 0.001" and p_value(0.031) == "0.031"


@pytest.mark.parametrize(
    ("helped", "primary", "synthetic", "text"),
    [
        (True, {"a": "gan"}, [{"counts": {"ig": 3}}], "helped"),
        (False, {"a": "gan"}, [{"counts": {"ig": 3}}], "did not help"),
        (None, {"a": "gan"}, [{"counts": {"ig": 3}}], "undecided"),
        (None, None, [], "not tested: no synthetic images given"),
        (None, None, [{"counts": {}}], "not tested: no synthetic image passed the gate"),
        (None, None, [{"counts": {}}, {"counts": {"ig": 3}}], "not tested: the arm gan was not run"),
    ],
)
def test_the_heading_says_why_nothing_was_tested(helped, primary, synthetic, text):
    report = {"conclusion": {"helped": helped, "primary": primary}, "study": {"synthetic": synthetic}}
    assert verdict(report) == text


def test_equal_notes_share_a_footnote():
    def judged(label, held):
        notes = {
            "kid": f"Of 300 and 200. Compared with {held} images.",
            "fid": "Mean over draws.",
            "recall": "Mean over draws.",
            "label_agreement": f"Share that a probe takes for {label}; beside it 300.",
            "copies": None,
        }
        return {
            "reasons": ["KID lies above.", f"Compared with {held} images."],
            "metrics": {metric: {"note": note} for metric, note in notes.items()},
        }

    notes, numbers = footnotes({"classes": {"ig": judged("ig", 721), "monocyte": judged("monocyte", 813)}})
    assert notes == [
        "Of 300 and 200.",
        "Mean over draws.",
        "Share that a probe takes for the class; beside it 300.",
    ]
    assert {metric: n for (label, metric), n in numbers.items() if label == "ig"} == {
        "kid": 1,
        "fid": 2,
        "recall": 2,
        "label_agreement": 3,
    }
    assert all(numbers["ig", metric] == numbers["monocyte", metric] for metric in ("kid", "fid", "recall"))
