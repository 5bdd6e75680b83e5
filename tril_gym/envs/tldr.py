"""TL;DR: summarise a Reddit post in a sentence or two."""

from __future__ import annotations

import functools

from tril_gym.data.example import Example
from tril_gym.data.task import DataRow, Hub, Task, text_of
from tril_gym.envs.config import text_env_config
from tril_gym.utils.templates import literals

PROMPT = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"


def read(row: DataRow, *, template: str = PROMPT) -> Example:
    """Format a post as the authors of the data set do; the reference is the summary by the writer of the post.

    Args:
        row: of the data set.
        template: format of the prompt, of subreddit, title and post.
    """
    subreddit = text_of(row, "subreddit").strip().removeprefix("r/")
    title, post, summary = (text_of(row, column).strip() for column in ("title", "post", "summary"))
    prompt = template.format(subreddit=subreddit, title=title, post=post)
    return Example(prompt, references=(summary,), suffix=literals(template)[-1])


TLDR = Task(
    name="tldr",
    columns=("post", "subreddit", "title", "summary"),
    read=read,
    prompt_template=PROMPT,
    max_prompt_length=500,
    max_new_tokens=50,
    prompt_truncation_side="right",
    hub=Hub(repository="vwxyzjn/summarize_from_feedback_tldr_3_filtered"),
)

tldr_config = functools.partial(text_env_config, TLDR)
