"""The models of a saved agent: its policy, and its guide, or how the guide is made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tril_gym.agents.actors.guide import Guide
from tril_gym.agents.actors.past_successes import PastSuccesses
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import References
from tril_gym.agents.actors.server_guide import ServerGuide
from tril_gym.agents.collection.actor import Actor
from tril_gym.models.pretrained import is_adapter


def save_policy(policy: LMPolicy, folder: Path) -> None:
    """Write a policy as `policy/`, and its adapter if it has one as `lora/`."""
    policy.save(folder / "policy")
    if policy.lora is not None and not policy.language_model.is_quantised:
        policy.language_model.save_adapter(folder / "lora")


def saved_policy(
    folder: Path, *, trust_remote_code: bool = False, loading: Mapping[str, Any] | None = None
) -> LMPolicy:
    """Return the policy of a saved agent; `trust_remote_code` and `loading` as of `Agent.load`."""
    model = folder / "lora" if (folder / "lora").is_dir() else folder / "policy"
    return _saved_model(model, trust_remote_code=trust_remote_code, loading=loading)


def _saved_model(folder: Path, *, trust_remote_code: bool, loading: Mapping[str, Any] | None = None) -> LMPolicy:
    """Load what `LMPolicy.save` wrote, in its own precision, without a tokenizer if there was none."""
    settings = dict(loading or {})
    settings["with_tokenizer"] = (folder / "tokenizer_config.json").is_file()
    if trust_remote_code:
        settings["trust_remote_code"] = True
    if not is_adapter(folder):
        settings["dtype"] = "auto"
    return LMPolicy.from_pretrained(folder, **settings)


def save_guide(guide: Actor | None, *, policy: LMPolicy, folder: Path) -> None:
    """Write the model of a guide that has one; on the base of the policy, the difference from it."""
    if not isinstance(guide, Guide):
        return
    if guide.policy.shares_base(policy):
        guide.policy.language_model.save_delta(folder)
    elif guide.policy.lora is None:
        guide.policy.save(folder)
    else:
        guide.policy.language_model.save_adapter(folder)


def describe_guide(guide: Actor | None, policy: LMPolicy) -> dict[str, Any] | None:
    """Return the kind of a guide and its settings, as plain data."""
    if isinstance(guide, Guide):
        kind = "model on the policy's base" if guide.policy.shares_base(policy) else "model"
        return {"kind": kind} | guide.settings()
    if isinstance(guide, PastSuccesses):
        return {"kind": "successes", "minimum": guide.minimum}
    if isinstance(guide, ServerGuide):
        return {"kind": "server"} | guide.settings()
    if guide is None:
        return None
    return {"kind": "references" if isinstance(guide, References) else "other"}


def saved_guide(folder: Path, about: dict[str, Any], policy: LMPolicy, *, trust_remote_code: bool) -> Actor:
    """Return the guide of a saved agent.

    Args:
        folder: of the agent.
        about: what `describe_guide` returned.
        policy: of the agent, whose base the guide may share.
        trust_remote_code: as of `Agent.load`.

    Raises:
        ValueError: the guide could not be saved; or it is a server, which is sent the prompts and a key, and the folder
            is not trusted.
    """
    settings = dict(about)
    kind = settings.pop("kind")
    if kind == "references":
        return References()
    if kind == "successes":
        return PastSuccesses(**settings)
    if kind == "server" and trust_remote_code:
        return Guide.from_server(**settings)
    if kind == "model":
        return Guide(_saved_model(folder / "guide", trust_remote_code=trust_remote_code).to(policy.device), **settings)
    if kind == "model on the policy's base":
        return Guide(policy.with_language_model(policy.language_model.load_delta(folder / "guide")), **settings)
    if kind == "server":
        url = settings["url"]
        raise ValueError(
            f"the guide of the agent in {folder} is the server {url}, which would get the prompts and its key; if you"
            f" trust the folder, load(..., trust_remote_code=True), else pass a guide: guide=Guide.from_server({url!r})"
        )
    raise ValueError(f"the guide of the agent in {folder} could not be saved; pass it: load(..., guide=...)")
