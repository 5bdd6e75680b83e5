"""Chats as prompts: which messages a prompt has, and how a chat template spells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tril_gym.utils.tokenization import encode_chat, hidden_token, render_chat

Message = Mapping[str, Any]  # "role" and "content", both texts, and what else a template reads
PROMPT_MESSAGES = "prompt_messages"  # name of the extra that has the chat of a prompt
PROBE = "…"  # stands for the assistant's message where a template is tried out


@dataclass(frozen=True)
class ChatFormat:
    """How prompts become chats.

    Attributes:
        template: a chat template in Jinja; None: the tokenizer's own.
        system_prompt: the first message of chats that have no system message of their own; None: none.
        is_used: whether prompts that are texts are messages of a user, too.
    """

    template: str | None = None
    system_prompt: str | None = None
    is_used: bool = False

    @staticmethod
    def of(template: str | Path | None, system_prompt: str | None, *, has_chats: bool) -> ChatFormat:
        """Return the format of an environment's settings.

        Args:
            template: in Jinja, or a file with one.
            system_prompt: see the class.
            has_chats: whether there are chats among the prompts. Then, and where a template or a system prompt is
                given, all prompts are chats.

        Raises:
            ValueError: there is no such file, or a setting is no text.
        """
        for name, value in (("chat_template", template), ("system_prompt", system_prompt)):
            if value is not None and not (isinstance(value, str | Path) and str(value).strip()):
                raise ValueError(f"{name} must be a text that is not empty, got {value!r}")
        is_used = has_chats or template is not None or system_prompt is not None
        return ChatFormat(None if template is None else read_template(template), system_prompt, is_used)

    def check(self, tokenizer: Any) -> None:
        """Raise if a tokenizer's template cannot render such chats, or loses what they should have.

        Raises:
            ValueError: there is no template, it refuses a user's message, or it leaves the system prompt out.
        """
        if not self.is_used:
            return
        chat = self.messages("a", ())
        rendered = self.render(tokenizer, chat)
        if len(chat) > 1 and rendered == self.render(tokenizer, chat[1:]):
            raise ValueError(
                f"the chat template leaves system messages out, and so system_prompt={self.system_prompt!r}; write it"
                " at the beginning of the user's messages, or give another template, chat_template=FILE or"
                " --chat-template FILE"
            )

    def messages(self, prompt: str, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the chat of a prompt, () where prompts are texts."""
        if not self.is_used:
            return ()
        chat = tuple(messages) or ({"role": "user", "content": prompt},)
        if self.system_prompt is None or chat[0]["role"] == "system":
            return chat
        return ({"role": "system", "content": self.system_prompt}, *chat)

    def render(self, tokenizer: Any, messages: Sequence[Message]) -> str:
        """Return a chat as text; see `render_chat`."""
        return render_chat(tokenizer, messages, self.template)

    def encode(self, tokenizer: Any, messages: Sequence[Message]) -> list[int]:
        """Return a chat as ids; see `encode_chat`."""
        return encode_chat(tokenizer, messages, self.template)

    def around_completion(self, tokenizer: Any) -> tuple[str, str]:
        """Return what the template writes before and after the assistant's message: a space or nothing, and its end.

        Both are "" where the template does not show it.
        """
        user = self.messages("a", ())
        opened = self.render(tokenizer, user)
        whole = render_chat(tokenizer, (*user, {"role": "assistant", "content": PROBE}), self.template, is_open=False)
        before, found, after = whole.removeprefix(opened).partition(PROBE)
        if not (found and whole.startswith(opened)):
            return "", ""
        return before if before.isspace() else "", after

    def end_of_turn(self, tokenizer: Any) -> int | None:
        """Return the id of the special token with which the template ends the assistant's message; None without one."""
        after = tokenizer(self.around_completion(tokenizer)[1].strip(), add_special_tokens=False)["input_ids"]
        return hidden_token(tokenizer, tokenizer.convert_ids_to_tokens(after[0])) if after else None


def read_template(template: str | Path) -> str:
    """Return a chat template that is given as text or as a file.

    Raises:
        ValueError: it is neither.
    """
    if "{" in str(template):  # in Jinja
        return str(template)
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"chat_template must be a template in Jinja or a file with one, got {str(template)!r}, which cannot be"
            f" read ({error})"
        ) from error
