import contextlib
import copy
import inspect
import pickle
import time
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import equal
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from pytorch_lightning.plugins import Precision
from sklearn.decomposition import PCA
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, IterableDataset

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.generator import Generator, SkipGenerator
from glo_lightning.latents import per_sample_gradients
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO
from glo_lightning.optimizers import WhitenedRows
from glo_lightning.training.callbacks import Curves

SMALL = {"latent_dim": 6, "image_size": 32, "generator": partial(Generator, width=4)}


def fit(model: GLO, data: LSUNDataModule, tmp_path, *callbacks: Callback, **options) -> Trainer:
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False} | options
    ckpt_path = options.pop("ckpt_path", None)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    curves = Curves()
    trainer = Trainer(default_root_dir=tmp_path, callbacks=[curves, *callbacks], **quiet, **options)
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    trainer.initial = curves.initial
    return trainer


COSINE = 0.5 + 0.5 * np.cos(np.pi * np.arange(6) / 6)  # of six steps


@pytest.fixture
def data():
    """24 of the shipped images, in 3 batches."""
    return LSUNDataModule(num_samples=24, image_size=32, batch_size=8)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
class TestTraining:
    @pytest.mark.parametrize("n_pca", [24, 10])
    def test_pca_is_fitted_on_n_pca_images_and_writes_every_row(self, data, tmp_path, n_pca):
        model = GLO(24, **SMALL, n_pca=n_pca, latent_lr=0)
        before = model.latents.weight.detach().clone()
        fit(model, data, tmp_path)
        rows = data.dataset[list(range(24))][0].flatten(1).float().numpy() / 127.5 - 1
        expected = PCA(6, random_state=0).fit(rows[:n_pca]).transform(rows)
        expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1)
        codes = model.latents.weight.detach().numpy()
        np.testing.assert_allclose(codes * np.sign((codes * expected).sum(0)), expected, atol=1e-3)
        assert not (model.latents.weight == before).all(dim=1).any()

    def test_trained_codes_are_not_started_again(self, data, tmp_path):
        model = GLO(24, **SMALL, latent_lr=0)
        fit(model, data, tmp_path)
        model.latents.weight.data.mul_(0.5)
        codes = model.latents.weight.detach().clone()
        fit(model, data, tmp_path)
        assert torch.equal(model.latents.weight, codes)

    @pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
    def test_pca_start_from_a_loader_without_its_datamodule_says_so(self, data, tmp_path):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, **quiet)
        with pytest.raises(InputError, match="LSUNDataModule"):
            trainer.fit(GLO(24, **SMALL), data.train_dataloader())

    def test_rows_outside_the_batch_do_not_move(self, data, tmp_path):
        model = GLO(24, **SMALL)
        initial = fit(model, data, tmp_path, max_steps=1).initial
        in_batch = next(iter(data.train_dataloader()))[1]
        moved = (model.latents.weight != initial).any(dim=1)
        assert sorted(moved.nonzero().flatten().tolist()) == sorted(in_batch.tolist())

    @pytest.mark.parametrize(
        "optimizer",
        [
            partial(SGD, lr=0.5, weight_decay=0.1),
            partial(SGD, lr=0.5, momentum=0.9, nesterov=True),
            partial(AdamW, lr=0.003, betas=(0.9, 0.99), weight_decay=0.1),
        ],
        ids=["SGD", "momentum", "AdamW"],
    )
    def test_one_step_is_the_optimizers_sgd_on_the_rows_then_the_projection(self, data, tmp_path, optimizer):
        model = GLO(24, **SMALL, latent_lr=3.0, optimizer=optimizer)
        start = copy.deepcopy(model)
        initial = fit(model, data, tmp_path, max_steps=1).initial
        images, index = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)

        start.train()
        codes = initial[index].requires_grad_()
        start.loss(start.generator(codes), images).backward()
        rows = codes.detach() - 3.0 * len(index) * codes.grad
        rows /= rows.norm(dim=1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(model.latents.weight[index], rows)
        before = copy.deepcopy(list(start.generator.parameters()))
        optimizer(start.generator.parameters()).step()
        for trained, weight, old in zip(
            model.generator.parameters(), start.generator.parameters(), before, strict=True
        ):
            torch.testing.assert_close(trained - old, weight - old, rtol=1e-3, atol=1e-5)
            assert not torch.equal(trained, old)

    def test_a_rows_step_does_not_depend_on_accumulation(self, data, tmp_path):
        # a generator that stands still and no BatchNorm: then a row's step is its own image's alone
        def codes_after(batch_size, accumulate):
            torch.manual_seed(0)
            model = GLO(24, **SMALL, optimizer=partial(SGD, lr=0.0))
            model.generator.layers = torch.nn.Sequential(
                *[layer for layer in model.generator.layers if not isinstance(layer, torch.nn.BatchNorm2d)]
            )
            small = LSUNDataModule(num_samples=24, image_size=32, batch_size=batch_size)
            fit(model, small, tmp_path, accumulate_grad_batches=accumulate)
            return model.latents.weight.detach()

        whole = codes_after(24, 1)
        torch.testing.assert_close(codes_after(8, 1), whole)
        torch.testing.assert_close(codes_after(8, 3), whole)

    @pytest.mark.parametrize("constraint", ["ball", "sphere", "none"])
    def test_every_code_is_in_its_set_after_training(self, data, tmp_path, constraint):
        model = GLO(24, **SMALL, init="random", constraint=constraint, latent_lr=1.0)
        fit(model, data, tmp_path)
        norms = model.latents.weight.norm(dim=1)
        if constraint == "ball":
            assert norms.max() <= 1 + 1e-6
        elif constraint == "sphere":
            torch.testing.assert_close(norms, torch.ones(24))
        else:
            assert norms.max() > 1.5

    def test_rate_zero_freezes_the_codes_to_the_bit(self, data, tmp_path):
        model = GLO(24, **SMALL, latent_lr=0, constraint="sphere")
        initial = fit(model, data, tmp_path, max_epochs=2).initial
        assert torch.equal(model.latents.weight, initial)

    @pytest.mark.parametrize(("batches", "holdout"), [(2, 8), (0.5, 0)])
    def test_overfitting_trains_the_same_first_rows_in_every_epoch(self, tmp_path, batches, holdout):
        rows = []
        data = LSUNDataModule(num_samples=24 + holdout, holdout=holdout, image_size=32, batch_size=6)
        seen = LambdaCallback(on_train_batch_start=lambda trainer, module, batch, *_: rows.append(batch[1].tolist()))
        trainer = fit(GLO(24, **SMALL), data, tmp_path, seen, overfit_batches=batches, max_epochs=2)
        assert rows == [list(range(6)), list(range(6, 12))] * 2
        assert ("val/psnr" in trainer.callback_metrics) == bool(holdout)

    @pytest.mark.filterwarnings("ignore")  # of exporters
    def test_a_module_that_was_fitted_is_exported_traced_pickled_and_copied(self, data, tmp_path):
        model = GLO(24, **SMALL)
        fit(model, data, tmp_path)
        codes = torch.randn(2, 6)
        images = model.eval()(codes)
        traced = model.to_torchscript(method="trace", example_inputs=codes)
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        for again in (traced, copied, pickled):
            torch.testing.assert_close(again(codes), images)
        assert pickle.loads(pickle.dumps(LSUNDataModule(num_samples=24))).num_images == 24

    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_compiled_training_is_the_same_but_for_rounding(self, tmp_path):
        data = LSUNDataModule(num_samples=24, image_size=8, batch_size=8)
        models = []
        for compiled in (False, True):
            torch.manual_seed(0)
            models.append(GLO(24, compile=compiled, loss=partial(LaplacianLoss, levels=1), **SMALL | {"image_size": 8}))
            fit(models[-1], data, tmp_path, max_steps=2)
        assert models[0].state_dict().keys() == models[1].state_dict().keys()
        for eager, compiled in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(eager, compiled, rtol=1e-3, atol=1e-4)

    def test_one_step_counts_as_one(self, data, tmp_path):
        assert fit(GLO(24, **SMALL), data, tmp_path, max_epochs=2).global_step == 6
        assert fit(GLO(24, **SMALL), data, tmp_path, max_epochs=9, max_steps=4).global_step == 4

    def test_both_rates_follow_the_cosine_of_the_step(self, data, tmp_path):
        model, rates = GLO(24, **SMALL, schedule="cosine", optimizer=partial(SGD, lr=2.0), latent_lr=0.5), Rates()
        trainer = fit(model, data, tmp_path, rates, max_epochs=2)
        np.testing.assert_allclose(rates.seen, np.outer(COSINE, [2.0, 0.5]))
        assert trainer.callback_metrics["lr-SGD/generator"] == pytest.approx(rates.seen[-1][0])

    @pytest.mark.parametrize(
        ("schedule", "hook", "written", "expected"),
        [
            ("constant", "on_train_batch_start", {1: 0.5, 4: 0.25}, [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
            ("constant", "on_train_start", {0: 0.25}, [0.25] * 6),
            ("cosine", "on_train_batch_start", {2: 0.125}, [*COSINE[:2], *0.125 * COSINE[2:] / COSINE[2]]),
            ("cosine", "on_train_start", {0: 0.25}, 0.25 * COSINE),
        ],
    )
    def test_the_schedule_continues_from_a_rate_that_a_callback_writes(
        self, data, tmp_path, schedule, hook, written, expected
    ):
        def write(trainer, *_):
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = written.get(trainer.global_step, group["lr"])

        rates, of_rows = Rates(), COSINE if schedule == "cosine" else np.ones(6)
        model = GLO(24, **SMALL, schedule=schedule, latent_lr=0.5)
        fit(model, data, tmp_path, LambdaCallback(**{hook: write}), rates, max_epochs=2)
        np.testing.assert_allclose(rates.seen, np.stack([expected, 0.5 * of_rows], axis=1))

    def test_a_resumed_run_with_whitened_rows_is_the_run_never_stopped(self, data, tmp_path):
        def model():
            torch.manual_seed(0)
            parts = {"optimizer": partial(AdamW, lr=0.01), "latent_optimizer": WhitenedRows}
            return GLO(24, **SMALL, **parts, schedule="cosine")

        saved, whole, resumed = tmp_path / "a.ckpt", model(), model()
        save = LambdaCallback(
            on_train_batch_end=lambda trainer, *_: trainer.global_step == 4 and trainer.save_checkpoint(saved)
        )
        fit(whole, data, tmp_path, save, max_epochs=2)
        fit(resumed, data, tmp_path, max_epochs=2, ckpt_path=saved)
        assert equal(resumed.state_dict(), whole.state_dict())

    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    def test_the_scheduler_of_a_subclass_is_obeyed(self, data, tmp_path, schedule):
        rates = Rates()
        fit(Stepped(24, **SMALL, schedule=schedule), data, tmp_path, rates, max_epochs=3)
        np.testing.assert_allclose([generator for generator, _ in rates.seen], [1.0] * 3 + [0.1] * 3 + [0.01] * 3)

    def test_the_rates_of_stochastic_weight_averaging_are_obeyed(self, data, tmp_path):
        rates = Rates()
        averaging = StochasticWeightAveraging(swa_lrs=0.125, swa_epoch_start=1, annealing_epochs=1)
        fit(GLO(24, **SMALL, schedule="cosine"), data, tmp_path, averaging, rates, max_epochs=4)
        assert rates.seen[-1][0] == 0.125

    @pytest.mark.filterwarnings("ignore:.*the hooks will not be called on every batch.*")
    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    @pytest.mark.parametrize(
        "callback", [LearningRateFinder(num_training_steps=4), GradientAccumulationScheduler({0: 2})]
    )
    def test_callbacks_that_would_set_the_rates_wrongly_are_refused_by_name(self, data, tmp_path, schedule, callback):
        refused = schedule == "cosine" or isinstance(callback, LearningRateFinder)
        expected = pytest.raises(InputError, match=f"callbacks {type(callback).__name__}: ")
        with expected if refused else contextlib.nullcontext():
            fit(GLO(24, **SMALL, schedule=schedule), data, tmp_path, callback)

    def test_an_endless_run_has_no_schedule(self, data, tmp_path):
        with pytest.raises(InputError, match="schedule"):
            fit(GLO(24, **SMALL, schedule="cosine"), data, tmp_path, max_epochs=-1)

    def test_bare_load_of_a_module_made_in_python(self, data, tmp_path):
        model = GLO(
            np.int64(24), **SMALL | {"latent_dim": np.int64(6)}, latent_lr=np.float64(0.1),
            loss=partial(LaplacianLoss, levels=2, level_weights=np.array([1.0, 2.0, 3.0])),
        )  # fmt: skip
        fit(model, data, tmp_path, enable_checkpointing=False).save_checkpoint(tmp_path / "a.ckpt")
        loaded = GLO.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
        assert loaded.loss.level_weights == [1.0, 2.0, 3.0]
        assert torch.equal(loaded.latents.weight, model.latents.weight)
        codes = model.latents.weight[:4]
        assert torch.equal(loaded.eval()(codes), model.eval()(codes))

    def test_clipping_that_is_off_clips_nothing(self, data, tmp_path):
        states = []
        for options in ({}, {"gradient_clip_val": 0}, {"gradient_clip_val": -1}):
            torch.manual_seed(0)
            model = GLO(24, **SMALL)
            fit(model, data, tmp_path, **options)
            states.append(model.state_dict())
        assert equal(states[0], states[1])
        assert equal(states[0], states[2])

    def test_clipping_bounds_the_step_of_the_weights_alone(self, data, tmp_path):
        models = [GLO(24, **SMALL)]
        models.append(copy.deepcopy(models[0]))
        before = [weight.detach().clone() for weight in models[0].generator.parameters()]
        for model, options in zip(models, ({}, {"gradient_clip_val": 1e-3}), strict=True):
            fit(model, data, tmp_path, max_steps=1, **options)
        pairs = zip(models[1].generator.parameters(), before, strict=True)
        moved = torch.stack([(new.detach() - old).norm() for new, old in pairs]).norm()
        assert float(moved) == pytest.approx(1e-3, rel=1e-3)
        assert torch.equal(models[0].latents.weight, models[1].latents.weight)

    def test_clipping_bounds_a_subclasss_own_weights_too(self, data, tmp_path):
        moved = []
        for value in (None, 1e-6):
            model = Shifted(24, **SMALL)
            fit(model, data, tmp_path, max_steps=1, gradient_clip_val=value)
            moved.append(float(model.shift.detach().abs()))
        assert moved[0] > 1e-3
        assert 0 < moved[1] <= 1e-6

    def test_a_subclass_trains_its_own_weights_and_the_losss_stay(self, data, tmp_path):
        model = Shifted(24, **SMALL, loss=WithWeights)
        before = copy.deepcopy(model.loss.state_dict())
        fit(model, data, tmp_path)
        assert float(model.shift.detach().abs()) > 0
        assert equal(model.loss.state_dict(), before)
        assert all(weight.grad is None for weight in model.loss.parameters())  # which nobody would set to zero

    def test_half_precision_moves_rows_by_the_unscaled_gradient(self, data, tmp_path):
        models = [GLO(24, **SMALL, latent_lr=3.0)]
        models.append(copy.deepcopy(models[0]))
        initial = fit(models[0], data, tmp_path, max_steps=1).initial
        fit(models[1], data, tmp_path, max_steps=1, plugins=[ScaledLoss()])
        assert not torch.allclose(models[1].latents.weight, initial, atol=0.01)
        torch.testing.assert_close(models[1].state_dict(), models[0].state_dict())

    @pytest.mark.parametrize("where", ["weights", "rows"])
    def test_half_precision_moves_nothing_in_a_step_whose_gradients_overflow(self, data, tmp_path, monkeypatch, where):
        def overflow(trainer, module):
            next(module.generator.parameters()).grad[0] = float("inf")

        if where == "rows":
            infinite = partial(per_sample_gradients, batches_per_step=float("inf"))
            monkeypatch.setattr("glo_lightning.module.per_sample_gradients", lambda codes, _: infinite(codes))
        callback = LambdaCallback(on_after_backward=overflow if where == "weights" else None)
        model, precision = GLO(24, **SMALL, latent_lr=3.0), ScaledLoss()
        before = copy.deepcopy(list(model.generator.parameters()))
        initial = fit(model, data, tmp_path, callback, max_steps=1, plugins=[precision]).initial
        assert torch.equal(model.latents.weight, initial)
        assert all(map(torch.equal, model.generator.parameters(), before))
        assert precision.scaler.get_scale() == 512


GOOD = torch.zeros(8, 3, 32, 32)


class Stream(IterableDataset):
    """Batches without end."""

    def __iter__(self):
        while True:
            yield GOOD, torch.arange(8)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*no `val_dataloader`.*")
def test_a_stream_is_trained_on(tmp_path):
    model = GLO(8, **SMALL, init="random")
    trainer = fit(model, DataLoader(Stream(), batch_size=None), tmp_path, max_steps=3)
    assert trainer.global_step == 3
    assert "train/loss" in trainer.callback_metrics


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*no `val_dataloader`.*")
@pytest.mark.parametrize(
    ("images", "rows", "said"),
    [
        (GOOD.byte(), range(8), "images uint8 from 0 to 0: are not floats in"),
        (GOOD + 255, range(8), r"images float32 from 255 to 255: are not floats in \[-1, 1\]"),
        (GOOD * torch.nan, range(8), "images float32 from nan to nan: are not floats in"),
        (GOOD[:, :1], range(8), "channels 3: the images have 1. Give that"),
        (GOOD[..., :16, :16], range(8), "image_size 32: the images have 16. Give that"),
        (GOOD, range(1, 9), "num_images 8: a batch has row 8. Give the model a row for each image"),
        (GOOD[:, 0], range(8), r"batch list: is not \(images"),
    ],
    ids=["uint8", "0 to 255", "NaN", "grey", "smaller", "more rows", "no channels"],
)
def test_images_that_the_model_cannot_be_meant_for_are_refused_at_the_first_batch(tmp_path, images, rows, said):
    loader = DataLoader(list(zip(images, rows, strict=True)), batch_size=8)
    model = GLO(8, **SMALL, init="random")
    with pytest.raises(InputError, match=said):
        fit(model, loader, tmp_path)


class Rates(Callback):
    """The rates with which each step was taken."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(list(pl_module.learning_rates().values()))


class Stepped(GLO):
    """Divides the rate by ten after each epoch."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)}


class Shifted(GLO):
    """Has a weight besides the generator's."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def objective(self, codes, images):
        return self.loss(self.generator(codes) + self.shift, images)


class WithWeights(torch.nn.Module):
    """A distance of features, whose weights are not to be learned."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 2, 3)

    def forward(self, generated, images):
        return (self.features(generated) - self.features(images)).abs().mean()


class ScaledLoss(Precision):
    """What 16-mixed does, in single precision, for a CPU: torch's scaler, and 1024 times the loss."""

    def __init__(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def pre_backward(self, tensor, module):
        return self.scaler.scale(tensor)

    def optimizer_step(self, optimizer, model, closure, **_):
        result = closure()
        self.scaler.step(optimizer)
        self.scaler.update()
        return result


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
class TestHoldout:
    def test_held_out_images_change_nothing(self, data, tmp_path):
        held = LSUNDataModule(num_samples=32, holdout=8, image_size=32, batch_size=8)
        states = []
        for source in (data, held):
            torch.manual_seed(0)
            model = GLO(24, **SMALL)
            trainer = fit(model, source, tmp_path, max_epochs=2)
            states.append(model.state_dict())
            assert ("val/psnr" in trainer.callback_metrics) == (source is held)
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_val_psnr_is_one_figure_for_one_state_of_the_model_however_often_it_is_asked(self, tmp_path):
        class Seen(Callback):
            """What each validation has measured, and of which state."""

            def __init__(self):
                self.measured = {}

            def on_validation_end(self, trainer, pl_module):
                figure = float(trainer.callback_metrics["val/psnr"])
                self.measured.setdefault(trainer.global_step, []).append(figure)

        held = LSUNDataModule(num_samples=32, holdout=8, image_size=32, batch_size=8)
        often = {"num_sanity_val_steps": 1, "val_check_interval": 1}
        figures = []
        for options in ({"num_sanity_val_steps": 0}, often):
            torch.manual_seed(0)
            model, seen = GLO(24, **SMALL), Seen()
            trainer = fit(model, held, tmp_path, seen, max_epochs=2, **options)
            figures.append(seen.measured)
            for _ in range(2):
                assert trainer.validate(model, held, verbose=False)[0]["val/psnr"] == figures[-1][6][-1]
        assert {step: figures[1][step][0] for step in (3, 6)} == {step: figures[0][step][0] for step in (3, 6)}
        assert figures[1].keys() == {0, 1, 2, 3, 4, 5, 6}

    def test_val_psnr_is_about_that_of_a_full_search(self, tmp_path):
        held = LSUNDataModule(num_samples=32, holdout=8, image_size=32, batch_size=8)
        torch.manual_seed(0)
        model = GLO(24, **SMALL)
        trainer = fit(model, held, tmp_path, max_epochs=3)
        measured = trainer.validate(model, held, verbose=False)[0]["val/psnr"]
        images = held.dataset[list(range(24, 32))][0].float() / 127.5 - 1
        with torch.no_grad():
            generated = model.eval()(model.encode(images, held.dataset[list(range(24))][0]))
        error = ((generated - images).double() / 2).square().mean()
        assert measured == pytest.approx(float(-10 * error.log10()), abs=0.3)

    def test_predict_reconstructs_every_row_in_order(self, data, tmp_path):
        model = GLO(24, **SMALL)
        trainer = fit(model, data, tmp_path)
        reconstructions = torch.cat(trainer.predict(model, data))
        with torch.no_grad():
            torch.testing.assert_close(reconstructions, model.eval()(model.latents.weight))


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_images", 0), ("latent_dim", 25), ("n_pca", 0), ("latent_lr", -1), ("latent_lr", float("nan")),
     ("init", "zero"), ("constraint", "cube"), ("schedule", "step")],
)  # fmt: skip
def test_wrong_arguments_are_named(key, value):
    with pytest.raises(InputError) as error:
        GLO(**{"num_images": 24, **SMALL, key: value})
    assert error.value.key == key


def test_few_arguments():
    assert len(inspect.signature(GLO).parameters) <= 15


MANY = {"num_images": 24, **SMALL, "init": "random"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_images": 10**10},
        {"latent_dim": 10**6},
        {"generator": partial(SkipGenerator, width=4096)},
        {"latent_dim": 20_000, "latent_optimizer": WhitenedRows},
    ],
    ids=["table", "first layer", "width", "matrices"],
)
def test_more_than_memory_holds_is_refused_before_it_is_made(arguments, monkeypatch):
    monkeypatch.setattr("glo_lightning.memory.free_memory", lambda: 10**9)
    since = time.monotonic()
    with pytest.raises(InputError, match=r"would take [\d.]+ GB of memory, and 1.0 GB are free. Give less"):
        GLO(**MANY | arguments)
    assert time.monotonic() - since < 1


class Devices(Generator):
    """Says where it was made."""

    made_on: ClassVar[list[str]] = []

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.made_on.append(self.layers[0].weight.device.type)


def test_what_does_not_fit_is_made_on_no_device(monkeypatch):
    monkeypatch.setattr(Devices, "made_on", [])
    monkeypatch.setattr("glo_lightning.memory.free_memory", lambda: 10_000)
    with pytest.raises(InputError, match=r"generator test_module\.Devices: .* and its gradients would take"):
        GLO(**MANY | {"generator": Devices})
    assert set(Devices.made_on) == {"meta"}


@pytest.mark.parametrize(
    ("device", "batches", "mode"), [("cuda", 1, "reduce-overhead"), ("cuda", 2, None), ("cpu", 1, None)]
)
def test_gradients_that_are_added_up_are_kept_out_of_cuda_graphs(monkeypatch, device, batches, mode):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options["mode"]) or function)
    monkeypatch.setattr(GLO, "device", torch.device(device))
    model = GLO(8, **SMALL, init="random", compile=True)
    model.trainer = SimpleNamespace(accumulate_grad_batches=batches)
    model.on_fit_start()
    assert asked == [mode]
