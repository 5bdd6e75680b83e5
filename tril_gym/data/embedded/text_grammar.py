"""Generator of short questions with one answer that a program can check: small sums, choices, words.

A row has the prompt, its answer as the one reference, the answer again as a column, and the kind of question.
"""

import random
from collections.abc import Callable, Iterator

from tril_gym.data.embedded.phrases import words

LETTERS = "ABC"
GROUPS = {
    "an animal": words("horse sheep goat fox crow pike bee frog"),
    "a fruit": words("plum pear fig cherry lemon grape melon peach"),
    "a tool": words("hammer saw drill chisel rake spade axe file"),
    "a colour": words("red blue green brown white black pink grey"),
    "a piece of clothing": words("coat shirt sock glove scarf hat boot belt"),
}
OPPOSITES = [pair.split("/") for pair in words(
    "hot/cold big/small old/young wet/dry fast/slow high/low hard/soft full/empty open/closed light/dark long/short"
    " rich/poor loud/quiet early/late strong/weak clean/dirty wide/narrow sweet/sour right/wrong thick/thin"
)]  # fmt: skip


def draw_sum(rng: random.Random) -> tuple[str, str]:
    """Draw a sum of two numbers up to 12."""
    first, second = rng.randint(1, 12), rng.randint(1, 12)
    return f"What is {first} plus {second}?", str(first + second)


def draw_difference(rng: random.Random) -> tuple[str, str]:
    """Draw a difference that is not negative."""
    first, second = rng.randint(1, 12), rng.randint(1, 12)
    return f"What is {max(first, second)} minus {min(first, second)}?", str(abs(first - second))


def draw_larger(rng: random.Random) -> tuple[str, str]:
    """Draw two different numbers, of which the larger is asked for."""
    pair = rng.sample(range(1, 25), 2)
    return f"Which number is larger, {pair[0]} or {pair[1]}?", str(max(pair))


def draw_choice(rng: random.Random) -> tuple[str, str]:
    """Draw three words of different groups, and ask for the letter of one."""
    groups = rng.sample(list(GROUPS), len(LETTERS))
    right = rng.randrange(len(LETTERS))
    options = [f"{letter}: {rng.choice(GROUPS[group])}" for letter, group in zip(LETTERS, groups, strict=True)]
    return f"Which word is {groups[right]}? {', '.join(options)}.", LETTERS[right]


def draw_opposite(rng: random.Random) -> tuple[str, str]:
    """Draw one of two opposite words."""
    pair = rng.choice(OPPOSITES)
    asked = rng.randrange(2)
    return f"What is the opposite of {pair[asked]}?", pair[1 - asked]


def draw_order(rng: random.Random) -> tuple[str, str]:
    """Draw three words to put in alphabetical order."""
    drawn = rng.sample(GROUPS[rng.choice(list(GROUPS))], 3)
    return f"Sort these words: {' '.join(drawn)}.", " ".join(sorted(drawn))


def draw_repetition(rng: random.Random) -> tuple[str, str]:
    """Draw a word to be written two or three times."""
    word, times = rng.choice(GROUPS[rng.choice(list(GROUPS))]), rng.randint(2, 3)
    return f"Write the word {word} {times} times.", " ".join([word] * times)


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "sum": draw_sum,
    "difference": draw_difference,
    "larger": draw_larger,
    "choice": draw_choice,
    "opposite": draw_opposite,
    "order": draw_order,
    "repetition": draw_repetition,
}


def examples(rng: random.Random) -> Iterator[dict]:
    """Yield rows without repetition, each of a random kind."""
    seen: set[str] = set()
    while True:
        kind = rng.choice(list(KINDS))
        question, answer = KINDS[kind](rng)
        if question not in seen:
            seen.add(question)
            yield {"prompt": f"{question} Answer:", "references": [answer], "answer": answer, "kind": kind}
