import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

from classifier import evaluation
from classifier.evaluation import contrast, holm


def _predictions(seed=0, n=80, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    predicted = np.where(rng.random((2, 3, n)) < 0.7, labels, rng.integers(0, classes, (2, 3, n)))
    return labels, predicted


def test_metrics_are_those_of_scikit_learn():
    labels, predicted = _predictions()
    predicted[0, 0][predicted[0, 0] == 2] = 1  # a class that is never predicted
    matrix = evaluation.confusion(labels, predicted, 4)
    assert matrix.shape == (2, 3, 4, 4)
    for arm in range(2):
        for seed in range(3):
            found, here = predicted[arm, seed], matrix[arm, seed]
            kwargs = {"average": None, "zero_division": 0}
            np.testing.assert_array_equal(here, confusion_matrix(labels, found))
            np.testing.assert_allclose(evaluation.recall(here), recall_score(labels, found, **kwargs))
            np.testing.assert_allclose(evaluation.precision(here), precision_score(labels, found, **kwargs))
            np.testing.assert_allclose(evaluation.f1(here), f1_score(labels, found, **kwargs))
            assert evaluation.score(here, "macro_f1") == pytest.approx(
                f1_score(labels, found, average="macro")
            )
            assert evaluation.score(here, "balanced_accuracy") == pytest.approx(
                balanced_accuracy_score(labels, found)
            )


def test_the_mean_is_over_the_classes_that_occur():
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([0, 2, 1, 1])
    matrix = evaluation.confusion(labels, predicted, 3)
    assert evaluation.score(matrix, "macro_f1") == pytest.approx((2 / 3 + 1) / 2)
    assert evaluation.score(matrix, "balanced_accuracy") == pytest.approx(0.75)


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
def test_gradient_is_that_of_finite_differences(metric):
    labels, predicted = _predictions()
    matrix = evaluation.confusion(labels, predicted[0, 0], 4).astype(float)
    slopes = evaluation.gradient(matrix, metric, evaluation.class_weights(matrix))
    step = 1e-6
    for true in range(4):
        for found in range(4):
            change = np.zeros((4, 4))
            change[true, found] = step
            higher, lower = (evaluation.score(matrix + sign * change, metric) for sign in (1, -1))
            assert slopes[true, found] == pytest.approx((higher - lower) / (2 * step), abs=1e-7)


def test_with_equal_seeds_and_one_class_it_is_the_paired_t_interval(monkeypatch):
    """Balanced accuracy with two classes, one of them beyond doubt: recall of the other, paired by image."""
    monkeypatch.setattr(evaluation, "IMAGINED", 0)
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [40, 30])
    right = np.ones((2, 70), dtype=int)
    right[:, :40] = rng.random((2, 40)) < [[0.8], [0.5]]
    predicted = np.where(right, labels, 1 - labels)[:, None].repeat(3, 1)
    found = contrast(labels, np.arange(70), predicted, np.array([1.0, -1.0]), 2, "balanced_accuracy")
    difference = (right[0] - right[1])[:40] / 2
    expected = stats.ttest_1samp(difference, 0)
    assert found.value == pytest.approx(difference.mean())
    assert found.df == pytest.approx(39)
    assert found.ci == pytest.approx(list(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)


def test_where_all_groups_are_alike_it_is_the_t_interval_over_seeds(monkeypatch):
    """Two groups of which every training recognises as many images each: only the seeds differ."""
    monkeypatch.setattr(evaluation, "IMAGINED", 0)
    labels = np.repeat([0, 1], 20)
    right = np.array([12, 16, 18, 20])
    predicted = np.stack([np.where(np.arange(40) % 20 < n, labels, 1 - labels) for n in right])[None]
    found = contrast(labels, np.arange(40) % 2, predicted, np.array([1.0]), 2, "balanced_accuracy")
    rates = right / 20
    assert found.value == pytest.approx(rates.mean())
    assert found.df == pytest.approx(3)
    assert found.ci == pytest.approx(list(stats.t.interval(0.95, 3, rates.mean(), stats.sem(rates))))


def test_close_to_a_bootstrap_over_images():
    """With many images and the seeds held equal, the interval's half-width is 1.96 bootstrap standard errors."""
    labels, predicted = _predictions(n=1500)
    predicted = predicted[:, :1].repeat(3, 1)
    weights = np.array([1.0, -1.0])
    found = contrast(labels, np.arange(1500), predicted, weights, 4)
    rng = np.random.default_rng(2)
    members = [np.flatnonzero(labels == k) for k in range(4)]
    values = []
    for _ in range(600):
        drawn = np.concatenate([rng.choice(m, len(m)) for m in members])
        matrix = evaluation.confusion(labels[drawn], predicted[:, 0, drawn], 4)
        values.append(weights @ evaluation.score(matrix, "macro_f1"))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.std(values), rel=0.1)


