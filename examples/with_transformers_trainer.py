"""A V-cycle whose phases are trained by transformers.Trainer. Runs in a minute on a CPU.

python examples/with_transformers_trainer.py [--steps 60]
"""

import argparse
import sysconfig
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import mlgraph
from mlgraph.train import Train, run_with_trainer, vcycle
from mlgraph.train.data.text import TokenBlocks
from mlgraph.train.data.tokenizer import train_bpe


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([sample["input_ids"] for sample in samples])
    return {"input_ids": ids, "labels": ids}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    texts = [path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-c]*.py"))]
    tokenizer = train_bpe(texts, 512)
    ids = torch.tensor([i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids]).numpy()
    data = TokenBlocks(ids, 32)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=512, n_positions=32, n_embd=32, n_layer=4, n_head=4, use_cache=False)
    )
    program = mlgraph.capture(model, kwargs=collate([data[0], data[1], data[2]]))

    def make_trainer(module: torch.nn.Module, _phase: Train) -> Trainer:
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        )
        return Trainer(module, arguments, train_dataset=data, data_collator=collate)

    trained, logs = run_with_trainer(
        program, vcycle(steps, init_steps=steps // 6, coarse_steps=steps // 2), make_trainer
    )
    for record in logs:
        if "loss" in record:
            print(f"phase {record['phase']}  level {record['level']}  loss {float(record['loss']):.3f}")
    print(f"{trained.num_parameters():,} parameters trained")


if __name__ == "__main__":
    main()
