"""The policy's texts, written by an inference server that has a copy of its weights.

Before it writes, the server is given the weights if they have changed. Its log-probabilities are kept as those of the
sampler; a learner scores the texts again and weights them, see `functional.importance`.

B texts, T new tokens.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tril_gym.agents.actors.completions_protocol import Answer
from tril_gym.agents.actors.inference_server import InferenceServer, seed_of
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.server_guide import ask_ids, finished_ids
from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts
from tril_gym.utils.http_client import ServerError
from tril_gym.utils.ranks import ALONE, Ranks
from tril_gym.utils.servers import ServerAddress, ServerConfig


class HandOver(Protocol):
    """Gives a server the weights of a policy."""

    def __call__(self, policy: LMPolicy, server: InferenceServer, version: int) -> None:
        """Return when the server writes with these weights; `version` counts from 1."""


class ServedPolicy(Actor):
    """A policy whose texts a server writes.

    Args:
        policy: the policy that is trained. It samples from its full softmax at temperature 1: other log-probabilities
            no server returns.
        server: takes and returns ids of the policy's vocabulary, and their log-probabilities.
        hand_over: gives the server the weights, before the first text and after each change.
        ranks: the processes that train together. The main one hands the weights over, each asks for its own texts.
    """

    def __init__(self, policy: LMPolicy, server: InferenceServer, hand_over: HandOver, *, ranks: Ranks = ALONE) -> None:
        if server.config.cache is not None:
            raise ValueError(f"answers of changing weights cannot be kept, got cache={server.config.cache!r}")
        self.policy, self.server, self.hand_over, self.ranks = policy, server, hand_over, ranks
        self.version, self._state = 0, list[float]()
        self._checked_tokenizer: Any = None

    @staticmethod
    def from_server(
        policy: LMPolicy, url: str, hand_over: HandOver, *, model: str | None = None, **settings: Any
    ) -> ServedPolicy:
        """Return a policy whose texts are written by the server at a URL.

        Args:
            policy: see the class.
            url: of the API, such as "http://localhost:8000/v1#policy".
            hand_over: see the class.
            model: the model's name there, if the URL does not have it.
            settings: fields of `ServerConfig`, as of `Guide.from_server`.
        """
        server = InferenceServer(ServerAddress.parse(url, model), Decoding(), ServerConfig(**settings))
        return ServedPolicy(policy, server, hand_over)

    def __repr__(self) -> str:
        return f"ServedPolicy({self.policy!r}, {str(self.server.address)!r}, version {self.version})"

    def check(self, layout: TextLayout) -> None:
        """Raise `ValueError` for a policy or a server that do not fit the environment, or each other."""
        self.policy.check(layout)
        if self.policy.decoding.truncates or self.policy.decoding.temperature != 1.0:
            raise ValueError(
                f"a policy behind a server samples at temperature 1 from its full softmax, got {self.policy.decoding};"
                " leave temperature, top_k and top_p out"
            )
        try:
            self._bring_up_to_date()
            self.server.find_dialect()
            is_same = self.server.has_vocabulary(layout.tokenizer, layout.eos_token_ids)
        except ServerError as error:
            raise ValueError(f"the server {self.server.address} does not answer: {error}") from error
        self._checked_tokenizer = layout.tokenizer
        self.server.take_metrics()  # those of the questions above
        if not is_same:
            raise ValueError(f"{self.server.address} does not take and return ids of the policy's vocabulary")

    def gathered(self) -> AbstractContextManager[None]:
        """Give the server the weights where all processes are at the same point, as they are not at each `start`."""
        self._bring_up_to_date()
        return nullcontext()

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Continue texts where they stop; see `Actor`."""
        if self.ranks.size == 1 and self._checked_tokenizer is not layout.tokenizer:
            self.check(layout)
        if self.ranks.size == 1:
            self._bring_up_to_date()
        codec = codec_of(layout)

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            asked = list(zip(rows, map(seed_of, draws.tolist()), strict=True))
            answers = self.server.map(lambda one: ask_ids(self.server, texts, *one, layout), asked)
            pairs = list(zip(rows, answers, strict=True))
            ids = [finished_ids(answer, texts.completion_ids(row), layout, codec) for row, answer in pairs]
            return WrittenTexts(ids, [_logprobs(*pair) for pair in zip(answers, ids, strict=True)])

        return WholeTextWriter(write_texts, len(infos))

    def metrics(self) -> dict[str, float]:
        """Return requests, failures, seconds and tokens since the last call; see `Actor`."""
        return {f"server/{name}": value for name, value in self.server.take_metrics().items()}

    def _bring_up_to_date(self) -> None:
        """Give the server the weights, unless it has them; all processes call it."""
        state = _sums(self.policy.language_model.state_dict().values())  # a copy of the policy has no parameters
        if not self.ranks.any(state != self._state or self.version == 0):
            return
        self.version += 1
        policy = self.policy.with_language_model(self.policy.language_model.whole_copy())

        def hand_over(of_ranks: list[Any]) -> list[str]:
            self.hand_over(policy, self.server, self.version)
            return [self.server.model] * len(of_ranks)

        (self.server.model,) = self.ranks.on_main(hand_over, [None])
        self._state = state  # only now: where it raised, the server has older weights


