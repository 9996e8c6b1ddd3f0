from __future__ import annotations

import pytest
import torch
from torch import nn

from lafr_arch.discriminator_arch import PatchDiscriminator
from lafr_losses.adversarial_loss import PatchAdversarialLoss


def test_discriminator_size_and_output_shape():
    net = PatchDiscriminator()
    assert sum(p.numel() for p in net.parameters()) == 704_977
    assert net(torch.rand(2, 3, 64, 48)).shape == (2, 1, 8, 6)
    assert net(torch.rand(1, 3, 37, 21)).shape == (1, 1, 4, 2)


def test_discriminator_width_changes_parameters_and_small_images_are_refused():
    assert sum(p.numel() for p in PatchDiscriminator(width=32).parameters()) == 314_337
    with pytest.raises(ValueError, match="8 x 8"):
        PatchDiscriminator(width=8)(torch.rand(1, 3, 7, 64))


def test_discriminator_receptive_field_is_54():
    net = PatchDiscriminator(width=4).double()
    x = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, 10, 10].backward()
    seen = x.grad.abs().sum(dim=(0, 1)) > 0
    rows = seen.any(dim=1).nonzero()
    assert (rows.max() - rows.min() + 1).item() == 54


def test_spectral_option_bounds_every_layer():
    def largest(net: nn.Module) -> list[float]:
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        return [torch.linalg.matrix_norm(c.weight.detach().flatten(1), 2).item() for c in convs]

    torch.manual_seed(0)
    normed, plain = PatchDiscriminator(width=8), PatchDiscriminator(width=8, spectral=False)
    for _ in range(30):  # power iterations
        normed(torch.rand(1, 3, 16, 16))
    assert largest(normed) == pytest.approx([1.0] * 5, abs=0.02)
    assert max(abs(v - 1) for v in largest(plain)) > 0.1


def test_hinge_values_by_hand():
    loss = PatchAdversarialLoss(loss_weight=0.5)
    assert loss.generator(torch.tensor([1.0, -3.0])).item() == pytest.approx(0.5 * 1.0)
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])
    assert loss.discriminator(real, fake).item() == pytest.approx(0.5 * (0.5 + 0.75))


def test_logistic_values_are_cross_entropies():
    loss = PatchAdversarialLoss(objective="logistic")
    real, fake = torch.randn(7), torch.randn(7)
    bce = nn.functional.binary_cross_entropy_with_logits
    assert loss.generator(fake).item() == pytest.approx(bce(fake, torch.ones(7)).item(), rel=1e-5)
    expected = 0.5 * (bce(real, torch.ones(7)) + bce(fake, torch.zeros(7)))
    assert loss.discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)


def test_adaptive_weight_equalises_gradients_up_to_max_ratio():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    other, logits = (3 * weight).sum(), 0.01 * weight  # gradients of norm 3 sqrt(2) and 0.005 sqrt(2)
    adaptive = PatchAdversarialLoss(adaptive=True).generator(logits, other, weight)
    grad = torch.autograd.grad(adaptive, weight, retain_graph=True)[0]
    assert grad.norm().item() == pytest.approx(3 * 2**0.5, rel=1e-3)
    bounded = PatchAdversarialLoss(adaptive=True, max_ratio=10).generator(logits, other, weight)
    assert bounded.item() == pytest.approx(10 * -logits.mean().item(), rel=1e-5)


def test_errors_name_the_option():
    with pytest.raises(ValueError, match="objective: 'wgan'"):
        PatchAdversarialLoss(objective="wgan")
    with pytest.raises(ValueError, match="other_loss and last_layer"):
        PatchAdversarialLoss(adaptive=True).generator(torch.zeros(1))


def test_a_discriminator_learns_to_tell_gray_from_noise():
    torch.manual_seed(0)
    net, loss = PatchDiscriminator(width=8), PatchAdversarialLoss()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(40):
        real, fake = torch.rand(4, 3, 32, 32), torch.full((4, 3, 32, 32), 0.5)
        optimizer.zero_grad()
        value = loss.discriminator(net(real), net(fake))
        value.backward()
        optimizer.step()
    assert value.item() < 0.7  # 1 at chance
    assert net(torch.rand(4, 3, 32, 32)).mean() > net(torch.full((4, 3, 32, 32), 0.5)).mean()


def test_heads_weigh_in_the_generators_loss_alone():
    heads, real = [torch.tensor([1.0, 3.0]), torch.tensor([-0.5])], [torch.tensor([0.0]), torch.tensor([0.0])]
    plain, weighed = PatchAdversarialLoss(), PatchAdversarialLoss(head_weights=[1, 6])
    assert plain.generator(heads).item() == pytest.approx((-2 + 0.5) / 2)
    assert weighed.generator(heads).item() == pytest.approx((-2 + 6 * 0.5) / 2)
    assert weighed.discriminator(real, heads).item() == plain.discriminator(real, heads).item()
    with pytest.raises(ValueError, match="3 head_weights for a critic of 2 heads"):
        PatchAdversarialLoss(head_weights=[1, 1, 1]).generator(heads)


def test_shown_detail_makes_fine_texture_tell():
    """Faint noise on gray, a hundredth of the range, against gray: what restored skin lacks."""

    def learned(detail: float, gain: float) -> float:
        torch.manual_seed(0)
        net, loss = PatchDiscriminator(width=8, detail=detail, gain=gain), PatchAdversarialLoss()
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(30):
            fake = torch.full((4, 3, 32, 32), 0.5)
            value = loss.discriminator(net(fake + 0.01 * torch.randn_like(fake)), net(fake))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return value.item()

    assert learned(10, 4) < 0.6
    assert learned(0, 1) > 0.9


def test_detail_is_what_a_mean_leaves():
    net = PatchDiscriminator(width=8, detail=10)
    shown = []
    net.layers.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    net(torch.full((1, 3, 16, 16), 0.3))
    assert shown[0][:, 3:].abs().max() < 1e-5
    point = torch.zeros(1, 3, 16, 16)
    point[..., 8, 8] = 0.9
    net(point)
    assert shown[1][0, 3, 8, 8].item() == pytest.approx(8.0)
    assert shown[1][0, 3, 8, 7].item() == pytest.approx(-1.0)
