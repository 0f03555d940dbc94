from pathlib import Path

from glo_lightning.training.arguments import expand_arguments


def test_trainer_arguments_work_with_and_without_prefix():
    default = Path("quickstart.yaml")
    arguments = ["--max_epochs", "5", "--precision=bf16-mixed", "--trainer.devices=2", "--data.root", "max_epochs"]
    assert expand_arguments(arguments, default)[0] == [
        "--config=quickstart.yaml",
        "--trainer.max_epochs", "5", "--trainer.precision=bf16-mixed", "--trainer.devices=2",
        "--data.root", "max_epochs",
    ]  # fmt: skip
    assert expand_arguments(["--config", "runs/a.yaml"], default) == (["--config=runs/a.yaml"], "a")
    assert expand_arguments(["-c", "a.yaml", "-c=b.yaml"], default) == (["--config=a.yaml", "--config=b.yaml"], "b")
