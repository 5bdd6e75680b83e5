# ruff: noqa: E501
# (a string of options is on one line)
"""Generator of IMDB rows: film reviews with mixed opinions, and a label that says which kind prevails.

A review opens with who saw what, gives opinions on a few topics (the plot, the acting, the music, …), and may end with one on
the evening. All opinions count alike: no closing sentence decides the label, so that none alone buys the reward.
About four opinions in five agree with the label, and the first half of a review predicts its second half only in part.
"""

import random
import re
from collections.abc import Iterator, Sequence

from tril_gym.data.embedded.phrases import capital, option, options, words

AGREES = 0.8  # chance that an opinion has the label's sentiment
SHORTEST, LONGEST = 30, 62  # words

# --- Words ------------------------------------------------------------------------------------------------------------

GENRES = options("comedy|drama|thriller|western|romance|musical|mystery|horror film|war film|crime film")
HEROES = options(
    "a young detective|a tired teacher|two brothers|an old sailor|a lonely painter|a small town doctor|a family on a farm|"
    "a singer with no money|a group of students|a soldier far from home|a girl with a horse|a retired thief|"
    "a cook in a big city|three sisters|a boy with two dogs|a pilot lost in the snow"
)
TASKS = options(
    "looks for a missing child|wants to win one last game|falls in love in the summer|has to hide from the police|"
    "tries to save the family house|finds a map in an old book|moves to a strange new town|plans to rob a bank|"
    "has to cross the desert|must tell a terrible secret|goes home after many years|learns to trust a stranger"
)
COMPANIONS = options("my brother|my wife|my husband|my kids|an old friend|my sister|my parents|two friends")
TIMES = options("last night|on a rainy Sunday|last week|on a long flight|yesterday|on television|in a full theater")

# topic: (its names, good, bad)
TOPICS = {
    "plot": (
        ("the plot", "the story", "the script"),
        "clever|original|full of surprises|simple but touching|easy to follow|rich and smart|tight and exciting",
        "thin|full of holes|a mess|silly|hard to believe|the same old thing|confusing and cheap",
    ),
    "acting": (
        ("the acting", "the cast", "the main actor", "the lead actress"),
        "wonderful|strong|warm and honest|funny and charming|a joy to watch|better than ever|simply perfect",
        "wooden|weak|painful to watch|stiff and cold|way over the top|hardly awake|simply awful",
    ),
    "music": (
        ("the music", "the score", "the title song"),
        "beautiful|haunting|lovely|full of life|a great fit|worth hearing again",
        "too loud|annoying|dull|cheap|out of place|worse than an elevator tune",
    ),
    "camera": (
        ("the camera work", "the photography", "the lighting"),
        "stunning|beautiful|elegant|sharp and colorful|like a painting|worth the ticket alone",
        "shaky|ugly|too dark|flat and grey|worse than a home video|hard on the eyes",
    ),
    "dialogue": (
        ("the dialogue", "the writing", "the humor"),
        "witty|sharp|natural|funny and wise|fresh and clever|better than in most films",
        "stupid|empty|awkward|not funny at all|full of old jokes|painfully flat",
    ),
    "pacing": (
        ("the pacing", "the first half", "the middle part", "the editing"),
        "just right|quick and lively|smooth|gripping|never dull|full of energy",
        "too slow|boring|endless|clumsy|all over the place|a real test of patience",
    ),
    "ending": (
        ("the ending", "the final scene", "the last twist"),
        "brilliant|moving|a great surprise|deeply satisfying|perfect|very sweet",
        "predictable|rushed|terrible|a big letdown|pointless|laughable",
    ),
    "effects": (
        ("the set design", "the action", "the makeup"),
        "impressive|amazing|very convincing|a lot of fun|done with great care",
        "fake|cheap|ridiculous|a bad joke|done with no care at all",
    ),
}
PLAIN = "||really |truly |so "
BARE = set(  # no adverb of PLAIN is put before judgements that begin with one of these words
    words(
        "a full like worse better worth out way simply done never not all just the too very hardly deeply painfully perfect"
    )
)

