"""Generator of TL;DR rows: a post that asks for advice, its subreddit, its title, and a summary of 1 or 2 sentences.

A post has an introduction, a problem of its forum, details, what was tried, and a question. The summary repeats the
problem, in some cases one of the attempts, and in most the question, in nearly the words of the post, so that it can be
learned by copying; the others end with a complaint. The words are in `tldr_tables`.
"""

import random
import re
from collections.abc import Iterator

from tril_gym.data.embedded.phrases import capital, option, options
from tril_gym.data.embedded.tldr_tables import (
    BEFORE_ASK,
    CLOSINGS,
    COMPLAINTS,
    ENDINGS,
    FEELINGS,
    FORUMS,
    HERS,
    HIS,
    INTROS,
    LASTING,
    MEN,
    PETS,
    SINCE,
    SPANS,
    SUMMARIES,
    TRIED,
    WOMEN,
)

SHORTEST, LONGEST = 40, 90  # words of a post
SHORTEST_SUMMARY, LONGEST_SUMMARY = 8, 24  # words


def draw_person(rng: random.Random, who: str) -> dict[str, str]:
    """Draw a name, and return it with its pronouns."""
    woman = who in WOMEN or (who not in MEN and rng.random() < 0.5)
    he, him, his = ("she", "her", "her") if woman else ("he", "him", "his")
    return {"name": rng.choice(HERS if woman else HIS), "he": he, "He": capital(he), "him": him, "his": his}


def draw_row(rng: random.Random, subreddit: str) -> dict[str, str]:
    """Draw one post with its summary."""
    forum = FORUMS[subreddit]
    slots = {slot: option(rng, choices) for slot, choices in forum.slots.items()}
    slots |= draw_person(rng, slots.get("who", ""))
    slots |= {"pet": rng.choice(PETS), "age": str(rng.randint(18, 45)), "span": rng.choice(SPANS)}
    title, story, short = (text.format(**slots) for text in rng.choice(forum.problems))
    slots["try1"], slots["try2"] = (text.format(**slots) for text in rng.sample(options(forum.tries), 2))
    slots |= {"Try1": capital(slots["try1"]), "short": short, "ask": option(rng, forum.asks).format(**slots)}

    details = [text.format(**slots) for text in rng.sample(options(forum.details), rng.choice((1, 2, 2)))]
    if subreddit in LASTING and rng.random() < 0.8:
        details.insert(rng.randint(0, len(details)), rng.choice(SINCE).format(**slots))
    feeling = [rng.choice(FEELINGS)] if rng.random() < 0.6 else []
    tried = rng.choice([text for text in TRIED if subreddit in LASTING or "day" not in text])
    sentences = [rng.choice(INTROS), story, *details, tried.format(**slots), *feeling]
    sentences += [rng.choice(BEFORE_ASK), slots["ask"], rng.choice(CLOSINGS)]
    post = " ".join(sentence for sentence in sentences if sentence)

    summaries = [
        text for text in SUMMARIES if all(slots[slot] in post for slot in ("try1", "span") if f"{{{slot}}}" in text)
    ]
    slots["complaint"] = rng.choice(COMPLAINTS)
    (ending,) = rng.choices(list(ENDINGS), list(ENDINGS.values()))
    return {
        "post": post,
        "subreddit": subreddit,
        "title": capital(title),
        "summary": (rng.choice(summaries) + ending).format(**slots),
    }


def has_allowed_length(example: dict[str, str]) -> bool:
    """Return whether the lengths of the post and of its summary are within their limits."""
    post, summary = (len(re.findall(r"\S+", example[column])) for column in ("post", "summary"))
    return SHORTEST <= post <= LONGEST and SHORTEST_SUMMARY <= summary <= LONGEST_SUMMARY


def examples(rng: random.Random) -> Iterator[dict[str, str]]:
    """Yield rows without end; no post is repeated."""
    seen: set[str] = set()
    while True:
        example = draw_row(rng, rng.choice(list(FORUMS)))
        if example["post"] not in seen and has_allowed_length(example):
            seen.add(example["post"])
            yield example
