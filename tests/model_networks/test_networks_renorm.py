"""Batch renormalisation against the formulas of the paper."""

import pytest
import torch

from wsiseg.model.networks.renorm import BatchRenorm2d


def layer_with(mean, variance, seen, **options):
    layer = BatchRenorm2d(2, **options)
    layer.running_mean.copy_(torch.tensor(mean))
    layer.running_var.copy_(torch.tensor(variance))
    layer.num_batches_tracked.fill_(seen)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    return layer


def batch():
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(2)) * 2 + 1


def affine(layer, x):
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


def test_within_the_limits_training_equals_evaluation():
    """r and d undo the batch's statistics: what is left are the running ones."""
    layer = layer_with([0.5, 1.5], [3.0, 5.0], 10**6)
    evaluated = layer.eval()(batch())
    torch.testing.assert_close(layer.train()(batch()), evaluated, atol=1e-5, rtol=0)


def test_at_first_it_is_batch_normalisation():
    layer = layer_with([0.5, 1.5], [3.0, 5.0], 0)
    x = batch()
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    std = (x.var(dim=(0, 2, 3), keepdim=True, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(layer(x), affine(layer, (x - mean) / std), atol=1e-5, rtol=0)


def test_far_statistics_are_followed_to_the_limits_alone():
    layer = layer_with([100.0, -100.0], [1e-4, 1e4], 10**6)
    x = batch()
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    std = (x.var(dim=(0, 2, 3), keepdim=True, correction=0) + layer.eps).sqrt()
    r = torch.tensor([3.0, 1 / 3])[:, None, None]
    d = torch.tensor([-5.0, (mean[0, 1, 0, 0].item() + 100) / 100])[:, None, None]
    expected = affine(layer, (x - mean) / std * r + d)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=0)


def test_no_gradient_flows_through_the_correction():
    """Adding a constant to the batch moves the output (through d), yet has no gradient."""
    layer = layer_with([0.5, 1.5], [3.0, 5.0], 10**6)
    shift = torch.zeros(1, requires_grad=True)
    layer(batch() + shift).square().sum().backward()
    assert shift.grad.abs().item() < 1e-3


def test_the_limits_open_with_the_steps():
    outputs = [layer_with([0.0, 0.0], [1.0, 1.0], seen)(batch()) for seen in (500, 750, 1000)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


def test_running_statistics_move_and_steps_count():
    layer = BatchRenorm2d(2, momentum=0.5)
    layer(batch())
    torch.testing.assert_close(layer.running_mean, batch().mean(dim=(0, 2, 3)) / 2)
    assert layer.num_batches_tracked == 1


def test_its_weights_are_those_of_batch_normalisation():
    plain = torch.nn.BatchNorm2d(2)
    layer = layer_with([0.5, 1.5], [3.0, 5.0], 7).eval()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(plain.eval()(batch()), layer(batch()), rtol=0, atol=0)


def test_wrong_limits_are_refused():
    with pytest.raises(ValueError, match="needed r_max >= 1"):
        BatchRenorm2d(2, r_max=0.5)
