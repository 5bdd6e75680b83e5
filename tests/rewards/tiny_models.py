"""Models of two layers with tokenizers, saved to folders for rewards to load.

Tokenizers read bytes: a text of n bytes has n tokens, and the special ones around it.
"""

import math
import warnings

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(1)
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(4)
V = 4 + 256
LAYOUTS = {  # special tokens around one text, and around two
    "none": None,
    "bos": ("<s> $A", "<s> $A $B:1"),
    "eos": ("$A </s>", "$A </s> $B:1 </s>:1"),
    "both": ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
}


def tokenizer(layout="none", *, max_length=64, **special):
    """Return a tokenizer of bytes; with "both", special tokens and token types are those of BERT."""
    vocab = {token: number for number, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if LAYOUTS[layout]:
        single, pair = LAYOUTS[layout]
        around = [("<s>", BOS), ("</s>", EOS)]
        made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=around)
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (layout == "both")
    tokens = {"eos_token": "</s>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=max_length, model_input_names=names, **tokens
    )


BERT_TOKENS = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}


def sharp(model, seed=0):
    """Draw larger weights than the default, so that every input matters; no global generator is used."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 1.5 / math.sqrt(parameter.shape[1]), generator=generator)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def config(family, **settings):
    """Return a configuration of two layers and width 32."""
    sizes = {"vocab_size": V, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS} | settings
    width = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if family == "bert":
        return transformers.BertConfig(**{"max_position_embeddings": 64} | width | sizes)
    if family == "roberta":
        return transformers.RobertaConfig(**{"max_position_embeddings": 66} | width | sizes)
    if family == "gpt2":
        return transformers.GPT2Config(**{"n_positions": 64} | {"n_embd": 32, "n_layer": 2, "n_head": 2} | sizes)
    if family == "llama":
        return transformers.LlamaConfig(**{"max_position_embeddings": 64} | width | sizes)
    if family == "t5":
        shape = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        return transformers.T5Config(**shape | {"decoder_start_token_id": PAD} | sizes)
    assert family == "bart", family
    shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape |= {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
    return transformers.BartConfig(**shape | {"decoder_start_token_id": EOS} | sizes)


def made(auto, family, *, seed=0, **settings):
    """Return a model of an Auto class with large weights."""
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, auto).from_config(config(family, **settings))
    return sharp(model, seed)


def saved(folder, model, tokens):
    """Save model and tokenizer; return the folder."""
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def classifier(folder, family="bert", *, num_labels=1, layout="both", tokens=BERT_TOKENS, seed=0, **settings):
    """Return a folder with a sequence classifier."""
    model = made("AutoModelForSequenceClassification", family, num_labels=num_labels, seed=seed, **settings)
    return saved(folder, model, tokenizer(layout, **tokens))


def language_model(folder, family="gpt2", *, layout="none", tokens=None, seed=0, max_length=64, **settings):
    """Return a folder with a causal or encoder-decoder language model."""
    auto = "AutoModelForSeq2SeqLM" if family in ("t5", "bart") else "AutoModelForCausalLM"
    model = made(auto, family, seed=seed, **settings)
    return saved(folder, model, tokenizer(layout, max_length=max_length, **tokens or {}))


def adapted(model, *, task_type=None, **settings):
    """Return a model with a random LoRA adapter; no global generator is used."""
    config = peft.LoraConfig(task_type=task_type, r=2, init_lora_weights=False, **settings)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name of transformers
        torch.manual_seed(0)
        return peft.get_peft_model(model, config).eval()


ODD = ["", " \n", "\N{DOG FACE}", "x" * 10_000, "\x00", "half \udce2", "</s>", "a </s> b", "a dog", "a dog"]


def score(reward, completions, prompts=None, references=None):
    """Return the scores of completions."""
    number = len(completions)
    return reward(prompts or ["p"] * number, completions, references or [["a ref"]] * number, [{}] * number)


def check_independence(reward, completions, **columns):
    """Check that scores are the same alone, in another order and in small batches, and differ between texts."""
    number = len(completions)
    together = score(reward, completions, **columns)
    assert together.dtype == np.float64
    assert together.shape == (number,)
    assert np.isfinite(together).all()

    def of(rows):
        part = {name: [column[row] for row in rows] for name, column in columns.items()}
        return score(reward, [completions[row] for row in rows], **part)

    alone = np.array([of([row])[0] for row in range(number)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of(range(number)[::-1]), alone[::-1], rtol=1e-5, atol=1e-5)
    assert len(set(alone.round(4))) > number // 2  # so that another order would be detected
    return together
