from nemo_bt.training.callbacks.spikes import LossSpikes


def test_a_loss_far_above_those_before_is_named() -> None:
    spikes = LossSpikes(factor=6.0)
    assert [spikes.look_at(0.5 + 0.01 * (-1) ** i) for i in range(20)] == [None] * 20  # deviation 0.0103
    assert spikes.look_at(0.55) is None
    assert spikes.look_at(0.7) == "loss 0.7000 is far above those of the 21 lines before (0.5024 +- 0.0148)"
    assert spikes.look_at(0.1) is None


def test_the_first_lines_and_a_factor_of_0_find_none() -> None:
    assert all(LossSpikes(6.0).look_at(loss) is None for loss in (0.1, 0.1, 9.0))
    spikes = LossSpikes(0.0)
    assert [spikes.look_at(loss) for loss in [0.1] * 20 + [9.0]] == [None] * 21


def test_old_losses_are_forgotten() -> None:
    spikes = LossSpikes(6.0)
    for loss in [5.0, 6.0] * 25 + [0.5, 0.51] * 25:
        spikes.look_at(loss)
    assert spikes.look_at(2.0)
