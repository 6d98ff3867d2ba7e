"""The denoiser's first output, and that the modulation of a user's samples may be computed once."""

import torch

from recsys.diffusion.denoiser import Denoiser


def random_denoiser() -> Denoiser:
    """A denoiser without zero-initialised layers."""
    denoiser = Denoiser(6, 3, hidden_size=16, num_layers=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return denoiser


def test_the_first_output_is_zero_whatever_comes_in() -> None:
    denoiser = Denoiser(6, 3, hidden_size=16, num_layers=2)
    embedded = denoiser.embed(10 * torch.randn(5, 6))
    predicted = denoiser(10 * torch.randn(5, 3), denoiser.modulation(embedded, torch.arange(5)))
    assert torch.equal(predicted.output, torch.zeros(5, 3))
    assert predicted.hidden.shape == (5, 16)


def test_modulation_made_once_a_user_equals_modulation_made_once_a_sample() -> None:
    denoiser = random_denoiser()
    conditions, noisy, when = torch.randn(4, 6), torch.randn(4, 7, 3), torch.tensor([5, 0, 999, 3])
    shared = denoiser(noisy, denoiser.modulation(denoiser.embed(conditions), when)[:, None])
    repeated = denoiser.embed(conditions.repeat_interleave(7, dim=0))
    alone = denoiser(noisy.flatten(0, 1), denoiser.modulation(repeated, when.repeat_interleave(7)))
    torch.testing.assert_close(shared.output.flatten(0, 1), alone.output)
    torch.testing.assert_close(shared.hidden.flatten(0, 1), alone.hidden)


def test_time_and_condition_matter_and_the_size_of_a_condition_does_not() -> None:
    denoiser, conditions, noisy = random_denoiser(), torch.randn(1, 6), torch.randn(1, 3)

    def output(conditions: torch.Tensor, timestep: int) -> torch.Tensor:
        modulation = denoiser.modulation(denoiser.embed(conditions), torch.tensor([timestep]))
        denoised: torch.Tensor = denoiser(noisy, modulation).output
        return denoised

    first = output(conditions, 10)
    torch.testing.assert_close(output(100 * conditions, 10), first)
    assert not torch.allclose(output(conditions, 20), first)
    assert not torch.allclose(output(-conditions, 10), first)


def test_every_block_has_a_modulation_of_its_own() -> None:
    denoiser, noisy = random_denoiser(), torch.randn(1, 3)
    modulation = denoiser.modulation(denoiser.embed(torch.randn(1, 6)), torch.tensor([10]))
    output = denoiser(noisy, modulation).output
    for row in range(8):  # shift, scale and gate of two blocks; shift and scale of the output
        changed = modulation.clone()
        changed[:, row] += 1
        assert not torch.allclose(denoiser(noisy, changed).output, output), row


def test_the_modulation_is_a_layer_on_the_condition_plus_the_sinusoidal_time() -> None:
    """Time is embedded by cosines and sines of t / 10000^(i / 128) (Vaswani et al., section 3.5)."""
    denoiser, embedded = random_denoiser(), torch.randn(1, 16)
    angles = 7 / 10_000 ** (torch.arange(128) / 128)
    time = denoiser.time_mlp(torch.cat([angles.cos(), angles.sin()]))
    wanted = denoiser.modulation_projection(torch.nn.functional.silu(embedded + time)).reshape(1, 8, 16)
    torch.testing.assert_close(denoiser.modulation(embedded, torch.tensor([7])), wanted, atol=1e-4, rtol=1e-4)


def test_a_dropped_condition_is_the_learned_null() -> None:
    denoiser = random_denoiser()
    dropped = torch.tensor([True, False])
    embedded = denoiser.embed(torch.randn(2, 6), dropped)
    torch.testing.assert_close(embedded[:1], denoiser.embed_null())
    assert not torch.allclose(embedded[1:], denoiser.embed_null())
