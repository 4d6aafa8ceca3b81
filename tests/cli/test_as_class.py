"""What a class makes of its own width: refused as a directory, or written as the class has it, and told."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import XGLMConfig, XGLMForCausalLM

SIZES = {"vocab_size": 97, "d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 20}


def test_a_directory_never_turns_into_another_file(cli, in_empty_folder: Path) -> None:
    torch.manual_seed(0)
    config = XGLMConfig(**SIZES, max_position_embeddings=40)
    XGLMForCausalLM(config).save_pretrained("xglm")
    refused = cli("coarsen", "xglm", "--width", 2, "--no-loss", "-o", "small")
    assert (refused.code, refused.out) == (1, "")
    assert "its buffer model.embed_positions.weights has other values than the program's" in refused.err
    assert (
        "save a program instead, with -o FILE.pt, or the class with its own constants, with --as-class"
        in (refused.err)
    )
    assert [path.name for path in in_empty_folder.iterdir()] == ["xglm"]

    written = cli("coarsen", "xglm", "--width", 2, "--no-loss", "-o", "small", "--as-class", "--json")
    assert written.code == 0, written.err
    notes = written.json["notes"]
    assert any("as the class has it: its buffer model.embed_positions.weights" in note for note in notes)
    assert any(note.startswith("with these constants outputs move by up to") for note in notes)
    loaded = XGLMForCausalLM.from_pretrained("small")
    assert loaded.config.d_model == 8
    assert not Path("small/mlgraph.pt").exists()
