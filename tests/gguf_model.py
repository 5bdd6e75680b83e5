"""A GPT-2 with a byte-level BPE tokenizer as a GGUF file, which llama.cpp reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tril_gym.agents import LMPolicy

# Names of a block's tensors in transformers and in GGUF.
BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(policy: LMPolicy, path: Path) -> Path:
    """Write the model of a policy, float32, with its tokenizer and EOS."""
    import gguf

    config, tokenizer = policy.model.config, policy.tokenizer
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, policy.vocab_size)
    for name, tensor in _tensors(policy.model):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    from gguf import TokenType

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids)
    names = [tokenizer.convert_ids_to_tokens(token) or f"<unused{token}>" for token in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")  # whole words before merges, as the embedded vocabularies have no merges
    writer.add_token_list(names)
    writer.add_token_types(
        [
            TokenType.CONTROL if token in special else TokenType.NORMAL if token < len(tokenizer) else TokenType.UNUSED
            for token in range(vocab_size)
        ]
    )
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]] or ["Ġ Ġ"])  # llama.cpp wants one
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


def _tensors(model: Any) -> list[tuple[str, np.ndarray]]:
    def array(parameter: Any, *, transposed: bool = False) -> np.ndarray:
        found = parameter.detach().float().cpu().numpy()
        return np.ascontiguousarray(found.T if transposed else found)

    body = model.transformer
    found = [
        ("token_embd.weight", array(body.wte.weight)),
        ("position_embd.weight", array(body.wpe.weight)),
        ("output_norm.weight", array(body.ln_f.weight)),
        ("output_norm.bias", array(body.ln_f.bias)),
        ("output.weight", array(model.lm_head.weight)),
    ]
    for number, block in enumerate(body.h):
        for own, name in BLOCK.items():
            module = block.get_submodule(own)
            matrix = array(module.weight, transposed=module.weight.ndim == 2)  # Conv1D holds (in, out)
            found += [(f"blk.{number}.{name}.weight", matrix), (f"blk.{number}.{name}.bias", array(module.bias))]
    return found
