import numpy as np

from benchmarks.imaging.labels import flip


def test_flips_change_as_many_labels_as_said_and_reach_every_other_class():
    labels = np.repeat([0, 1, 2], 100)
    given, flipped = flip(labels, 60, 3, np.random.default_rng(0))
    assert flipped.sum() == 60 and (given != labels).tolist() == flipped.tolist()
    assert {(a, b) for a, b in zip(labels[flipped], given[flipped], strict=True)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }
