"""The few words about words that the grammars share."""

import random


def words(text: str) -> list[str]:
    """The words of a list written as one string."""
    return text.split()


def options(text: str) -> list[str]:
    """The options of a list written with bars."""
    return text.split("|")


def option(rng: random.Random, text: str) -> str:
    """One of the options between bars."""
    return rng.choice(options(text))


def capital(sentence: str) -> str:
    """The sentence with a capital letter."""
    return sentence[:1].upper() + sentence[1:]