# Whole opinions on one topic: (good, bad)
REMARKS = {
    "plot": (
        "The story kept me guessing until the end.|I cared about every character.|There is real heart in this story.|"
        "Every scene has a reason to be there.",
        "I knew what would happen after ten minutes.|I did not care about a single character.|"
        "Nothing in this story makes any sense.|Half of the scenes could have been cut.",
    ),
    "acting": (
        "The actors have great chemistry.|The young star steals every scene.|Each actor makes the most of a small part.|"
        "You forget that these people are acting.",
        "The actors read their lines like robots.|There is no chemistry between the two stars.|"
        "Even good actors look lost here.|You never forget that these people are acting.",
    ),
    "music": (
        "The songs stayed in my head for days.|The quiet piano music gave me chills.|I bought the soundtrack right away.",
        "The same song plays again and again.|The loud music gave me a headache.|I turned down the sound after a while.",
    ),
    "camera": (
        "Every shot looks like a painting.|The mountains never looked so good.|The director knows how to use light.",
        "You can hardly see what is going on.|The camera never stops shaking.|The director does not know how to use light.",
    ),
    "dialogue": (
        "I laughed out loud many times.|People in this film talk like real people.|I still quote the best lines.",
        "I did not laugh once.|Nobody in the real world talks like that.|The jokes fall flat every time.",
    ),
    "pacing": (
        "Two hours went by in no time.|There is not a dull moment.|It never loses its energy.",
        "I looked at my watch many times.|I almost fell asleep in the middle.|It goes on and on for no reason.",
    ),
    "ending": (
        "The ending made me cry.|I left the theater with a smile.|The last ten minutes are pure magic.",
        "The ending made me angry.|I left the theater with a bad taste.|The last ten minutes ruin everything.",
    ),
    "effects": (
        "The costumes are lovely.|The old town looks real and alive.|The big fight is a thrill.",
        "The costumes look like they came from a toy store.|The monster looks like a puppet.|The big fight is a bore.",
    ),
}

# --- Sentences --------------------------------------------------------------------------------------------------------

OPENERS = (
    "I watched this {genre} with {companion} {time}.",
    "I saw this {genre} {time}.",
    "{Companion} picked this {genre} {time}.",
    "This {genre} is about {hero} who {task}.",
    "{Hero} {task} in this {genre}.",
    "In this {genre}, {hero} {task}.",
    "I watched it {time} with {companion}. {Hero} {task}.",
    "Here we have a {genre} about {hero}.",
    "I did not know much about this {genre} before I saw it.",
    "I am a big fan of any {genre}, so I gave this one a try.",
)
EXPECTED = (
    "I did not expect much.|The trailer looked bad.|Some critics hated it.|I almost turned it off at the start.",
    "I expected a lot.|The trailer looked great.|Some critics loved it.|It starts well enough.",
)  # low expectations, high ones; they say nothing on the label
ALSO = ("Also, ", "Moreover, ", "Besides, ", "And ", "", "", "", "")  # of one word: a phrase would be repeated
BUT = ("However, ", "Still, ", "Yet ", "Then again, ", "But ")
EVENINGS = (
    "{companion} loved it.|It made my day.|It was an evening well spent.|I would gladly watch it again.|{companion} laughed a lot.|"
    "I told all my friends about it.|The ticket was worth every cent.|Nobody in the room wanted to leave.|It put me in a good mood.|"
    "I came home happy.",
    "{companion} hated it.|It ruined my day.|It was a wasted evening.|I want my two hours back.|{companion} fell asleep.|"
    "I told all my friends to stay away.|The ticket was far too expensive.|Half of the room left early.|It put me in a bad mood.|"
    "I came home tired.",
)


