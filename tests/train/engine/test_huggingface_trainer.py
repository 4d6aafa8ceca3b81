from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.train import Train, run_with_trainer, vcycle
from tests.train.models import Classifier, points


class WithLoss(Classifier):
    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_trains_every_phase(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    data = [{"x": x, "labels": y} for xs, ys in points(20) for x, y in zip(xs, ys, strict=True)]
    torch.manual_seed(0)
    program = mlgraph.capture(
        WithLoss(), kwargs={name: torch.stack([d[name] for d in data[:5]]) for name in data[0]}
    )
    phases = vcycle(40, init_steps=10, coarse_steps=20, lr=(1e-2, 2e-2))
    seen: list[tuple[int, float]] = []

    def make(module: nn.Module, phase: Train) -> Any:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=5,
            logging_steps=5,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
        )
        seen.append((sum(p.numel() for p in module.parameters()), phase.steps))
        return Trainer(module, arguments, train_dataset=data)

    trained, logs = run_with_trainer(program, phases, make)
    assert [steps for _, steps in seen] == [10, 20, 30]
    assert seen[0][0] == seen[2][0] > 2 * seen[1][0]
    losses = [float(record["loss"]) for record in logs if "loss" in record]
    assert losses[-1] < 0.7 * losses[0]
    assert {record["level"] for record in logs} == {1, 2}
    assert trained.tensors["out.weight"] is program.tensors["out.weight"]
