"""The policy of a run or a model, to complete prompts with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tril_gym.experiment.actors import checkpoint_policy
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.utils.devices import check_device

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy


def sampled_policy(
    source: str, *, temperature: float | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> LMPolicy:
    """Load the last policy of a run, or a model by name or folder.

    Args:
        source: a run folder, or the name or folder of a model.
        temperature: of sampling; None: as the run trained, 1 for a model.
        device: torch device of the model.
        trust_remote_code: run code that comes with the model.

    Raises:
        ValueError: neither a run with a checkpoint nor a model.
    """
    from tril_gym.functional.sampling import Decoding

    check_device(device)
    folder, trained_at = RunFolder(source), 1.0
    if folder.is_run():
        config = saved_config(folder)
        trained_at = config.hyperparameters.get("temperature", 1.0)
        checkpoint = folder.last_checkpoint()
        policy = checkpoint_policy(replace(config, trust_remote_code=trust_remote_code), checkpoint).to(device)
    else:
        from tril_gym.agents.actors.policy import LMPolicy

        trust = {"trust_remote_code": True} if trust_remote_code else {}
        policy = LMPolicy.from_pretrained(source, **trust).to(device)
    return policy.with_decoding(Decoding(temperature=trained_at if temperature is None else temperature))
