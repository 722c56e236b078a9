from dataclasses import replace

from classifier.arms import ARMS, CHEAP, DEFAULT_CHEAP, FULL_DATA, GAN, full_data, gan
from classifier.config import TrainingConfig
from classifier.imbalance import LOSSES, SAMPLINGS
from classifier.mixing import MIXINGS


def test_arms_differ_in_their_remedy_alone():
    base = TrainingConfig(steps=9, loss="focal", sampling="balanced", mixing="mixup")
    configs = {name: arm.config(base, seed=4) for name, arm in CHEAP.items()}
    assert configs["unbalanced"] == TrainingConfig(steps=9, seed=4)
    assert len(set(configs.values())) == len(CHEAP)
    for config in configs.values():
        plain = replace(config, loss="cross-entropy", sampling="natural", mixing="none", augmentation="auto")
        assert plain == configs["unbalanced"]
    assert configs["trivial-augment"].augmentation == "trivial-augment"
    varied = {name: arm.config(replace(base, augmentation="stain"), 4) for name, arm in CHEAP.items()}
    assert {name for name, c in varied.items() if c.augmentation != "stain"} == {"trivial-augment"}


def test_every_remedy_has_an_arm():
    assert {arm.loss for arm in CHEAP.values()} == set(LOSSES)
    assert {arm.sampling for arm in CHEAP.values()} == set(SAMPLINGS)
    assert {arm.mixing for arm in CHEAP.values()} == set(MIXINGS)


def test_gan_and_full_data_are_the_best_cheap_arm_with_more_images():
    base = TrainingConfig()
    for best, arm in CHEAP.items():
        assert gan(best).config(base, 0) == full_data(best).config(base, 0) == arm.config(base, 0)
    assert (gan("focal").adds, full_data("focal").adds) == ("synthetic", "heldout")
    assert set(DEFAULT_CHEAP) < set(CHEAP) and ARMS[-2:] == (GAN, FULL_DATA)
