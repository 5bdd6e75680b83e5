"""TL;DR: summarise a Reddit post in a sentence or two."""

from __future__ import annotations

import functools

from tril_gym.data.example import Example
from tril_gym.data.task import DataRow, Hub, Task, text_of
from tril_gym.envs.config import text_env_config

PROMPT_SUFFIX = "\n\nTL;DR:"


def read(row: DataRow) -> Example:
    """Format a post as the authors of the data set do; the reference is the summary by the writer of the post."""
    subreddit = text_of(row, "subreddit").strip().removeprefix("r/")
    title, post, summary = (text_of(row, column).strip() for column in ("title", "post", "summary"))
    prompt = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}{PROMPT_SUFFIX}"
    return Example(prompt, references=(summary,), suffix=PROMPT_SUFFIX)


TLDR = Task(
    name="tldr",
    columns=("post", "subreddit", "title", "summary"),
    read=read,
    max_prompt_length=500,
    max_new_tokens=50,
    prompt_truncation_side="right",
    hub=Hub(repository="vwxyzjn/summarize_from_feedback_tldr_3_filtered"),
)

tldr_config = functools.partial(text_env_config, TLDR)