def _sums(parameters: Iterable[Tensor]) -> list[float]:
    """Return the sum of each tensor: no step of an optimizer leaves all of them as they are."""
    sums = [parameter.detach().sum(dtype=torch.float64) for parameter in parameters]
    found: list[float] = torch.stack(sums).tolist() if sums else []
    return found


def _logprobs(answer: Answer, ids: list[int]) -> list[float]:
    """Return a log-probability for each id in nats; NaN where the server returned none."""
    known = list(answer.logprobs or ())[: len(ids)]
    return known + [math.nan] * (len(ids) - len(known))


class FolderHandOver:
    """Writes the weights as `transformers` does, in safetensors, and lets a function load them into the server.

    Args:
        folder: the weights of version n are in `folder/n`; only the last ones that were loaded are kept.
        load: called with that folder; returns when the server has loaded it.
    """

    def __init__(self, folder: str | Path, load: LoadWeights) -> None:
        self.folder, self.load = Path(folder), load

    def __call__(self, policy: LMPolicy, server: InferenceServer, version: int) -> None:
        """Write the weights and load them; see `HandOver`."""
        new = self.folder / str(version)
        policy.save(new)
        self.load(server, new.absolute())
        shutil.rmtree(self.folder / str(version - 1), ignore_errors=True)


class LoadWeights(Protocol):
    """Lets a server load weights from a folder."""

    def __call__(self, server: InferenceServer, folder: Path) -> None:
        """Return when the server writes with the weights of the folder."""


def load_into_sglang(server: InferenceServer, folder: Path) -> None:
    """Let SGLang load the weights of a folder that it can read, by its /update_weights_from_disk.

    Raises:
        ServerError: it does not.
    """
    answer = server.post_to_root("/update_weights_from_disk", {"model_path": str(folder)})
    if answer.get("success") is not True:
        raise ServerError(f"{server.address.root} could not load {folder}: {answer.get('message')}")


class AdapterHandOver:
    """Writes the LoRA adapter and lets vLLM load it, under a new name for each version.

    vLLM must run with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and read the same folder.

    Args:
        folder: the adapter of version n is in `folder/n`; only the last one is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, policy: LMPolicy, server: InferenceServer, version: int) -> None:
        """Write the adapter and load it; see `HandOver`.

        Raises:
            ValueError: the policy has no adapter.
        """
        if policy.lora is None:
            raise ValueError("an adapter is handed over of a policy with LoRA: policy.with_lora(8)")
        old, new = server.model, f"{server.address.model}-{version}"
        path = self.folder / str(version)
        policy.language_model.save_adapter(path)
        server.post_to_api("/load_lora_adapter", {"lora_name": new, "lora_path": str(path.absolute())})
        server.model = new
        if old != server.address.model:  # an adapter of an earlier version, seldom not the last: that one failed
            server.post_to_api("/unload_lora_adapter", {"lora_name": old})
            shutil.rmtree(self.folder / old.rpartition("-")[2], ignore_errors=True)