def opinion_clause(rng: random.Random, topic: str, good: bool) -> str:
    """Return a clause in lower case that gives an opinion on one topic."""
    names, *judgements = TOPICS[topic]
    judgement = option(rng, judgements[0 if good else 1])
    return f"{rng.choice(names)} is {'' if judgement.split()[0] in BARE else option(rng, PLAIN)}{judgement}"


def opinion_sentence(rng: random.Random, topics: Sequence[str], feelings: Sequence[bool]) -> str:
    """Return a sentence with an opinion on each of one or two topics."""
    if len(topics) == 2:
        first, second = (opinion_clause(rng, topic, good) for topic, good in zip(topics, feelings, strict=True))
        if feelings[0] == feelings[1]:
            return capital(f"{first}, and {second}{' too' if rng.random() < 0.3 else ''}.")
        return rng.choice(
            (capital(f"{first}, but {second}."), f"While {first}, {second}.", f"Although {first}, {second}.")
        )
    if rng.random() < 0.45:
        return option(rng, REMARKS[topics[0]][0 if feelings[0] else 1])
    clause = opinion_clause(rng, topics[0], feelings[0])
    thought = ("I think that ", "I have to say that ", "For me, ", "", "", "", "", "")
    return capital(rng.choice(thought) + clause) + rng.choice((".", ".", ".", "!" if rng.random() < 0.5 else "."))


def with_conjunction(rng: random.Random, sentence: str, agrees: bool) -> str:
    """Return a sentence with a conjunction that shows whether it agrees with the sentence before it."""
    link = rng.choice(ALSO if agrees else BUT)
    if not link or sentence.startswith(("While", "Although")):
        return sentence
    return link + (sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:])


def draw_review(rng: random.Random, good: bool) -> str:
    """Draw a review of a film that the reviewer liked (`good`) or disliked."""
    companion, hero = rng.choice(COMPANIONS), rng.choice(HEROES)
    task = rng.choice(TASKS)
    if hero.split()[0] in ("two", "three"):
        verb, rest = task.split(" ", 1)
        plural = {"falls": "fall", "tries": "try", "has": "have", "goes": "go", "must": "must"}.get(
            verb, verb.removesuffix("s")
        )
        task = f"{plural} {rest}"
    slots = {"genre": rng.choice(GENRES), "companion": companion, "hero": hero, "task": task, "time": rng.choice(TIMES)}
    slots |= {"Companion": capital(companion), "Hero": capital(hero)}
    sentences = [rng.choice(OPENERS)]
    previous = good
    if rng.random() < 0.25:
        previous = rng.random() < 0.5
        sentences.append(option(rng, EXPECTED[1 if previous else 0]))
    topics = rng.sample(list(TOPICS), rng.randint(4, 7))
    feelings: list[bool] = []
    while 2 * feelings.count(good) <= len(feelings):
        feelings = [good if rng.random() < AGREES else not good for _ in range(len(topics) + rng.randint(0, 1))]
    while topics:
        count = 2 if len(topics) > 1 and rng.random() < 0.3 else 1
        sentence = opinion_sentence(rng, topics[:count], feelings[:count])
        sentences.append(with_conjunction(rng, sentence, feelings[0] == previous) if len(sentences) > 1 else sentence)
        previous = feelings[count - 1]
        topics, feelings = topics[count:], feelings[count:]
    if feelings:
        sentence = option(rng, EVENINGS[0 if feelings[0] else 1])
        sentences.append(with_conjunction(rng, sentence, feelings[0] == previous))
    return " ".join(capital(sentence.format(**slots)) for sentence in sentences)


def examples(rng: random.Random) -> Iterator[dict]:
    """Yield rows without end, good and bad in turn; no review is repeated."""
    seen: set[str] = set()
    good = True
    while True:
        text = draw_review(rng, good)
        if text not in seen and SHORTEST <= len(re.findall(r"\S+", text)) <= LONGEST:
            seen.add(text)
            yield {"text": text, "label": int(good)}
            good = not good
