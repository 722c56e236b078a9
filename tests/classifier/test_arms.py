from classifier.arms import ARMS, CHEAP, DEFAULT_CHEAP, FULL_DATA, GAN, full_data, gan
from classifier.training import TrainingConfig


def test_arms_differ_in_loss_and_sampling_alone():
    base = TrainingConfig(steps=9, loss="focal", sampling="balanced")
    configs = {name: arm.config(base, seed=4) for name, arm in CHEAP.items()}
    assert configs["unbalanced"] == TrainingConfig(steps=9, seed=4)
    assert len(set(configs.values())) == len(CHEAP)
    assert {(c.steps, c.augmentation, c.learning_rate, c.seed) for c in configs.values()} == {
        (9, base.augmentation, base.learning_rate, 4)
    }


def test_gan_and_full_data_are_the_best_cheap_arm_with_more_images():
    base = TrainingConfig()
    for best, arm in CHEAP.items():
        assert gan(best).config(base, 0) == full_data(best).config(base, 0) == arm.config(base, 0)
    assert (gan("focal").adds, full_data("focal").adds) == ("synthetic", "heldout")
    assert set(DEFAULT_CHEAP) < set(CHEAP) and ARMS[-2:] == (GAN, FULL_DATA)
