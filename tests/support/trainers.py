"""Training functions over Lightning's and Hugging Face's Trainer, as their users write them."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainingArguments

from gatesweep import huggingface
from gatesweep.lightning import GateCallback, ckpt_path
from tests.support.functions import Classifier, pictures


class Net(L.LightningModule):
    """The classifier with batch normalisation and dropout, a schedule by epochs, and metrics logged in three hooks."""

    def __init__(self, width: int, lr: float, nap: float = 0.0) -> None:
        super().__init__()
        self.lr, self.nap, self.model = lr, nap, Classifier(width)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train_steps", float(self.global_step))
        time.sleep(self.nap)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("val_accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)]


def fit(config: dict[str, Any]) -> None:
    """Train the Lightning module with a Trainer that is left at its defaults, but for `config["trainer"]`."""
    path = ckpt_path()  # before anything draws random numbers
    options = {"max_epochs": 8, "accelerator": "cpu", **config.get("trainer", {})}
    trainer = L.Trainer(**options, callbacks=[GateCallback()])
    train = DataLoader(TensorDataset(*pictures(192, seed=0)), batch_size=32, shuffle=True)
    held_out = DataLoader(TensorDataset(*pictures(96, seed=1)), batch_size=96)
    net = Net(config.get("width", 4), config.get("lr", 0.01), config.get("nap", 0.0))
    trainer.fit(net, train, held_out, ckpt_path=None if config.get("forget") else path)


class Rows(Dataset[dict[str, Tensor]]):
    """Pictures as rows of a Hugging Face data set."""

    def __init__(self, count: int, seed: int) -> None:
        self.x, self.y = pictures(count, seed)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Model(nn.Module):
    """The classifier as the Trainer calls it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = Classifier(width)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def train(config: dict[str, Any]) -> None:
    """Train with a Hugging Face Trainer whose folder is in the working directory, the same for all trials."""
    path = huggingface.checkpoint()

    def compute_metrics(found: Any) -> dict[str, float]:
        time.sleep(config.get("nap", 0.0))
        return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}

    arguments = TrainingArguments(
        **{
            **{"output_dir": "out", "num_train_epochs": 8, "per_device_train_batch_size": 32, "use_cpu": True},
            **{"learning_rate": config.get("lr", 0.01), "eval_strategy": "epoch", "disable_tqdm": True},
            **config.get("arguments", {}),
        }
    )
    trainer = Trainer(
        Model(config.get("width", 4)),
        arguments,
        train_dataset=Rows(192, seed=0),
        eval_dataset=Rows(96, seed=1),
        compute_metrics=compute_metrics,
        callbacks=[huggingface.GateCallback()],
    )
    trainer.train(resume_from_checkpoint=None if config.get("forget") else path)


def either(config: dict[str, Any]) -> None:
    """Train with the Trainer that `config["kind"]` names."""
    (fit if config["kind"] == "lightning" else train)(config)
