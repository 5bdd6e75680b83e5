"""Write docs/models.md: which families of `transformers` work, found by the check that every run makes.

    python scripts/models_table.py                  # all families: minutes
    python scripts/models_table.py llama mamba t5   # some, printed

A tiny model with random weights is built from each family's configuration, and `agents.actors.model_check` reads the
same texts with it in all ways. Families that need a picture or sound, or settings that this script does not know, are
listed as not tried.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tril_gym.agents.actors.model_check import ModelReport, examine
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.models.decoders import ReadingMode
from tril_gym.models.language_model import LanguageModel

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
LAYOUT = TextLayout(max_prompt_length=12, max_new_tokens=8, vocab_size=64, eos_token_ids=(1,))
SECONDS = 60  # for one family
# Sizes of a tiny model, by the name of the setting; each family takes those that its configuration has.
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "ffn_dim": 48,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "sliding_window": 6,
    "attention_window": 8,
    "attention_chunk_size": 8,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "attention_hidden_size": 32,
    "lru_width": 32,
    "word_embed_proj_dim": 32,
    "rotary_dim": 4,
    "mlp_ratio": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
    "use_cache": True,
}
LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # attention with a compressed cache has a key for each head
DECODER = {"is_decoder": True}  # encoders that can be decoders
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
FIXED = {"num_key_value_heads": None, "head_dim": None, "v_head_dim": None}  # what follows from other settings
# Settings of single families, beyond or instead of the sizes above; None leaves a size out.
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "axk1", "glm4_moe_lite"), LATENT),
    **dict.fromkeys(("deepseek_v32", "axk2", "glm_moe_dsa"), LATENT | {"index_topk": 4}),
    "hy_v4": {"index_topk": 4},
    **dict.fromkeys(("longcat_flash", "minicpm3", "youtu"), LATENT),
    **dict.fromkeys(("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"), DECODER),
    **dict.fromkeys(("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"), DECODER),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod", "reformer"), DECODER),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "minimax"), MIXED),
    **dict.fromkeys(("falcon", "xlstm"), FIXED),
    "bart": {"is_encoder_decoder": True},
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "moe_jitter_eps": 0.1},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {"num_kv_shared_layers": 0, "head_dim": None, "num_key_value_heads": None},
    "gemma4_unified_text": {"num_kv_shared_layers": 0, "head_dim": None, "num_key_value_heads": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longt5": {"encoder_attention_type": "local", "local_radius": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "minimax_m3_vl_text": {"layer_types": ["minimax_m3_sparse"] * 2, "index_head_dim": 8}
    | {"index_topk_blocks": 1, "index_block_size": 4, "index_local_blocks": 1},
    "mixtral": {"router_jitter_noise": 0.1},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"]},
    "opt": {"word_embed_proj_dim": 16},
    "phi3": {"max_position_embeddings": 64, "original_max_position_embeddings": 64},
    "plbart": {"is_encoder_decoder": True},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": 2, "num_encoder_attention_heads": 4}
    | {"num_decoder_attention_heads": 4},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "reformer": DECODER | {"axial_pos_embds": False, "attn_layers": ["local", "local"]} | {"attention_head_size": 8},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "router_jitter_noise": 0.1},
    "xlnet": {"max_position_embeddings": None},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "attention_head_dim": 16},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "attention_hidden_size": 64, "num_key_value_heads": 4}
    | {"attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


class TooSlowError(Exception):
    """A family took longer than `SECONDS`."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    family: str
    kind: str  # "causal" or "encoder-decoder"
    verdict: str  # "works", "works with …", "refused" or "not tried"
    reason: str


def families() -> dict[str, str]:
    """Return the kind of each family that `transformers` can load."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    return dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "causal") | dict.fromkeys(
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, "encoder-decoder"
    )


def tiny_config(family: str) -> Any:
    """Return a configuration of a family with tiny sizes."""
    from transformers import CONFIG_MAPPING

    return shrunk(CONFIG_MAPPING[family], SETTINGS.get(family, {}))


def shrunk(kind: Any, settings: dict[str, Any]) -> Any:
    """Return a configuration with tiny sizes, its parts (encoder, decoder, text) included."""
    default = kind()
    kept = {name: value for name, value in SIZES.items() if settings.get(name, value) is not None or value is None}
    sizes = {name: value for name, value in kept.items() if hasattr(default, name)}
    if default.is_encoder_decoder:
        sizes["decoder_start_token_id"] = SIZES["decoder_start_token_id"]
    for name in {*kind.sub_configs} - {*settings}:
        part = getattr(default, name)
        if part is not None:
            sizes[name] = shrunk(type(part), SETTINGS.get(part.model_type, {}))
    chosen = sizes | settings
    return kind(**{name: value for name, value in chosen.items() if value is not None or name.startswith("forced")})


def tiny_model(family: str, kind: str, *, seed: int = 0) -> Any:
    """Return a tiny model of a family, with weights so large that its distributions depend on every input."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = tiny_config(family)
    loader = AutoModelForSeq2SeqLM if kind == "encoder-decoder" else AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(weight.numel() for weight in loader.from_config(config).parameters())
    if size > 2e7:
        raise ValueError(f"its smallest configuration here has {size / 1e6:.0f} million weights")
    torch.manual_seed(seed)
    model = loader.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[1]), generator=generator)
    return model


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `TooSlowError` when the block takes longer."""

    def stop(*_: Any) -> None:
        raise TooSlowError(f"took more than {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def try_family(family: str, kind: str) -> Row:
    """Build a tiny model of a family and check it."""
    try:
        with time_limit(SECONDS):
            model = tiny_model(family, kind)
    except Exception as error:
        return Row(family, kind, "not tried", first_line(error))
    try:
        with time_limit(SECONDS):
            report = examine(LanguageModel(model, None), LAYOUT, values=True)
    except Exception as error:
        return Row(family, kind, "refused", first_line(error))
    return Row(family, kind, *verdict(report))


def verdict(report: ModelReport) -> tuple[str, str]:
    """Return what the table says of a report, and why."""
    if not report.is_right:
        return "refused", report.wrong
    mode = report.mode
    limits = {"batch": "whole batches in the cache", "none": "no cache"}
    if mode.cache in limits:
        return f"works with {limits[mode.cache]}", "texts begin in the first column" if mode.from_first_column else ""
    if mode.from_first_column:
        return "works", "beginnings of different lengths are written without a cache"
    return "works", "" if mode == ReadingMode() else "texts do not share rows"


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.80}"


MARKS = "<!-- table -->", "<!-- /table -->"


def with_table(page: str, rows: list[Row]) -> str:
    """Return the page with these rows in place of its table."""
    import transformers

    counts = Counter(row.verdict.split(" with")[0] for row in rows)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{versions}: {found}.\n\n{table(rows)}\n{MARKS[1]}{after}"


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| family | kind | verdict | notes |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row.family}` | {row.kind} | {row.verdict} | {row.reason.replace('|', ' ')} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Check families, and print or write the table."""
    import transformers

    transformers.logging.set_verbosity_error()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="model types; default: all, and write the document")
    chosen = parser.parse_args().families
    known = families()
    rows = []
    for family in chosen or sorted(known):
        rows.append(try_family(family, known[family]))
        print(f"{family:28} {rows[-1].verdict:36} {rows[-1].reason}", flush=True)
    if not chosen:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), rows))


if __name__ == "__main__":
    main()
