"""The network of a reward model: a sequence classifier with one output, by name, or a tiny one built for the pairs.

N pairs, L tokens of the longest text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tril_gym.data.preferences import Margins, Pair
from tril_gym.models.lora import ALL_LINEAR
from tril_gym.models.pretrained import align_storage, model_folder
from tril_gym.rewards.base import well_formed
from tril_gym.rewards.neural.preference import REPORT
from tril_gym.rewards.neural.pretrained import Ids, pad, quiet_loading
from tril_gym.rewards.neural.sequence_classifier import Classifier
from tril_gym.rewards.neural.training import FitConfig, build_model, train_tokenizer
from tril_gym.utils.atomic_files import scratch_folder
from tril_gym.utils.chats import ChatFormat
from tril_gym.utils.quiet import without_peft_warnings, without_progress_bars
from tril_gym.utils.seeding import seeded
from tril_gym.utils.templates import fields_of
from tril_gym.utils.tokenization import after_joiner, check_model_size, load_tokenizer, render_chat, without_own_bos

EVALUATION_BATCH = 64  # texts
HEADS = ("score", "classifier")  # names of heads that peft knows
# A small vocabulary: a thousand pairs teach little about rare words.
TINY_CONFIG = FitConfig(vocab_size=2000)
INITIAL_WEIGHTS = 0  # mixed into a run's seed

PairIds = tuple[Ids, Ids]  # the text with the chosen completion, and that with the rejected one


def pair_texts(pairs: Sequence[Pair], template: str, tokenizer: Any) -> list[str]:
    """Return the texts with the N chosen completions, then those with the N rejected ones.

    Args:
        pairs: the N pairs.
        template: layout of the text.
        tokenizer: renders prompts that are chats, as a policy's does; None where there is none yet.

    Raises:
        ValueError: a prompt is a chat, and there is no chat template for it.
    """
    has_prompt = "prompt" in fields_of(template)
    prompts = [_prompt_text(pair, tokenizer) if has_prompt else "" for pair in pairs]
    joiner = _chat_joiner(tokenizer) if any(pair.messages for pair in pairs) else ""
    pairs = [_after_chat(joiner, pair) if pair.messages else pair for pair in pairs]
    both = [(prompt, pair.chosen) for prompt, pair in zip(prompts, pairs, strict=True)]
    both += [(prompt, pair.rejected) for prompt, pair in zip(prompts, pairs, strict=True)]
    return [well_formed(template.format(prompt=prompt, completion=completion)) for prompt, completion in both]


def _prompt_text(pair: Pair, tokenizer: Any) -> str:
    if not pair.messages:
        return pair.prompt
    if tokenizer is None:
        raise ValueError(
            "the prompts are chats, and a tiny reward model has no chat template to read them with; name an instruct"
            ' model or a run with --model, or let it read completions alone: --template "{completion}"'
        )
    return render_chat(tokenizer, pair.messages)


def _chat_joiner(tokenizer: Any) -> str:
    """Return what a policy writes first after a rendered chat: a space where the template has one there."""
    if getattr(tokenizer, "chat_template", None) is None:
        return ""
    return ChatFormat(is_used=True).around_completion(tokenizer)[0]


def _after_chat(joiner: str, pair: Pair) -> Pair:
    return replace(pair, chosen=after_joiner(joiner, pair.chosen), rejected=after_joiner(joiner, pair.rejected))


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], *, template: str, max_length: int) -> list[PairIds]:
    """Return the ids of both texts of each pair; long texts are truncated on the left."""
    texts = without_own_bos(tokenizer, pair_texts(pairs, template, tokenizer))
    rows = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    rows = [ids or [tokenizer.pad_token_id] for ids in rows]  # a decoder's tokenizer returns no ids for an empty text
    return list(zip(rows[: len(pairs)], rows[len(pairs) :], strict=True))


def tiny_network(pairs: Sequence[Pair], *, template: str, max_length: int, seed: int) -> tuple[Any, Any]:
    """Return a one-layer BERT with initial weights, and its tokenizer, which is trained on the pairs."""
    config = replace(TINY_CONFIG, positions=max_length)
    tokenizer = train_tokenizer(pair_texts(pairs, template, None), config)
    with seeded(seed, INITIAL_WEIGHTS):
        return build_model(tokenizer, config, labels=("REWARD",)), tokenizer


def load_network(name: str, *, seed: int) -> tuple[Any, Any, list[str]]:
    """Return a model of `transformers` with one output, its tokenizer, and the names of its new modules.

    The head is new, unless the model already has one with one output.

    Raises:
        ValueError: no model that can classify sequences can be loaded by this name.
    """
    from transformers import AutoModelForSequenceClassification

    source = model_folder(name)
    name = str(Path(source).resolve()) if Path(source).is_dir() else name  # an adapter stores the path of its base
    try:
        with seeded(seed, INITIAL_WEIGHTS), quiet_loading():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                name, num_labels=1, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
            tokenizer = load_tokenizer(name, truncation_side="left", padding_side="right")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no reward model can be made of {name!r}; give tiny, or the folder or hub name of a model of transformers"
            f" with its tokenizer ({str(error).partition(chr(10))[0]})"
        ) from error
    if tokenizer.pad_token_id is None:  # a decoder's, which reads its output at the last token before padding
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    check_model_size(tokenizer, len(model.get_input_embeddings().weight), "embeddings", of=f" of {name!r}")
    drawn = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    return align_storage(model), tokenizer, sorted({key.rpartition(".")[0] for key in drawn})


def add_lora(
    model: Any,
    new: Collection[str],
    *,
    rank: int,
    alpha: float | None = None,
    targets: str | None = None,
    seed: int = 0,
) -> Any:
    """Return a model of which only new LoRA adapters and the new modules are trained and saved.

    Args:
        model: a sequence classifier.
        new: names of its modules that are new, as `load_network` gives them.
        rank: columns of the adapter's matrices.
        alpha: the adapter's product is multiplied by alpha / rank; by default 2 · rank.
        targets: comma-separated names of layers, or "all-linear"; by default peft's choice for the model.
        seed: of the first matrix of each adapter.

    Raises:
        ValueError: the model has no such layers.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    linear = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    # Peft trains and saves modules with the names of heads completely; other new modules must be named.
    whole = [path for path in linear if path in new or any(part.endswith(HEADS) for part in path.split("."))]
    every = [path for path in linear if path not in whole] if targets == ALL_LINEAR else None
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]  # a factor; peft says int
        target_modules=every or (targets.split(",") if targets else None),
        modules_to_save=sorted(path for path in {*whole, *new} if not {*path.split(".")[:-1]} & {*HEADS}),
    )
    try:
        with seeded(seed, INITIAL_WEIGHTS), without_peft_warnings():
            return get_peft_model(model, config)
    except (ValueError, TypeError) as error:  # peft raises either for layers that it cannot adapt
        names = ", ".join(sorted({path.rpartition(".")[2] for path in linear if path not in whole}))
        raise ValueError(
            f"LoRA cannot be added: {error}; name layers with --lora-targets: {ALL_LINEAR}, or among {names}"
        ) from error


