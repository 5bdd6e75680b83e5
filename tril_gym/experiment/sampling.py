"""The policy of a run or a model, to complete prompts with, and how its prompts and completions are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.experiment.actors import checkpoint_policy
from tril_gym.experiment.algorithms import decoding_of
from tril_gym.experiment.best import read_best
from tril_gym.experiment.checkpoints import saved_layout
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_folder import BEST, RunFolder
from tril_gym.utils.chats import ChatFormat
from tril_gym.utils.devices import check_device

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy


@dataclass(frozen=True)
class Sampler:
    """Completes prompts of one's own."""

    policy: LMPolicy
    stop: tuple[str, ...]  # strings at which a completion ends
    chat: ChatFormat  # how prompts become chats
    check_model: bool = True  # whether it is checked how the model reads

    def complete(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """Return a completion of each prompt; settings as of `LMPolicy.generate`."""
        chats = [[*self.chat.messages(prompt, ())] or prompt for prompt in prompts]
        if self.chat.template is not None:
            self.policy.tokenizer.chat_template = self.chat.template
        found: list[str] = self.policy.generate(chats, stop=list(self.stop), check_model=self.check_model, **settings)
        return found


def sampler(
    source: str,
    *,
    temperature: float | None = None,
    device: str = "cpu",
    stop: Sequence[str] | None = None,
    chat: bool | None = None,
    system_prompt: str | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    check_model: bool = True,
) -> Sampler:
    """Load the last policy of a run, or a model by name or folder.

    Args:
        source: a run folder, its `best`, or the name or folder of a model.
        temperature: of sampling; None: as the run trained, 1 for a model.
        device: torch device of the model.
        stop: strings at which a completion ends; None: those of the run.
        chat: whether prompts are messages of a user; None: as in the run, and where a system prompt or a template is
            given.
        system_prompt: the message before each prompt; None: that of the run.
        chat_template: a template in Jinja or a file with one; None: that of the run, or the tokenizer's.
        trust_remote_code: run code that comes with the model.
        check_model: check how the model reads, unless the run did not.

    Raises:
        ValueError: neither a run with a checkpoint nor a model.
    """
    check_device(device)
    folder = RunFolder(source)
    if folder.is_run():
        policy, layout, config = _of_run(folder, folder.last_checkpoint(), trust_remote_code)
    elif folder.path.name == BEST and read_best(folder.path) and RunFolder(folder.path.parent).is_run():
        policy, layout, config = _of_run(RunFolder(folder.path.parent), folder.path, trust_remote_code)
    else:
        from tril_gym.agents.actors.policy import LMPolicy

        trust = {"trust_remote_code": True} if trust_remote_code else {}
        policy, layout, config = LMPolicy.from_pretrained(source, **trust), {}, RunConfig(algorithm="none")
        layout["stop"] = policy.model.generation_config.stop_strings or ()  # of an exported policy
    decoding = policy.decoding if temperature is None else replace(policy.decoding, temperature=temperature)
    own = config.env_args
    known = {"template": own.get("chat_template"), "system_prompt": own.get("system_prompt")}
    given = {"template": chat_template, "system_prompt": system_prompt}
    settings = known | {name: value for name, value in given.items() if value is not None}
    is_chat = bool(layout.get("chat")) if chat is None else chat
    texts = layout.get("stop", ()) if stop is None else stop
    form = ChatFormat() if chat is False else ChatFormat.of(**settings, has_chats=is_chat)
    return Sampler(
        policy=policy.to(device).with_decoding(decoding),
        stop=(texts,) if isinstance(texts, str) else tuple(texts),
        chat=form,
        check_model=check_model and config.hyperparameters.get("check_model", True),
    )


def _of_run(folder: RunFolder, saved: Path, trust_remote_code: bool) -> tuple[LMPolicy, dict[str, Any], RunConfig]:
    """Return a policy of a run that samples as in training, the layout of its environment, and the settings of the run.

    Args:
        folder: the run.
        saved: one of its checkpoints, or its best policy.
        trust_remote_code: run code that comes with the model.
    """
    config = saved_config(folder)
    policy = checkpoint_policy(replace(config, trust_remote_code=trust_remote_code), saved)
    layout = saved_layout(folder.last_checkpoint())
    if "eos_token_ids" in layout:  # those of the environment, which may be more than the model's own
        policy.end_texts_at(layout["eos_token_ids"])
    return policy.with_decoding(decoding_of(asdict(config))), layout, config
