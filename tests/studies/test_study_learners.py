"""scripts/studies/learners.py: each way to learn the codes, beside what it says that it is."""

from __future__ import annotations

import pytest
import torch
from learners import FreshSteps, GaussNewton, MixtureGenerator, MixturePrior, Variational
from pytorch_lightning import Trainer
from torch import distributions, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.module import GLO

SMALL = {"latent_dim": 4, "image_size": 32, "width": 2, "whiten": True}


class Linear(nn.Module):
    """Images that are linear in the codes: its Jacobian is its matrix."""

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__()
        self.layer, self.shape = nn.Linear(latent_dim, channels * image_size**2), (channels, image_size, image_size)

    def forward(self, codes):
        return self.layer(codes).unflatten(1, self.shape)


def fitted(kind, lmdb, max_steps=1, attributes=None, **arguments):
    torch.manual_seed(0)
    data = LSUNDataModule(lmdb, image_size=32, batch_size=8, num_samples=24)
    model = kind(data.num_images, **(SMALL | arguments))
    for key, value in (attributes or {}).items():
        setattr(model, key, value)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=max_steps, max_epochs=-1, enable_model_summary=False, **quiet)
    trainer.fit(model, data)
    return model


def test_one_fresh_step_moves_the_codes_as_a_visit_does_and_the_generator_sees_what_it_leaves(flat_lmdb):
    usual = fitted(GLO, flat_lmdb, latent_lr=1.0)
    fresh = fitted(FreshSteps, flat_lmdb, latent_lr=1.0, attributes={"fresh": 1})
    assert torch.allclose(fresh.latents.weight, usual.latents.weight, atol=1e-6)
    assert not torch.allclose(fresh.generator.layers[0].weight, usual.generator.layers[0].weight, atol=1e-6)


def test_more_fresh_steps_bring_codes_nearer_to_their_images(flat_lmdb):
    @torch.no_grad()
    def loss(fresh):
        with torch.enable_grad():
            model = fitted(FreshSteps, flat_lmdb, latent_lr=0.3, generator_lr=0.0, attributes={"fresh": fresh})
        data = LSUNDataModule(flat_lmdb, image_size=32, batch_size=24, num_samples=24)
        images = next(iter(data.ordered_dataloader()))
        images = (images[0] if isinstance(images, list | tuple) else images).float() / 127.5 - 1
        return float(model.objective(model.latents.weight.detach(), images))

    assert loss(16) < loss(4) < loss(1)


def jacobian_of(model):
    return model.generator.layer.weight.detach() / model.generator.layer.out_features**0.5  # (P, D)


def newton_steps(model, gradient):
    """What the model makes of one gradient (D,) that comes to each of 4,000 codes."""
    codes = torch.zeros(4000, 3, requires_grad=True)
    seen = codes.clone()
    model.objective(seen, torch.zeros(4000, *model.generator.shape))
    seen.backward(gradient.expand(4000, 3))
    return codes.grad


@pytest.fixture
def linear():
    torch.manual_seed(0)
    model = GaussNewton(4, 3, image_size=8, generator="test_study_learners.Linear", init="random", levels=1)
    with torch.no_grad():
        model.generator.layer.weight *= torch.tensor([4.0, 1.0, 0.25])
    return model


def test_the_shared_step_is_gauss_newtons_for_a_linear_generator(linear):
    gradient = torch.tensor([1.0, 1.0, 1.0])
    metric = jacobian_of(linear).T @ jacobian_of(linear)
    wanted = torch.linalg.solve(metric + 0.1 * metric.trace() / 3 * torch.eye(3), gradient)
    found = newton_steps(linear, gradient)
    assert torch.allclose(found, wanted.expand(4000, 3), rtol=0.1)
    assert found[0, 2] > 5 * found[0, 0]  # what changes images least moves farthest


def test_each_rows_own_step_is_that_of_its_probes_and_near_the_shared_one_for_many(linear):
    linear.shared, linear.probes = False, 64
    gradient = torch.tensor([1.0, 1.0, 1.0])
    metric = jacobian_of(linear).T @ jacobian_of(linear)
    wanted = torch.linalg.solve(metric + 0.1 * metric.trace() / 3 * torch.eye(3), gradient)
    assert torch.allclose(newton_steps(linear, gradient).mean(0), wanted, rtol=0.15)
    vectors, torch_gradient = torch.randn(5, 64, 3), torch.randn(5, 3)
    scaled = vectors / 8
    least = 0.1 * scaled.square().sum((1, 2)).mean() / 3
    dense = torch.linalg.solve(scaled.mT @ scaled + least * torch.eye(3), torch_gradient)
    assert torch.allclose(linear._row_step(vectors, torch_gradient), dense, atol=1e-4)


def test_a_width_costs_the_divergence_of_its_gaussian_from_that_of_all_codes(flat_lmdb):
    model = fitted(Variational, flat_lmdb, latent_lr=0.1)
    began = (model.std / 10).log()
    moved = (model.log_widths - began).abs().amax(1) > 0
    assert 0 < int(moved.sum()) <= 8  # the rows of the one batch
    model.index, codes = torch.arange(8), model.latents.weight[:8].detach()
    images, losses = torch.zeros(8, 3, 32, 32), []
    for weight in (0.0, 1.0):
        model.weight = weight
        torch.manual_seed(1)
        losses.append(float(model.objective(codes, images).detach()))
    own = distributions.Normal(codes, model.log_widths[:8].exp())
    wanted = distributions.kl_divergence(own, distributions.Normal(0.0, model.std)).mean()
    assert losses[1] - losses[0] == pytest.approx(float(wanted), rel=1e-3)


def test_the_mixtures_density_is_that_of_torchs_distributions():
    torch.manual_seed(0)
    made = MixtureGenerator(4, 32, 2, components=5)
    for parameter in (made.log_stds, made.log_weights):
        nn.init.normal_(parameter)
    parts = distributions.Independent(distributions.Normal(made.means, made.log_stds.exp()), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=made.log_weights), parts)
    codes = torch.randn(6, 4)
    assert torch.allclose(made.log_density(codes), mixture.log_prob(codes), atol=1e-5)


def test_the_mixture_begins_at_codes_and_learns_with_them(flat_lmdb):
    arguments = {"generator": "learners.MixtureGenerator", "generator_args": {"components": 3}}
    began = fitted(MixturePrior, flat_lmdb, max_steps=1, generator_lr=0.0, latent_lr=0.0, **arguments)
    scaled = (began.latents.weight - began.mean) / began.std
    assert torch.cdist(began.generator.means, scaled).min(1).values.max() < 1e-4
    learned = fitted(MixturePrior, flat_lmdb, max_steps=3, **arguments)
    assert not torch.allclose(learned.generator.means, began.generator.means, atol=1e-4)
