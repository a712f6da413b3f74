"""The optimizer for matrices: what it does to singular values, and torch's beside it."""

import pytest
import torch

from minidalle.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(24, 64), (64, 24)])
def test_all_singular_values_come_near_one(shape):
    """Large and small ones alike; the directions stay."""
    left, right = (torch.linalg.qr(torch.randn(n, 24, dtype=torch.float64)).Q for n in shape)
    before = torch.logspace(0, -2, 24, dtype=torch.float64)
    matrix = left * before @ right.T
    after = left.T @ orthogonalized(matrix) @ right
    assert ((after.diag() > 0.6) & (after.diag() < 1.3)).all()
    torch.testing.assert_close(after, after.diag().diag(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0), (torch.float32, 2e-3)])
def test_it_moves_as_torchs_does(dtype, tolerance):
    """Which computes in bfloat16: in the same precision bit for bit. lr changes, as in training."""
    generator = torch.Generator().manual_seed(0)

    def random(shape):
        return torch.randn(shape, generator=generator)

    ours = [random((32, 48)).requires_grad_(), random((48, 32)).requires_grad_()]
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    common = {"lr": 1e-2, "weight_decay": 0.05}
    muon = Muon(ours, dtype=dtype, **common)
    reference = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **common)
    for step in range(5):
        for mine, their in zip(ours, theirs, strict=True):
            mine.grad = random(mine.shape)
            their.grad = mine.grad.clone()
        for optimizer in (muon, reference):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimizer.step()
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, atol=tolerance, rtol=0)


def test_it_goes_on_from_its_state():
    weights = [torch.randn(8, 8).requires_grad_() for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    first, second = (Muon([weight], lr=0.1) for weight in weights)
    gradients = torch.randn(3, 8, 8)
    for gradient in gradients:
        weights[0].grad = gradient.clone()
        first.step()
    weights[1].grad = gradients[0].clone()
    second.step()
    resumed = Muon([weights[1]], lr=0.1)
    resumed.load_state_dict(second.state_dict())
    for gradient in gradients[1:]:
        weights[1].grad = gradient.clone()
        resumed.step()
    assert torch.equal(*weights)


def test_what_has_no_gradient_stays():
    weight, other = torch.ones(4, 4).requires_grad_(), torch.ones(4, 4).requires_grad_()
    other.grad = torch.randn(4, 4)
    Muon([weight, other], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4)) and not torch.equal(other, torch.ones(4, 4))


def test_only_matrices():
    with pytest.raises(ValueError, match=r"Muon is for matrices; found a parameter \(5,\)"):
        Muon([torch.zeros(5)], lr=0.1)