def test_groups_are_the_units():
    """Eight copies of each image in one group tell no more than the image; as eight images they seem to."""
    labels, predicted = _predictions(n=100)
    predicted = predicted[:, :1].repeat(2, 1)
    weights = np.array([1.0, -1.0])
    single = contrast(labels, np.arange(100), predicted, weights, 4)
    eightfold = np.repeat(labels, 8), predicted.repeat(8, -1)
    grouped = contrast(eightfold[0], np.repeat(np.arange(100), 8), eightfold[1], weights, 4)
    naive = contrast(eightfold[0], np.arange(800), eightfold[1], weights, 4)
    assert grouped.value == pytest.approx(single.value)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.02)
    assert naive.high - naive.low < 0.5 * (single.high - single.low)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),  # each class one patient
        ([0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]),  # one patient altogether
        ([0, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),  # one image of a class
        ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]),  # patients with all classes
    ],
)
def test_small_and_mixed_groups_have_a_finite_interval(labels, groups):
    rng = np.random.default_rng(0)
    labels = np.array(labels)
    predicted = rng.integers(0, 3, (2, 3, 6))
    for found in (predicted, np.broadcast_to(labels, (2, 3, 6))):
        interval = contrast(labels, np.array(groups), found, np.array([1.0, -1.0]), 3)
        assert np.isfinite([interval.low, interval.high, interval.p]).all()
        assert interval.low < interval.value < interval.high


def test_exchanging_the_arms_turns_the_interval_round():
    labels, predicted = _predictions()
    forth = contrast(labels, np.arange(80), predicted, np.array([1.0, -1.0]), 4)
    back = contrast(labels, np.arange(80), predicted[::-1], np.array([1.0, -1.0]), 4)
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-forth.value, -forth.high, -forth.low, forth.p)
    )


def test_one_seed_is_refused():
    labels, predicted = _predictions()
    with pytest.raises(ValueError, match="two seeds"):
        contrast(labels, np.arange(80), predicted[:, :1], np.array([1.0, -1.0]), 4)


def test_holm():
    """The example of Holm's procedure by hand: 0.01·3, then max(0.03, 0.02·2), then max(0.04, 0.04·1)."""
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.02])), [0.04, 0.03, 0.04])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert len(holm(np.array([]))) == 0


# --- coverage -------------------------------------------------------------------------------------------------------

SEEDED = {"seed_sd": 0.1, "class_sd": 0.2, "image_sd": 0.8, "arm_sd": 0.3}
STEADY = {"seed_sd": 0.03, "class_sd": 0.05, "image_sd": 0.8, "arm_sd": 0.8}
RESTLESS = {"seed_sd": 0.2, "class_sd": 0.6, "image_sd": 0.8, "arm_sd": 0.3}
PATIENTS = SEEDED | {"patient_sd": 0.5}
# name: test images per class, latent means of (common, rare) classes for two arms, number of rare classes, spreads
SETTINGS = {
    "45 images": ([17, 12, 8, 5, 3], ((1.2, 0.8), (1.2, 0.3)), 2, SEEDED),
    "45 images, no difference": ([17, 12, 8, 5, 3], ((1.2, 0.6), (1.2, 0.6)), 2, SEEDED),
    "45 images, accurate": ([17, 12, 8, 5, 3], ((2.2, 1.8), (2.2, 1.5)), 2, SEEDED),
    "45 images, restless seeds": ([17, 12, 8, 5, 3], ((1.2, 0.8), (1.2, 0.3)), 2, RESTLESS),
    "45 images, steady seeds": ([17, 12, 8, 5, 3], ((1.2, 0.7), (1.2, 0.5)), 2, STEADY),
    "45 images, rare never found": ([17, 12, 8, 5, 3], ((1.5, 0.8), (1.5, -3.0)), 2, STEADY),
    "120 images": ([15] * 8, ((1.5, 1.3), (1.5, 1.0)), 2, SEEDED),
    "300 images": ([150, 80, 40, 20, 10], ((1.5, 0.9), (1.5, 0.5)), 2, SEEDED),
    "300 images, rare never found": ([150, 80, 40, 20, 10], ((1.5, 0.8), (1.5, -3.0)), 2, STEADY),
    "1500 images": ([600, 400, 250, 150, 50, 30, 12, 8], ((1.8, 0.9), (1.8, 0.6)), 3, SEEDED),
    "1500 images, accurate": ([600, 400, 250, 150, 50, 30, 12, 8], ((2.5, 2.2), (2.5, 2.0)), 3, SEEDED),
    "5 patients × 8 images per class": ([40] * 4, ((1.2, 0.9), (1.2, 0.5)), 1, PATIENTS),
    "5 patients × 8 images of all classes": ([10] * 4, ((1.2, 0.9), (1.2, 0.5)), 1, PATIENTS),
}


