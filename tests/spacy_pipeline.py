"""A spaCy pipeline that parses toy sentences by rule, saved to a folder: "a red dog chases two cats on the mat".

It knows a few words by heart. The first noun before the verb is its subject, the first after it its object; a noun
after a preposition hangs on that, and the preposition on the verb.
"""

from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc

TAGS = {"a": "DET", "the": "DET", "red": "ADJ", "big": "ADJ", "two": "NUM", "on": "ADP", "to": "ADP", ".": "PUNCT"}
NOUNS = {"dog": "dog", "dogs": "dog", "cat": "cat", "cats": "cat", "mat": "mat", "ball": "ball", "girl": "girl"}
VERBS = {"chases": "chase", "chase": "chase", "sits": "sit", "sit": "sit", "throws": "throw"}


@Language.component("toy_parser")
def toy_parser(doc: Doc) -> Doc:
    words = [token.lower_ for token in doc]
    verb = next((i for i, word in enumerate(words) if word in VERBS), None)
    preposition, has_object = None, False
    for i, token in enumerate(doc):
        root = i if verb is None else verb
        kind = "NOUN" if words[i] in NOUNS else "VERB" if words[i] in VERBS else TAGS.get(words[i], "X")
        label, head = "dep", root
        if kind == "NOUN":
            label, head = "nsubj" if verb is None or i < verb else "dobj", root
            if preposition is not None:
                label, head, preposition = "pobj", preposition, None
            elif label == "dobj":
                label, has_object = "dep" if has_object else "dobj", True
        elif kind in ("ADJ", "NUM", "DET"):
            following = next((j for j in range(i, len(words)) if words[j] in NOUNS), root)
            label, head = {"ADJ": "amod", "NUM": "nummod", "DET": "det"}[kind], following
        elif kind == "ADP":
            label, preposition = "prep", i
        token.pos_, token.lemma_ = kind, (NOUNS | VERBS).get(words[i], words[i])
        token.dep_, token.head = ("ROOT" if head == i else label), doc[head]
    return doc


def save_pipeline(folder: Path) -> Path:
    """Save the pipeline; returns the folder."""
    nlp = spacy.blank("en")
    nlp.add_pipe("toy_parser")
    nlp.to_disk(folder)
    return folder
