"""Scene graphs from dependency parses: the objects of a text, their attributes and relations.

Anderson et al. 2016, section 3.1: https://arxiv.org/abs/1607.08822. The rules follow Schuster et al. 2015,
https://aclanthology.org/W15-2812, for the labels of spaCy's English pipelines.

    "Two young girls are throwing a red ball to the dog."
    objects:     (girl), (ball), (dog)
    attributes:  (girl, two), (girl, young), (ball, red)
    relations:   (girl, throw, ball), (girl, throw to, dog)

- Objects are nouns and names, by their lemmas. Pronouns are not objects, and propositions about them are left out.
- Attributes are adjectives, numbers and nouns before a noun, adjectives after a copula, and verbs without an object.
- Relations are verbs with their object, verbs with a preposition and its object, and prepositions alone, after a noun
  or a copula. The agent of a passive is its subject, its subject the object; without an agent the verb is an attribute.
- Verbs that share a subject each get it: verbs joined by "and", verbs after a verb, and participles. In a relative
  clause "who" and "that" stand for the noun.
- Words joined by "and" have the same relations. "not" is part of the verb: (dog, not sleep).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

Proposition = tuple[str, ...]  # (object), (object, attribute) or (subject, relation, object)

NOUNS = ("NOUN", "PROPN")
VERBS = ("VERB", "AUX")
PASSIVE = ("nsubjpass", "nsubj:pass")
SUBJECTS = ("nsubj", *PASSIVE)
OBJECTS = ("dobj", "obj", "dative")
BEFORE_NOUN = ("amod", "nummod", "compound")
RELATIVE = ("who", "which", "that")


def propositions(doc: Doc) -> frozenset[Proposition]:
    """Return the scene graph of a parsed text."""
    return frozenset(_found(doc))


def _found(doc: Doc) -> Iterator[Proposition]:
    for token in doc:
        if _is_object(token):
            yield (_name(token),)
            yield from _of_noun(token)
        elif token.pos_ in VERBS and token.dep_ not in ("aux", "auxpass"):
            yield from _of_verb(token)


def _of_noun(noun: Token) -> Iterator[Proposition]:
    for child in noun.children:
        if child.dep_ in BEFORE_NOUN:
            for attribute in _joined(child):
                yield _name(noun), _name(attribute)
    for relation, other in _prepositions(noun):
        yield _name(noun), relation, _name(other)


def _of_verb(verb: Token) -> Iterator[Proposition]:
    word, subjects, placed = _verb_name(verb), _subjects_of(verb), list(_prepositions(verb))
    if _is_copula(verb):
        yield from _of_copula(verb, subjects)
        return
    if _is_passive(verb):
        agents = [noun for child in verb.children if child.dep_ == "agent" for noun in _nouns(child, ("pobj",))]
        done = [(agent, thing) for agent in agents for thing in subjects]
    else:
        done = [(agent, thing) for agent in subjects for thing in _nouns(verb, OBJECTS)]
    for agent, thing in done:
        yield _name(agent), word, _name(thing)
    for noun in subjects:
        for relation, other in placed:
            yield _name(noun), f"{word} {relation}", _name(other)
        if not (done or placed):
            yield _name(noun), word


def _of_copula(verb: Token, subjects: Iterable[Token]) -> Iterator[Proposition]:
    no = "not " if _is_negated(verb) else ""
    for subject in subjects:
        for child in verb.children:
            if child.dep_ in ("acomp", "oprd") or (child.dep_ == "attr" and child.pos_ == "ADJ"):
                for attribute in _joined(child):
                    yield _name(subject), f"{no}{_name(attribute)}"
            elif child.dep_ == "attr" and _is_object(child):
                for other in _joined(child):
                    yield _name(subject), f"{no}be", _name(other)
        for relation, other in _prepositions(verb):
            yield _name(subject), f"{no}{relation}", _name(other)


def _subjects_of(verb: Token) -> list[Token]:
    """Return the subjects of a verb that are objects: its own, or those that it shares with another verb."""
    own = [child for child in verb.children if child.dep_ in SUBJECTS]
    if own:
        known = [verb.head if _stands_for_noun(child, verb) else child for child in own]
        return [noun for child in known for noun in _joined(child) if _is_object(noun)]
    if verb.dep_ in ("acl", "relcl") and _is_object(verb.head):
        return [verb.head]
    if verb.dep_ in ("conj", "xcomp", "advcl") and verb.head.pos_ in VERBS:
        return _subjects_of(verb.head)
    return []


def _is_passive(verb: Token) -> bool:
    """Return whether a verb is passive, including participles such as "thrown" in "a ball thrown by a boy"."""
    if any(child.dep_ in (*PASSIVE, "auxpass") for child in verb.children):
        return True
    follows = verb.dep_ == "conj" and verb.head.pos_ in VERBS and _is_passive(verb.head)
    return verb.tag_ == "VBN" and (verb.dep_ == "acl" or follows)


def _stands_for_noun(subject: Token, verb: Token) -> bool:
    return verb.dep_ == "relcl" and subject.text.lower() in RELATIVE


def _prepositions(head: Token) -> Iterator[tuple[str, Token]]:
    """Yield each preposition of a word with each of its objects; "out of" is one preposition."""
    for child in head.children:
        if child.dep_ == "prep":
            for relation, place in ((child.text.lower(), child), *_inner(child)):
                for noun in _nouns(place, ("pobj",)):
                    yield relation, noun


def _inner(preposition: Token) -> Iterator[tuple[str, Token]]:
    for child in preposition.children:
        if child.dep_ == "prep":
            yield f"{preposition.text.lower()} {child.text.lower()}", child


def _nouns(head: Token, labels: tuple[str, ...]) -> Iterator[Token]:
    """Yield the children of a word with one of the labels that are objects, and those joined to them."""
    for child in head.children:
        if child.dep_ in labels:
            yield from (noun for noun in _joined(child) if _is_object(noun))


def _joined(token: Token) -> Iterator[Token]:
    """Yield a word and the words joined to it by "and" or a comma."""
    yield token
    for child in token.children:
        if child.dep_ == "conj" and (child.pos_ == token.pos_ or {child.pos_, token.pos_} <= set(NOUNS)):
            yield from _joined(child)


def _is_object(token: Token) -> bool:
    return token.pos_ in NOUNS and token.dep_ != "compound"


def _is_copula(verb: Token) -> bool:
    return verb.lemma_.lower() == "be"


def _is_negated(verb: Token) -> bool:
    return any(child.dep_ == "neg" for child in verb.children)


def _verb_name(verb: Token) -> str:
    """Return the lemma of a verb, with its particle, and "not" if it is negated."""
    particles = [child.text.lower() for child in verb.children if child.dep_ == "prt"]
    return " ".join((["not"] if _is_negated(verb) else []) + [_name(verb), *particles])


def _name(token: Token) -> str:
    return (token.lemma_ or token.text).lower()