def _draw(rng, sizes, means, rare, spreads, seeds, mixed):
    """Predictions of two arms by a latent model: an image is recognised where its score is above 0.

    The score is the class's mean for the arm, plus the image's difficulty (shared by both arms and all seeds, in
    part by a patient's images), the arm's view of the image, the seed's level and its level in each class.
    """
    classes = len(sizes)
    labels = np.repeat(np.arange(classes), sizes)
    within = np.concatenate([np.arange(n) for n in sizes])
    patients = within % (len(labels) // 8) if mixed else labels * 1000 + within // 8
    patient_sd = spreads.get("patient_sd", 0.0)
    groups = np.unique(patients, return_inverse=True)[1] if patient_sd else np.arange(len(labels))
    n = len(labels)
    mean = np.array([[common] * (classes - rare) + [low] * rare for common, low in means])
    score = mean[:, None, labels] + rng.normal(0, spreads["image_sd"], n)
    score = score + rng.normal(0, patient_sd, groups.max() + 1)[groups]
    score = (
        score + rng.normal(0, spreads["arm_sd"], (2, 1, n)) + rng.normal(0, spreads["seed_sd"], (2, seeds, 1))
    )
    score = score + rng.normal(0, spreads["class_sd"], (2, seeds, classes))[..., labels]
    score += rng.normal(0, 0.3, (2, seeds, n))
    mistaken_for = (labels + rng.integers(1, classes, n)) % classes
    return labels, groups, np.where(score > 0, labels, mistaken_for)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_coverage(name, seeds, record_property):
    """The nominal 95 % interval covers the difference in the population of images and seeds in at least 90 %."""
    sizes, means, rare, spreads = SETTINGS[name]
    mixed = "of all classes" in name
    rng = np.random.default_rng(0)
    weights = np.array([1.0, -1.0])
    large = [n * (20_000 // sum(sizes)) for n in sizes]
    truth = []
    for _ in range(40):
        labels, _, predicted = _draw(rng, large, means, rare, spreads, 25, mixed)
        matrix = evaluation.confusion(labels, predicted, len(sizes))
        truth.append(evaluation.score(matrix, "macro_f1").mean(1))
    truth = np.mean(truth, axis=0)
    repeats = 600
    covered, alone, width = 0, 0, 0.0
    for _ in range(repeats):
        labels, groups, predicted = _draw(rng, sizes, means, rare, spreads, seeds, mixed)
        found = contrast(labels, groups, predicted, weights, len(sizes))
        covered += found.low <= weights @ truth <= found.high
        width += (found.high - found.low) / repeats
        found = contrast(labels, groups, predicted[:1], np.array([1.0]), len(sizes))
        alone += found.low <= truth[0] <= found.high
    record_property("coverage", float(covered / repeats))
    print(
        f"{name}, {seeds} seeds: difference {covered / repeats:.3f}, one arm {alone / repeats:.3f}, width {width:.3f}"
    )
    assert covered / repeats >= 0.90 and alone / repeats >= 0.88
