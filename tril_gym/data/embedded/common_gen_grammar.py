"""Generator of CommonGen rows: a few concepts, and sentences that mention them all.

A *recipe* lists the options for each part of a sentence: agent, verb, object, place. A *scene* is one draw from a
recipe; its content words are nouns and verbs in their dictionary form. Some of them become the concepts of a row. Each
reference is another scene of the same recipe that has those words, rendered with a template of its own; words that are
not concepts may differ between references. The words, recipes and templates are in `common_gen_tables`.
"""

import random
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from tril_gym.data.embedded.common_gen_tables import (
    ACTIONS,
    ADJECTIVES,
    ALWAYS_PLURAL,
    ANIMALS,
    ANYONE,
    BEING_ADJECTIVES,
    COMPANY,
    GOALS,
    GROUPS,
    HE,
    IRREGULAR,
    MASS,
    NOUNS,
    OFTEN_OWN,
    OFTEN_PLURAL,
    ONLY_ONE,
    OWN,
    POSTURES,
    SEQUENCES,
    SETS,
    SHE,
    TEACHABLE,
    TEMPLATES,
    TIMES,
    VERBS,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Options for each part of a scene, in shorthand."""

    kind: str  # key of TEMPLATES
    agents: Sequence[str]
    clauses: Sequence[Sequence[str]]  # options of each part of the clause; parts after the second are optional
    places: Sequence[str]
    others: Sequence[str] = ()  # second agents
    then: Sequence[Sequence[str]] = ()  # options of each part of the second clause


@dataclass(frozen=True, slots=True)
class Scene:
    """One draw from a recipe."""

    kind: str
    agent: str
    clause: str
    place: str
    other: str = ""
    then: str = ""

    @property
    def content(self) -> list[str]:
        """The content words, in order; a repeated word is listed twice."""
        parts = " ".join((self.agent, self.clause, self.place, self.other, self.then))
        return [word for word in parts.split() if word in NOUNS or word in VERBS]


@dataclass(frozen=True, slots=True)
class Subject:
    """A noun phrase that a verb agrees with, and its possessive pronoun."""

    text: str
    plural: bool
    his: str


FIELD = re.compile(r"{(\w+)}")
# --- Recipes ----------------------------------------------------------------------------------------------------------


def split_cell(options: str) -> list[str]:
    """Split a cell at its commas; "-" is an empty list."""
    return [] if options.strip() == "-" else [option.strip() for option in options.split(",")]


def expand_agents(names: str) -> list[str]:
    """Return the agents of a list in which a key of `SETS` stands for several."""
    return " ".join(SETS.get(name, name) for name in names.split()).split()


def table_rows(table: str) -> Iterator[list[str]]:
    """Yield the cells of each line of a table whose columns are separated by bars."""
    for line in table.strip().splitlines():
        yield [cell.strip() for cell in line.split("|")]


def make_recipes() -> dict[str, list[Recipe]]:
    """Return all recipes by their kind."""
    single = [
        Recipe("single", expand_agents(agents), [[verb], split_cell(objects), split_cell(more)], split_cell(places))
        for agents, verb, objects, more, places in table_rows(ACTIONS)
    ]
    then = [
        Recipe("then", expand_agents(agents), [split_cell(first)], split_cell(places), then=[split_cell(next_)])
        for agents, first, next_, places in table_rows(SEQUENCES)
    ]
    meanwhile = [
        Recipe(
            "meanwhile", expand_agents(agents), [split_cell(posture)], split_cell(places), then=[split_cell(activity)]
        )
        for agents, posture, activity, places in table_rows(POSTURES)
    ]
    two = [
        Recipe("two", one.agents, one.clauses[:2], shared, other.agents, other.clauses[:2])
        for i, one in enumerate(single)
        for other in single[:i]
        if (shared := [place for place in one.places if place in other.places and is_setting(place)])
    ]
    company = [
        Recipe("with", expand_agents(agents), [[verb]], action.places, shared, action.clauses[:2])
        for agents, verb, others in table_rows(COMPANY)
        for action in single
        if (shared := [agent for agent in expand_agents(others) if agent in action.agents])
        and (verb == "watch" or action.clauses[0][0] in TEACHABLE)
    ]
    return {"single": single, "then": then, "meanwhile": meanwhile, "two": two, "with": company}


def is_setting(place: str) -> bool:
    """Return whether a place is a location and not a direction."""
    return place.split()[0] in ("in", "on", "at", "by", "under")


# --- Scenes -----------------------------------------------------------------------------------------------------------


def pick(rng: random.Random, options: Sequence[str], keep: frozenset[str], chance: float = 1.0) -> str:
    """Draw an option that has a word of `keep`; if there is none, any option with probability `chance`, else ""."""
    wanted = [option for option in options if keep.intersection(option.split())]
    if wanted:
        return rng.choice(wanted)
    return rng.choice(options) if options and rng.random() < chance else ""


def draw_scene(rng: random.Random, recipe: Recipe, keep: frozenset[str] = frozenset()) -> Scene:
    """Draw a scene of a recipe that has the words of `keep` where the recipe offers them."""

    def clause(parts: Sequence[Sequence[str]]) -> str:
        chosen = [pick(rng, options, keep, 1.0 if i < 2 else 0.5) for i, options in enumerate(parts)]
        return " ".join(part for part in chosen if part)

    return Scene(
        kind=recipe.kind,
        agent=pick(rng, recipe.agents, keep),
        clause=clause(recipe.clauses),
        place=pick(rng, recipe.places, keep, 0.7),
        other=pick(rng, recipe.others, keep),
        then=clause(recipe.then),
    )


# --- Phrases ----------------------------------------------------------------------------------------------------------


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeo":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def with_article(phrase: str) -> str:
    """Return a phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def with_adjective(rng: random.Random, noun: str, adjectives: Sequence[str], chance: float) -> tuple[str, str]:
    """Return singular and plural of a noun, with an adjective by chance."""
    before = f"{rng.choice(adjectives)} " if adjectives and rng.random() < chance else ""
    return before + noun, before + plural(noun)


def agent_phrase(rng: random.Random, noun: str, *, definite: float = 0.4) -> Subject:
    """Return the noun phrase of an agent."""
    kind = "animal" if noun in ANIMALS else "child" if noun in SETS["KIDS"] else "person"
    one, many = with_adjective(rng, noun, [] if noun in GROUPS else BEING_ADJECTIVES[kind], 0.15)
    if noun not in GROUPS and rng.random() < 0.2:
        return Subject(f"{rng.choice(('two', 'some', 'the'))} {many}", True, "their")
    his = "his" if noun in HE else "her" if noun in SHE else "its" if noun in ANIMALS else "their"
    if noun in ANYONE:
        his = rng.choice(("his", "her"))
    return Subject(f"the {one}" if rng.random() < definite else with_article(one), False, his)


def object_phrase(rng: random.Random, noun: str, who: Subject) -> tuple[str, bool]:
    """Return the noun phrase of an object, and whether it is plural."""
    if noun in OWN:
        pair = noun in ALWAYS_PLURAL or (noun != "hair" and who.plural) or (noun == "hand" and rng.random() < 0.8)
        return f"{who.his} {plural(noun) if pair else noun}", pair
    if noun in ONLY_ONE:
        return f"the {noun}", False
    one, many = with_adjective(rng, noun, ADJECTIVES.get(noun, ()), 0.15)
    if noun in MASS:
        return rng.choice(("some ", "", "")) + one, False
    if noun == "friend":
        several = rng.random() < 0.3 or who.plural
        return (f"{who.his} {many}", True) if several else (rng.choice((who.his, "a")) + " friend", False)
    if noun in ALWAYS_PLURAL or (noun in OFTEN_PLURAL and rng.random() < 0.4):
        return rng.choice(("the ", "some ", "some ", "two ", "", "")) + many, True
    if noun in OFTEN_OWN and rng.random() < 0.4:
        return f"{who.his} {many if who.plural else one}", who.plural
    return (f"the {one}" if rng.random() < 0.3 else with_article(one)), False


def place_phrase(rng: random.Random, place: str) -> str:
    """Return the phrase of a place."""
    phrase = []
    for word in place.split():
        if word in NOUNS - MASS - ONLY_ONE:
            phrase.append(with_article(word) if rng.random() < 0.15 else f"the {word}")
        else:
            phrase.append(
                f"the {word}" if word in ("snow", "water", "grass", "ice", "sand") or word in ONLY_ONE else word
            )
    return " ".join(phrase)


def inflect(
    rng: random.Random, clause: str, who: Subject, fields: dict[str, str], *, number: str = "", it: str = "it"
) -> str:
    """Write all forms of a clause into `fields`, under names that end in `number`; return its object's pronoun."""
    verb, *rest = clause.split()
    phrases, pronoun = [], ""
    for i, word in enumerate(rest):
        phrase, many = object_phrase(rng, word, who) if word in NOUNS else (it if word == "it" else word, False)
        if word in NOUNS and not pronoun:
            pronoun = "them" if many else "it"
            if i == 0 and word not in OWN:
                fields["object" + number] = phrase
                fields["be_object" + number] = "are" if many else "is"
                fields["was_object" + number] = "were" if many else "was"
        phrases.append(phrase)
    base, third, past, participle, ing = (" ".join([form, *phrases]) for form in VERBS[verb])
    fields["base" + number], fields["ing" + number], fields["past" + number] = base, ing, past
    fields["participle" + number] = participle
    fields["participle_rest" + number] = " ".join([VERBS[verb][3], *phrases[1:]])
    fields["present" + number] = base if who.plural else third
    fields["was" + number] = "were" if who.plural else "was"
    return pronoun or "it"


def render(rng: random.Random, scene: Scene) -> str:
    """Return one sentence about a scene."""
    who = agent_phrase(rng, scene.agent)
    fields = {
        "subject": who.text,
        "a_subject": re.sub(r"^the ", "some " if who.plural else "", who.text)
        if who.plural
        else with_article(re.sub(r"^(the|an?) ", "", who.text)),
        "be": "are" if who.plural else "is",
        "have": "have" if who.plural else "has",
        "love": rng.choice(("love", "like")) + ("" if who.plural else "s"),
        "want": "want" if who.plural else "wants",
        "go": "go" if who.plural else "goes",
        "place": place_phrase(rng, scene.place),
        "time": rng.choice(TIMES) if rng.random() < 0.3 else "",
    }
    it = inflect(rng, scene.clause, who, fields)
    if scene.other:
        other = agent_phrase(rng, scene.other)
        fields |= {"subject2": other.text, "to": "to" if scene.clause == "teach" else ""}
        inflect(rng, scene.then, other, fields, number="2")
    elif scene.then:
        inflect(rng, scene.then, who, fields, number="2", it=it)
    if scene.place and is_setting(scene.place):
        fields["front"] = fields["place"]
        if (goal := scene.place.split()[-1]) in GOALS:
            fields["goal"] = f"the {goal}"
    usable = [template for template in TEMPLATES[scene.kind] if set(FIELD.findall(template)) <= fields.keys()]
    if scene.clause.split()[0] not in TEACHABLE:
        usable = [template for template in usable if not re.search("learning|about to|is fun", template)]
    template = rng.choice(usable)
    return " ".join(template.format(**fields).replace(" ,", ",").split()).replace(" ,", ",") + "."


# --- Rows -------------------------------------------------------------------------------------------------------------


def covers(sentence: str, concepts: Sequence[str]) -> bool:
    """Return whether a sentence has every concept, in any of its forms."""
    written = set(re.findall(r"[a-z]+", sentence))
    return all(written.intersection(VERBS.get(concept, (concept, plural(concept)))) for concept in concepts)


def draw_sentence(rng: random.Random, recipe: Recipe, concepts: Sequence[str]) -> str | None:
    """Draw a sentence with all the concepts; None where this draw lacks one or has a wrong length."""
    scene = draw_scene(rng, recipe, frozenset(concepts))
    if len(set(scene.content)) < len(scene.content) or not set(concepts) <= set(scene.content):
        return None
    text = render(rng, scene)
    return text if 6 <= len(text.split()) <= 14 and covers(text, concepts) else None


def draw_references(
    rng: random.Random, recipe: Recipe, concepts: Sequence[str], wanted: int, excluded: Container[str]
) -> list[str]:
    """Return up to `wanted` sentences with all the concepts, fewer where 6 draws for each do not suffice."""
    found: list[str] = []
    for _ in range(6 * wanted):
        text = draw_sentence(rng, recipe, concepts)
        if text and text not in excluded and text not in found:
            found.append(text)
            if len(found) == wanted:
                break
    return found


def examples(rng: random.Random) -> Iterator[dict]:
    """Yield rows without end; no concept set and no sentence is repeated."""
    kinds = make_recipes()
    sets: set[frozenset[str]] = set()
    sentences: set[str] = set()
    while True:
        recipe = rng.choice(kinds[rng.choices(list(kinds), (45, 12, 17, 11, 15))[0]])
        scene = draw_scene(rng, recipe)
        content = scene.content
        size = rng.choices((3, 4, 5), (40, 35, 25))[0]
        if len(content) < size or len(set(content)) < len(content):
            continue
        concepts = rng.sample(content, size)
        if frozenset(concepts) in sets or not VERBS.keys() & concepts:
            continue
        wanted = rng.choices((1, 2, 3, 4), (15, 25, 35, 25))[0]
        references = draw_references(rng, recipe, concepts, wanted, sentences)
        if references:
            sets.add(frozenset(concepts))
            sentences.update(references)
            yield {"concepts": concepts, "references": references}
