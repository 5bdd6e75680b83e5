"""Export the policy of a run as a folder that plain `transformers` loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.experiment.algorithms import decoding_of
from tril_gym.experiment.best import best_of_run
from tril_gym.experiment.held_out import EVALUATION
from tril_gym.experiment.model_card import CARD, model_card
from tril_gym.experiment.run_folder import POLICY, RunFolder
from tril_gym.utils.atomic_files import require_replaceable, write_folder
from tril_gym.utils.chats import read_template

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.functional.sampling import Decoding

# The settings of a generation config that choose the tokens before a text.
BEGINNINGS = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")


def export_policy(
    run: str | Path, folder: str | Path, *, checkpoint: str = "last", trust_remote_code: bool = False
) -> Path:
    """Write a policy of a run into a new folder, with its tokenizer, generation config and model card.

    An adapter is merged into its base; a base that was quantised in training is loaded in full for it. The folder is
    complete or not there.

    Args:
        run: a run folder of an agent.
        folder: where to write; empty, or a folder that does not exist.
        checkpoint: "last", "best", or the number of an iteration.
        trust_remote_code: run code that comes with the model.

    Returns:
        the folder.

    Raises:
        ValueError: no run with this checkpoint, or the folder is not empty.
    """
    source, folder = RunFolder(run), Path(folder)
    settings = source.read_config()
    if "algorithm" not in settings:
        raise ValueError(f"{source.path} is no run of an agent; the folder of a reward model is itself one to load")
    require_replaceable(folder)
    place, about = _chosen(source, checkpoint)
    policy = _plain_policy(place / POLICY, trust_remote_code=trust_remote_code)
    layout = about.get("layout", {})
    if template := (settings.get("env_args") or {}).get("chat_template"):
        policy.tokenizer.chat_template = read_template(template)
    policy.model.generation_config = generation_config(policy, layout, decoding_of(settings))
    card = model_card(
        folder.name,
        settings,
        iteration=about["iteration"],
        evaluation=source.read_json(EVALUATION) if (source.path / EVALUATION).is_file() else {},
        is_encoder_decoder=bool(policy.model.config.is_encoder_decoder),
        layout=layout,
        has_tokenizer=policy.tokenizer is not None,
    )

    def fill(new: Path) -> None:
        policy.save(new)
        (new / CARD).write_text(card, encoding="utf-8")

    write_folder(folder, fill)
    return folder


def _chosen(source: RunFolder, checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder with the policy of a checkpoint, and what agent.json says of it."""
    place = source.checkpoint_of(checkpoint)
    about: dict[str, Any] = json.loads((place / "agent.json").read_text(encoding="utf-8"))
    if checkpoint != "best":
        return place, about
    best, figures = best_of_run(source.path)
    return best, about | {"iteration": figures["iteration"]}


def _plain_policy(folder: Path, *, trust_remote_code: bool) -> LMPolicy:
    """Load the policy of a checkpoint, an adapter merged."""
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.models.pretrained import is_adapter, load_adapter, tokenizer_source
    from tril_gym.utils.tokenization import load_tokenizer

    settings: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
    if not is_adapter(folder):
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        return LMPolicy.from_pretrained(folder, with_tokenizer=has_tokenizer, **settings)
    lora, base_ref = load_adapter(folder, settings, in_full=True)
    return LMPolicy(lora.merged(), load_tokenizer(tokenizer_source(folder, base_ref)))


def generation_config(policy: LMPolicy, layout: Mapping[str, Any], decoding: Decoding) -> GenerationConfig:
    """Return the generation config by which `model.generate` samples as the policy does in its environment.

    Of the model's own it has the tokens with which texts begin. Others, such as the repetition penalty of Qwen2.5 and
    the beams of BART, would draw from another distribution than the policy's.

    Args:
        policy: the policy.
        layout: what `agent.json` has of the environment; empty in checkpoints without it.
        decoding: how the run samples.
    """
    from transformers import GenerationConfig

    tokenizer, own = policy.tokenizer, policy.model.generation_config
    ends = list(layout.get("eos_token_ids") or policy.eos_token_ids)
    if not ends and tokenizer is not None:
        ends = [tokenizer.eos_token_id]
    pad = None if tokenizer is None else tokenizer.pad_token_id
    found = {name: getattr(own, name) for name in BEGINNINGS} | {
        "do_sample": True,
        "temperature": decoding.temperature,
        "top_k": decoding.top_k or 0,  # 0: all; transformers has 50
        "top_p": 1.0 if decoding.top_p is None else decoding.top_p,
        "eos_token_id": ends if len(ends) != 1 else ends[0],
        "pad_token_id": ends[0] if pad is None and ends else pad,
    }
    names = {"max_new_tokens": "max_new_tokens", "min_new_tokens": "min_new_tokens", "stop": "stop_strings"}
    return GenerationConfig(**found, **{theirs: layout[ours] for ours, theirs in names.items() if layout.get(ours)})
