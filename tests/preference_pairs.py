"""Made-up preference pairs whose preferred answer has a good word, and how tests write them."""

import json

import numpy as np

from tril_gym.data.preferences import Pair

GOOD, BAD = ("kind", "clear", "true"), ("rude", "vague", "false")


def polite_pairs(number, *, seed=0, swapped=False):
    """Pairs of equally long answers, of which the one with a good word is chosen; or, swapped, either one."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(number):
        words = [f" it is {rng.choice(kind)} of {rng.choice(['you', 'him', 'her'])}" for kind in (GOOD, BAD)]
        if swapped and rng.random() < 0.5:
            words.reverse()
        pairs.append(Pair(f"question {seed} {index}?", *words))
    return pairs


def write_pairs(path, pairs):
    """Write pairs as JSON Lines, and return the path as text."""
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
