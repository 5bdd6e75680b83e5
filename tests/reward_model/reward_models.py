"""Small reward models and runs that several tests make."""

import json

import torch
import transformers
from preference_pairs import polite_pairs
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from tril_gym import rewards
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.reward_model.training import prepare_reward_model
from tril_gym.rewards.neural.training import FitConfig, train_tokenizer
from tril_gym.utils.console import RunConsole
from tril_gym.utils.seeding import seeded

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "max_length": 32}
SILENT = RunConsole(Console(quiet=True))


def new_run(dataset, folder, **settings):
    """A run of a few seconds in a new folder."""
    return prepare_reward_model(RewardModelConfig(dataset=dataset, **QUICK | settings), folder, console=SILENT)


def same_weights(one, other):
    """Whether two models have the same parameters and buffers, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def saved_model(folder, config, kind=transformers.AutoModelForCausalLM, **special):
    """A random model with a tokenizer, in a folder."""
    texts = [text for pair in polite_pairs(40) for text in (pair.prompt, pair.chosen, pair.rejected)]
    tokenizer = train_tokenizer(texts, FitConfig(positions=64))
    if special:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    with seeded(0):
        model = kind.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def gpt2(folder):
    """A decoder without padding."""
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 800}
    return saved_model(folder, transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1), eos_token="[CLS]")


def bart(folder):
    """An encoder-decoder whose texts must end in EOS, and whose head has a name that peft does not know."""
    shape = {"layers": 1, "attention_heads": 1, "ffn_dim": 32}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in shape.items()}
    config = transformers.BartConfig(d_model=32, max_position_embeddings=64, vocab_size=800, eos_token_id=1, **sizes)
    config.pad_token_id = 0
    name = saved_model(folder, config, transformers.AutoModelForSeq2SeqLM, eos_token="[CLS]", pad_token="[PAD]")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A [CLS]", special_tokens=[("[CLS]", 1)])
    tokenizer.save_pretrained(name)
    return name


def mixture_of_experts(folder):
    """A decoder whose weights have other names and shapes in its files than in memory."""
    config = transformers.MixtralConfig(
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        max_position_embeddings=64,
        vocab_size=800,
        eos_token_id=1,
    )
    return saved_model(folder, config, eos_token="[CLS]")


def preference_margins(folder, pairs):
    """Margins by the reward `preference`."""
    score = rewards.load("preference", model=folder)
    prompts, others = [pair.prompt for pair in pairs], ([[]] * len(pairs), [{}] * len(pairs))
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    return score(prompts, chosen, *others) - score(prompts, rejected, *others)


def reloaded_margins(folder, pairs):
    """Margins of an ordinary classifier folder, computed text by text."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    about = json.loads((folder / "reward_model.json").read_text())

    def reward(prompt, completion):
        text = about["template"].format(prompt=prompt, completion=completion)
        inputs = tokenizer(text, truncation=True, max_length=about["max_length"], return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits.item()

    return [reward(pair.prompt, pair.chosen) - reward(pair.prompt, pair.rejected) for pair in pairs]
