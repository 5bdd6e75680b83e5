"""Guides: actors that do not learn, which begin or finish the policy's texts.

A guide may be a language model with its own sampling settings, the references, or a function of texts. Only
`Distillation` reads a guide's logits; all other algorithms use its tokens only.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tril_gym.agents.actors.inference_server import InferenceServer
from tril_gym.agents.actors.past_successes import PastSuccesses
from tril_gym.agents.actors.policy import PolicyLike, as_policy
from tril_gym.agents.actors.references import References
from tril_gym.agents.actors.server_guide import ServerGuide
from tril_gym.agents.actors.text_guide import CallableGuide, TextFunction, text_writer
from tril_gym.agents.actors.tokenizer_bridge import CrossTokenizerBridge
from tril_gym.agents.collection.actor import Actor, Writer, as_actor
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import Decoding
from tril_gym.models.architecture import is_model
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import check_integer
from tril_gym.utils.servers import ServerAddress, ServerConfig, is_server_address
from tril_gym.utils.user_code import is_function_name


class Guide(Actor):
    """A language model that writes and does not learn.

    One whose tokenizer is another than the environment's meets the policy as text: it reads the text so far in its own
    tokens, and what it writes is tokenised for the policy. It writes at most 2 T tokens of its own.

    Args:
        policy: the model, or what `as_policy` makes one of, such as its name; it is never changed. To train a policy
            with itself as guide, use `policy.frozen_copy()`.
        temperature: divides the logits.
        top_k: sample from the k most probable tokens only.
        top_p: sample from the nucleus of this probability only; the paper's guides use 0.92.
        greedy: write the most probable tokens instead of sampling.
        min_new_tokens: no EOS before this many tokens, the guide's own; by default the environment's advice.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        policy: PolicyLike,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        min_new_tokens: int | None = None,
    ) -> None:
        decoding = Decoding(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
        self.policy = as_policy(policy, None).with_decoding(decoding)
        self.min_new_tokens = None if min_new_tokens is None else check_integer("min_new_tokens", min_new_tokens, 0)
        self._compared: tuple[Any, bool] = (None, False)  # a tokenizer, and whether its vocabulary differs

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> Writer:
        """Continue texts where they stop; see `Actor`."""
        if self.reads_text(layout):
            bridge = CrossTokenizerBridge(self.policy, layout)
            return text_writer(partial(bridge.continue_texts, self), texts, infos, layout)
        if self.min_new_tokens is not None:
            layout = replace(layout, min_new_tokens=self.min_new_tokens)
        return self.policy.start(texts, infos, layout)

    def reads_text(self, layout: TextLayout) -> bool:
        """Return whether its vocabulary differs from the environment's; see `Actor`."""
        own, other = self.policy.tokenizer, layout.tokenizer
        if own is None or other is None:
            return False
        if self._compared[0] is not other:
            self._compared = (other, own is not other and own.get_vocab() != other.get_vocab())
        return self._compared[1]

    def check(self, layout: TextLayout) -> None:
        """Raise `ValueError` for an environment that this guide cannot write in."""
        try:
            if self.reads_text(layout):
                CrossTokenizerBridge(self.policy, layout)
            else:
                self.policy.check(layout)
        except ValueError as error:
            raise ValueError(f"the guide does not fit the environment: {error}") from None

    def check_readings(self, layout: TextLayout) -> None:
        """Find how the model must be read, in the environment or in its own tokens; see `Actor`."""
        own = CrossTokenizerBridge(self.policy, layout).layout if self.reads_text(layout) else layout
        self.policy.check_readings(own)

    def settings(self) -> dict[str, Any]:
        """Return the keywords that make this guide again from its policy."""
        return asdict(self.policy.decoding) | {"min_new_tokens": self.min_new_tokens}

    def __repr__(self) -> str:
        return f"Guide({self.policy.description()})"

    @staticmethod
    def references() -> References:
        """Return the references of each prompt as a guide: an oracle that can only begin texts."""
        return References()

    @staticmethod
    def successes(minimum: float | None = None) -> PastSuccesses:
        """Return the best text so far of each example as a guide, empty at first; it can only begin texts.

        Args:
            minimum: least reward of a text that is kept; None: any.
        """
        return PastSuccesses(minimum)

    @staticmethod
    def from_callable(f: TextFunction, *, retries: int = 2, pause: float = 1.0) -> CallableGuide:
        """Return a function of texts as a guide: a template, a program, a service.

        Args:
            f: called once for a whole batch, `f(prompts, completions)`, two lists of strings: the prompts, and the
                completions so far, "" where none is begun. Returns one string for each: the rest of its text.
            retries: further calls after one that raised.
            pause: seconds before the second call; each further pause is twice as long.
        """
        return CallableGuide(f, retries=retries, pause=pause)

    @staticmethod
    def from_server(
        url: str,
        model: str | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        **settings: Any,
    ) -> ServerGuide:
        """Return a language model behind an inference server as a guide: vLLM, SGLang, llama.cpp, `transformers serve`.

        The server's key, if it has one, is read from the environment variable `key_variable`, by default
        TRIL_GYM_SERVER_KEY, and from nowhere else.

        Args:
            url: of the API, such as "http://localhost:8000/v1", whose /completions is asked; of its
                /chat/completions where the URL ends so.
            model: the model's name there; it may stand in the URL, after "#".
            temperature: divides the logits.
            top_k: sample from the k most probable tokens only.
            top_p: sample from the nucleus of this probability only.
            settings: fields of `ServerConfig`: `token_ids`, `concurrency`, `retries`, `pause`, `timeout`, `cache`,
                `key_variable`.

        Raises:
            ValueError: the URL or a setting is wrong. The server is asked when an agent is made.
        """
        decoding = Decoding(temperature=temperature, top_k=top_k, top_p=top_p)
        return ServerGuide(InferenceServer(ServerAddress.parse(url, model), decoding, ServerConfig(**settings)))


def as_guide(found: Any, tokenizer: Any) -> Actor:
    """Return a guide, or make one: "references", "successes", the address of a server, or a model as of `as_policy`.

    Raises:
        TypeError: it cannot write.
        ValueError: a function by name, or there is no model of this name.
    """
    if isinstance(found, str) and found == "references":
        return References()
    if isinstance(found, str) and found == "successes":
        return PastSuccesses()
    if isinstance(found, str) and is_function_name(found):
        raise ValueError(
            f"a guide that is a function is given itself, not by its name {found!r}: Guide.from_callable(f)"
        )
    if isinstance(found, str) and is_server_address(found):
        return Guide.from_server(found)
    if isinstance(found, str | Path) or is_model(found):
        return Guide(as_policy(found, tokenizer))
    return as_actor(found)
