"""BERT by masked language modelling, in a V-cycle. Runs in minutes on a CPU.

python examples/bert_mlm.py [--steps 100]
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForMaskedLM

from mlgraph.train import Optimizer, Schedule, run, vcycle
from mlgraph.train.data.text import MaskedBlocks
from mlgraph.train.data.tokenizer import special_token, train_bpe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-f]*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    tokenizer = train_bpe(texts, 1024)
    ids = torch.tensor([i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids]).numpy()
    data = MaskedBlocks(ids, 64, special_token(tokenizer, "mask_token"), tokenizer.get_vocab_size())
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=1024, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256
        )
    )
    result = run(
        model,
        vcycle(steps, init_steps=steps // 10, coarse_steps=steps // 2, alpha=0.5),
        DataLoader(data, batch_size=16, shuffle=True),
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.98)),
        schedule=Schedule("linear", warmup=10),
        log_every=max(steps // 10, 1),
        progress=True,
    )
    for record in result.history:
        if "loss" in record:
            print(f"step {record['step']:4d}  level {record['level']}  loss {record['loss']:.3f}")


if __name__ == "__main__":
    main()
