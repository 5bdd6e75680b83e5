"""String functions that the grammars share."""

import random


def words(text: str) -> list[str]:
    """Split a string at white space."""
    return text.split()


def options(text: str) -> list[str]:
    """Split a string at its bars."""
    return text.split("|")


def option(rng: random.Random, text: str) -> str:
    """Draw one of the options between bars."""
    return rng.choice(options(text))


def capital(sentence: str) -> str:
    """Return the sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]