def pad_pairs(pairs: Sequence[PairIds], pad_id: int) -> dict[str, torch.Tensor]:
    """Return ids and mask of the texts of B pairs, (2B, L) each: the chosen ones first."""
    return pad([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs], pad_id)


def pair_rewards(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rewards of the chosen and of the rejected completions of B pairs: (2B, L) to (B,) each."""
    logits = model(**inputs).logits.squeeze(-1)  # (2B,)
    chosen, rejected = logits.float().chunk(2)
    return chosen, rejected


def reward_margins(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, template: str, max_length: int) -> Margins:
    """Return the reward of each pair's chosen completion less that of the rejected one, (N,), without dropout."""
    was_training = model.training
    texts = pair_texts(pairs, template, tokenizer)
    found = Classifier(model, tokenizer).logits(texts, max_length=max_length, batch_size=EVALUATION_BATCH)[:, 0]
    model.train(was_training)
    return found[: len(pairs)] - found[len(pairs) :]


def save_network(model: Any, tokenizer: Any, folder: Path, report: dict[str, Any]) -> None:
    """Write a model, or an adapter, with its tokenizer and report into a folder; each file is replaced atomically."""
    with scratch_folder(folder / REPORT) as draft:
        with without_progress_bars(), without_peft_warnings():
            model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        for path in sorted(draft.iterdir(), key=lambda path: path.name == REPORT):  # it comes last
            path.replace(folder / path.name)
