"""Generator of HH rows: a dialogue with an assistant, a good answer, a poor one, and the kind of the dialogue.

In a helpful dialogue a person asks for advice: the good answer gives it in order, the poor one is vague, rude, too
short, about something else, or long without saying anything. In a harmless one a person asks for something bad: the
good answer refuses, says why and offers something better; the poor one helps, insults or says no more than "no". The
words are in `hh_tables`.
"""

import random
from collections.abc import Callable, Iterator

from tril_gym.data.embedded.hh_tables import (
    ABOUT_ME,
    BARE,
    CARELESS,
    CLOSINGS,
    EXCUSES,
    INSTEAD,
    INSULTS,
    NO_REGRET,
    OFFERS,
    OPENERS,
    ORDERS,
    QUESTIONS,
    RAMBLING,
    REFUSALS,
    REQUESTS,
    RUDE,
    TOPICS,
    VAGUE,
    Request,
    Topic,
)
from tril_gym.data.embedded.phrases import capital, option, options

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
FOLLOW_UP_SHARE = 0.35  # of helpful dialogues, which have two turns of the person
HELPFUL_SHARE = 0.6


def join(*sentences: str) -> str:
    """Join the sentences that are not empty."""
    return " ".join(sentence for sentence in sentences if sentence)


def advice(rng: random.Random, topic: Topic, thing: str, number: int) -> str:
    """Draw steps of a topic, in their order."""
    places = sorted(rng.sample(range(len(topic.steps)), number))
    words = rng.choice(ORDERS)
    return join(*(word.format(topic.steps[place].format(x=thing)) for word, place in zip(words, places, strict=False)))


def draw_question(rng: random.Random, topic: Topic, thing: str) -> str:
    """Draw a question, in most cases with a sentence about the person or the situation before or after it."""
    question = rng.choice(QUESTIONS).format(goal=topic.goal.format(x=thing))
    about = rng.choice((rng.choice(ABOUT_ME), option(rng, topic.facts), option(rng, topic.facts), ""))
    return join(question, about) if rng.random() < 0.5 and question.endswith("?") else join(about, question)


def draw_poor_advice(rng: random.Random, topic: Topic, thing: str) -> str:
    """Draw an answer that does not help."""
    other = rng.choice([one for one in TOPICS if one is not topic])
    flaws: list[Callable[[], str]] = [
        lambda: join(*rng.sample(VAGUE, rng.randint(1, 4))),
        lambda: join(*rng.sample(RUDE, rng.randint(1, 3))),
        lambda: join(rng.choice(OPENERS), advice(rng, other, option(rng, other.things), 3), option(rng, other.tips)),
        lambda: capital(rng.choice(topic.steps).format(x=thing)) + ".",
        lambda: join(*rng.sample(RAMBLING, rng.randint(3, 6))),
    ]
    return rng.choices(flaws, weights=(3, 1, 3, 3, 3))[0]()


def draw_helpful(rng: random.Random) -> tuple[str, str, str]:
    """Draw a dialogue about something that a person wants to do, a good answer, and a poor one."""
    topic = rng.choice(TOPICS)
    thing = option(rng, topic.things)
    prompt = f"{HUMAN} {draw_question(rng, topic, thing)}{ASSISTANT}"
    tip, closing = rng.choice((option(rng, topic.tips), "")), rng.choice(CLOSINGS)
    if rng.random() < FOLLOW_UP_SHARE:
        question, answer = rng.choice(topic.follow_ups)
        prompt += f" {advice(rng, topic, thing, rng.randint(1, 2))}{HUMAN} {question}{ASSISTANT}"
        return prompt, join(rng.choice(OPENERS), answer, tip, closing), draw_poor_advice(rng, topic, thing)
    chosen = join(rng.choice(OPENERS), advice(rng, topic, thing, rng.randint(2, 3)), tip, closing)
    return prompt, chosen, draw_poor_advice(rng, topic, thing)


def draw_harmful_answer(rng: random.Random, request: Request, thing: str) -> str:
    """Draw an answer that helps with something bad, insults, or says no more than no."""
    harm = [f"{capital(text.format(x=thing))}." for text in rng.sample(options(request.harm), rng.choice((1, 2, 2)))]
    answers: list[Callable[[], str]] = [
        lambda: join(rng.choice(CARELESS), *harm, *rng.sample(NO_REGRET, rng.randint(0, 3))),
        lambda: join(*rng.sample(INSULTS, rng.randint(1, 4))),
        lambda: join(*rng.sample(BARE, rng.randint(1, 2))),
    ]
    return rng.choices(answers, weights=(4, 2, 1))[0]()


def draw_harmless(rng: random.Random) -> tuple[str, str, str]:
    """Draw a request for something bad, an answer that refuses and offers help, and a harmful one."""
    request = rng.choice(REQUESTS)
    thing = option(rng, request.things)
    question = rng.choice(QUESTIONS).format(goal=request.wish.format(x=thing))
    excuse = rng.choice((*EXCUSES, ""))
    why, better = (option(rng, text).format(x=thing) for text in (request.reason, request.better))
    instead = rng.choice((*INSTEAD, "")).format(better)
    chosen = join(rng.choice(REFUSALS).format(why=why), instead, rng.choice(OFFERS))
    prompt = f"{HUMAN} {join(*rng.sample((question, excuse), 2))}{ASSISTANT}"
    return prompt, chosen, draw_harmful_answer(rng, request, thing)


def examples(rng: random.Random) -> Iterator[dict[str, str]]:
    """Yield rows without end; no prompt is repeated."""
    seen: set[str] = set()
    while True:
        kind, draw = ("helpful", draw_helpful) if rng.random() < HELPFUL_SHARE else ("harmless", draw_harmless)
        prompt, chosen, rejected = draw(rng)
        if prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "kind": kind}
