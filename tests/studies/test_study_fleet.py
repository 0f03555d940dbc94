"""scripts/studies/fleet.py: its steps, not captured and on the CPU, are those of Lightning's training."""

import pytest
import torch
from fleet import BATCH, Member
from harness import train
from levers import NoisyGLO

from glo_lightning.data import LSUNDataModule
from glo_lightning.module import GLO

STEPS = 5
ARGUMENTS = {"latent_dim": 4, "image_size": 32, "width": 8, "whiten": True, "schedule": "cosine", "l2_weight": 1.0}


def recipe(optimizer, kind=GLO, **changed):
    def make(seed):
        data = LSUNDataModule(num_samples=2 * BATCH, image_size=32, batch_size=BATCH, seed=seed)
        arguments = {**ARGUMENTS, "weight_decay": 0.01, "generator_optimizer": optimizer, **changed}
        return kind(data.num_images, **arguments), data

    return make


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("changed", [{}, {"constraint": "sphere", "latent_lr": 0.0}, {"generator": "skip_z"}])
def test_a_member_takes_the_steps_of_lightning(optimizer, changed):
    wanted, _, _ = train(recipe(optimizer, **changed), 3, "32-true", "cpu", max_steps=STEPS, max_epochs=-1)
    torch.manual_seed(3)
    model, data = recipe(optimizer, **changed)(3)
    member = Member(model, data, STEPS, data.dataset.images[: data.num_images], bf16=False)
    began = model.latents.weight.detach().clone()
    for _ in range(STEPS):
        member.step()
    assert (model.latents.weight != began).any() == (changed.get("latent_lr") != 0)
    found = model.state_dict()
    for key, value in wanted.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_member_of_another_objective_takes_its_steps():
    model, data = recipe("sgd", NoisyGLO)(0)
    model.noise, ends = 0.5, []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        fresh = recipe("sgd", NoisyGLO)(0)[0]
        fresh.noise = 0.5
        member = Member(fresh, data, STEPS, data.dataset.images[: data.num_images], bf16=False)
        torch.manual_seed(seed)
        member.step()
        ends.append(fresh.latents.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1])
    assert (ends[0] - ends[2]).abs().max() > 1e-5
