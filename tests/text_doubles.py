"""Test doubles for guides of text: tokenizers, environments that use them, actors that write given texts."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from doubles import generator, language_model
from gymnasium.vector import VectorEnv
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Actor, LMPolicy, Plan, TextLayout, Trajectories, Writer, collect
from tril_gym.data import Example
from tril_gym.models.texts import Texts

SENTENCES = [
    "the dog runs in the park.", "dogs bark at cats, and cats run.", "a running man sits.", "The park is for dogs!",
    "doggedly going on and on", "a cat sat on the mat - or not?", "concepts: dog park. sentence:",
]  # fmt: skip
EXAMPLES = [
    Example(f"concepts: {' '.join(words)}. sentence:", (f"the {words[0]} sits.",))
    for words in (["dog", "park"], ["cat", "mat", "sit"], ["man", "run"], ["dog", "bark", "cat", "man"], ["cats"])
]
NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}


def byte_tokenizer(merges: int = 40, sentences: Sequence[str] = tuple(SENTENCES)) -> Any:
    """Byte-level BPE as of GPT-2. Without merges a token is a byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 3 + merges,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def metaspace_tokenizer(model: str = "unigram", scheme: str = "always") -> Any:
    """Pieces with word marks and an EOS after every prompt, as of T5 (unigram); Llama's are merges (bpe)."""
    special = {"special_tokens": ["<pad>", "</s>", "<unk>"], "show_progress": False}
    if model == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=90, unk_token="<unk>", **special)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=110, **special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def normalizing_tokenizer() -> Any:
    """Merges whose word mark is put before every text by a normaliser, and a BOS, as of Llama 2 and Mistral 7B."""
    trained = metaspace_tokenizer("bpe").backend_tokenizer
    tokenizer = Tokenizer(trained.model)
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", **NAMES)


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "unigram": metaspace_tokenizer,
    "unigram-first": lambda: metaspace_tokenizer(scheme="first"),
    "merges": lambda: metaspace_tokenizer("bpe"),
    "normalizing": normalizing_tokenizer,
}


def text_envs(tokenizer: Any, num_envs: int = 8, mode: str = "Disabled", **settings: Any) -> VectorEnv:
    settings = {"max_prompt_length": 60, "max_new_tokens": 30, "reward": None} | settings
    return gym.make_vec(
        "tril/CommonGen-v0",
        num_envs=num_envs,
        autoreset_mode=mode,
        dataset=EXAMPLES,
        tokenizer=tokenizer,
        **settings,
    )


def model_of(tokenizer: Any, family: str = "gpt2", *, seed: int = 0, **settings: Any) -> LMPolicy:
    """A small random policy in float64, so that rounding in batches of different size decides no token."""
    settings = {"positions": 200, "dtype": torch.float64} | settings
    return LMPolicy(language_model(family, vocab_size=len(tokenizer), seed=seed, **settings), tokenizer)


class Says:
    """A callable guide that records its arguments; the length of a completion chooses the answer."""

    def __init__(self, answers: Sequence[str] = ("The dog runs.",)) -> None:
        self.answers = answers
        self.asked: list[tuple[list[str], list[str]]] = []

    def __call__(self, prompts: list[str], completions: list[str]) -> list[str]:
        self.asked.append((prompts, completions))
        return [self.answer(completion) for completion in completions]

    def answer(self, completion: str) -> str:
        return self.answers[len(completion) % len(self.answers)]


class Dictates(Actor):
    """An actor that writes given tokens, one list for each text of a batch in turn, from where the text stops."""

    def __init__(self, texts: Sequence[list[int]]) -> None:
        self.texts = texts

    def start(self, texts: Texts, infos: Any, layout: TextLayout) -> "DictatesWriter":
        begun = texts.lengths.tolist()
        return DictatesWriter([self.texts[row % len(self.texts)][n:] for row, n in enumerate(begun)])


class DictatesWriter(Writer):
    def __init__(self, texts: list[list[int]]) -> None:
        self.texts, self.column = texts, 0

    def next(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        self.column += 1
        tokens = torch.tensor([text[self.column - 1] for text in self.texts])
        return tokens, torch.full(tokens.shape, -0.5)

    def keep(self, rows: Tensor) -> None:
        self.texts = [self.texts[row] for row in rows.tolist()]


def write(envs: VectorEnv, plan: Plan, episodes: int = 8, seed: int = 1) -> Trajectories:
    return collect(envs, plan, episodes=episodes, generator=generator(seed))


def completions(trajectories: Trajectories) -> list[str]:
    return [info["completion"] for info in trajectories.infos]


def ids_of(trajectories: Trajectories) -> list[list[int]]:
    rows = zip(trajectories.tokens.tolist(), trajectories.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


def encoded(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
