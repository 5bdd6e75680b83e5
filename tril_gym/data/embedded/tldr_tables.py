# ruff: noqa: E501
# (a string of options stands on one line)
"""Tables of the TL;DR grammar: words and sentences of any post, and the forums with their problems.

A string holds options separated by bars. A slot in braces is drawn once a post: who, name, thing, span of time, and so on.
"""

from dataclasses import dataclass

from tril_gym.data.embedded.phrases import words

# --- Words and sentences of any post --------------------------------------------------------------------------------------

HERS = words("Anna Maria Emma Lily Kate Nina Julia")
HIS = words("Tom Ben Jack Leo Max Sam Paul")
PETS = words("Rex Luna Milo Bella Coco Rocky")
WOMEN = ("girlfriend", "sister", "aunt", "wife", "mother", "daughter")
MEN = ("boyfriend", "brother", "uncle", "husband", "father", "son")
SPANS = ("two weeks", "three weeks", "a month", "two months", "half a year", "a year", "ten days", "a few days")

INTROS = (
    "Hi everyone.",
    "Hello all.",
    "First post here.",
    "Long time reader, first time poster.",
    "Sorry for the long post.",
    "",
    "",
    "",
)
SINCE = ("This has been going on for {span}.", "It started {span} ago.", "It has been like this for {span} now.")
TRIED = (
    "I already tried {try1} and {try2}, but nothing changed.",
    "So far I tried {try1}, but it did not help.",
    "I tried {try1}. Then I tried {try2}. Neither worked.",
    "{Try1} did not help, and {try2} only worked for a day.",
    "My first idea was {try1}, which went nowhere.",
)
FEELINGS = (
    "I feel bad about it.", "I am losing sleep over this.", "It makes me really sad.", "I am a bit lost here.",
    "I do not want to make a big deal out of it.", "Honestly, I am tired of it.", "My friends say I worry too much.",
)  # fmt: skip
BEFORE_ASK = ("So my question is:", "I need some advice.", "What I want to know:", "Now I am stuck.", "", "")
CLOSINGS = ("Thanks for reading.", "Any help is welcome.", "Thank you!", "Thanks in advance.", "", "", "")
SUMMARIES = (
    "{short}",
    "{short}",
    "{short}",
    "{short}, {try1} did not help",
    "{short}, {try1} did not work",
    "{short}, it has been {span}",
)
# How summaries end, and their shares. The complaint is the most frequent ending, and the question, which is written in
# two ways, shares more words with the average summary: so a policy that imitates summaries can still earn more.
ENDINGS = {", and {complaint}.": 0.36, ". {ask}": 0.32, ": {ask}": 0.32}
COMPLAINTS = (
    "I do not know what to do now",
    "my friends only laugh about it",
    "nothing seems to change at all",
    "I feel worse every single day",
    "it drives me up the wall",
    "this cannot go on forever",
)


@dataclass(frozen=True, slots=True)
class Forum:
    """What people ask about in one subreddit."""

    slots: dict[str, str]  # options between bars
    problems: tuple[tuple[str, str, str], ...]  # title, sentence of the post, short form for the summary
    details: str
    tries: str  # objects of "I tried …"
    asks: str


# --- The forums -------------------------------------------------------------------------------------------------------

FORUMS = {
    "relationships": Forum(
        slots={
            "who": "girlfriend|boyfriend|best friend|sister|brother|cousin",
            "event": "birthday party|concert|graduation|dinner|show",
        },
        problems=(
            (
                "My {who} forgot my {event}",
                "My {who} {name} ({age}) forgot about my {event} and went out with other friends.",
                "My {who} {name} forgot my {event}",
            ),
            (
                "My {who} is always on the phone",
                "My {who} {name} ({age}) is on the phone all the time, even at my {event}.",
                "My {who} {name} is always on the phone",
            ),
            (
                "My {who} told my secret",
                "Last week my {who} {name} ({age}) told my secret to everybody at the {event}.",
                "My {who} {name} told my secret at the {event}",
            ),
            (
                "My {who} does not talk to me",
                "My {who} {name} ({age}) stopped talking to me after the {event}.",
                "My {who} {name} stopped talking to me after the {event}",
            ),
            (
                "My {who} is jealous of my friend",
                "My {who} {name} ({age}) is jealous of a friend I met at a {event}.",
                "My {who} {name} is jealous of my friend",
            ),
        ),
        details="We have known each other for six years.|We were very close before.|{He} says that I am too sensitive.|We live in the same town and meet often.|{He} acts as if nothing happened.",
        tries="talking to {him}|writing {him} a letter|giving {him} some space|asking {his} friends|making {him} dinner",
        asks="How do I talk to {him} about it?|Should I wait or say something?|How can I trust {him} again?|Am I wrong to be upset?",
    ),
    "roommates": Forum(
        slots={
            "who": "roommate|flatmate|housemate",
            "thing": "bike|food|laptop|towels|coffee|jacket",
            "room": "kitchen|bathroom|living room",
        },
        problems=(
            (
                "My {who} takes my {thing}",
                "My {who} {name} keeps taking my {thing} without asking.",
                "My {who} {name} keeps taking my {thing}",
            ),
            (
                "My {who} never cleans",
                "My {who} {name} never cleans the {room}, and my {thing} smells of old food.",
                "My {who} {name} never cleans the {room}",
            ),
            (
                "Loud music at night",
                "My {who} {name} plays loud music in the {room} every night while I try to sleep.",
                "My {who} {name} plays loud music every night",
            ),
            (
                "My {who} does not pay",
                "My {who} {name} has not paid the rent, but bought a new {thing}.",
                "My {who} {name} does not pay the rent",
            ),
            (
                "My {who} has guests every day",
                "My {who} {name} has guests in the {room} every day, and they use my {thing}.",
                "My {who} {name} has guests every day",
            ),
        ),
        details="We share a small flat near the station.|I moved in because the rent was low.|{He} says that I should relax.|I work early and need my sleep.|We signed the lease together.",
        tries="talking to {him}|leaving a note in the {room}|locking my door|making a plan for the week|calling the landlord",
        asks="How do I make {him} stop?|Should I move out?|Is it fair to ask {him} to leave?|How do I bring it up without a fight?",
    ),
    "Parenting": Forum(
        slots={
            "who": "son|daughter",
            "kid_age": "four|five|six|seven|eight",
            "food": "vegetables|soup|fish|rice|fruit",
        },
        problems=(
            (
                "My {who} does not eat {food}",
                "My {kid_age} year old {who} {name} does not eat {food} any more.",
                "My {kid_age} year old {who} does not eat {food}",
            ),
            (
                "My {who} does not sleep",
                "My {kid_age} year old {who} {name} wakes up every night and comes into our bed.",
                "My {kid_age} year old {who} wakes up every night",
            ),
            (
                "My {who} is afraid of school",
                "My {kid_age} year old {who} {name} is afraid of school and cries every morning.",
                "My {kid_age} year old {who} is afraid of school",
            ),
            (
                "My {who} wants a tablet",
                "My {kid_age} year old {who} {name} wants a tablet because all the other kids have one.",
                "My {kid_age} year old {who} wants a tablet",
            ),
            (
                "My {who} hits other kids",
                "My {kid_age} year old {who} {name} hits other kids at the playground when {he} is angry.",
                "My {kid_age} year old {who} hits other kids",
            ),
        ),
        details="{He} is a happy child most of the time.|We also have a baby at home.|My partner works late, so I am often alone with it.|The teacher says it is a phase.|Grandma thinks that we are too soft.",
        tries="reading a story with {him}|giving {him} stickers|talking to the teacher|staying calm|making a game of it",
        asks="Is this normal at this age?|How can I help {him}?|Should I be more strict?|When does this end?",
    ),
    "college": Forum(
        slots={"subject": "math|history|biology|physics|music|chemistry", "job": "library|campus cafe|book store|gym"},
        problems=(
            (
                "Failing {subject}",
                "I am failing my {subject} class, and the final exam is soon.",
                "I am failing my {subject} class",
            ),
            (
                "My group does not work",
                "My group in {subject} does not work, so I do the whole project alone.",
                "My {subject} group does not work",
            ),
            (
                "Change from {subject}?",
                "I study {subject}, but I do not enjoy it any more.",
                "I do not enjoy studying {subject}",
            ),
            (
                "No time to study",
                "I work at the {job} every evening and have no time to study for {subject}.",
                "I work at the {job} and have no time for {subject}",
            ),
            (
                "No friends on campus",
                "I am new on campus and know nobody outside my {subject} class.",
                "I am new on campus and have no friends",
            ),
        ),
        details="I am in my second year.|My parents pay for most of it.|I also work at the {job} on weekends.|My grades were good in school.|The professor is nice but very busy.",
        tries="going to office hours|studying with a friend|joining a club|making a plan|asking my adviser",
        asks="Should I drop the class?|How do I catch up?|What would you do?|Should I talk to the professor?",
    ),
    "jobs": Forum(
        slots={"who": "boss|manager|coworker|team leader", "work": "hotel|bank|small shop|hospital|factory|bakery"},
        problems=(
            (
                "My {who} takes credit for my work",
                "I work at a {work}, and my {who} {name} takes credit for my work.",
                "My {who} {name} takes credit for my work",
            ),
            (
                "My {who} calls me at home",
                "I work at a {work}, and my {who} {name} calls me at home on my free days.",
                "My {who} {name} calls me on my free days",
            ),
            (
                "New offer, old job",
                "I work at a {work} and got a better offer, but my {who} {name} wants me to stay.",
                "I got a better offer, but my {who} {name} wants me to stay",
            ),
            (
                "No raise again",
                "I work at a {work}, and my {who} {name} promised me a raise that never came.",
                "My {who} {name} promised me a raise that never came",
            ),
            (
                "My {who} is always late",
                "I work at a {work}, and my {who} {name} is always late, so I do two jobs.",
                "My {who} {name} is always late",
            ),
        ),
        details="I have been there for three years.|The pay is not great.|I like the rest of the team.|{He} is a friend of the owner.|The place is forty minutes from my home.",
        tries="talking to {him}|writing an email|keeping a list|asking the owner|saying no",
        asks="Should I quit?|How do I talk to {him}?|Should I go to the owner?|How do I say this without losing my job?",
    ),
    "personalfinance": Forum(
        slots={
            "amount": "500|800|2000|5000|10000",
            "thing": "car|laptop|washing machine|roof|phone",
            "who": "brother|sister|cousin|uncle|aunt",
        },
        problems=(
            (
                "I owe {amount} dollars",
                "I owe {amount} dollars on a credit card because my {thing} broke.",
                "I owe {amount} dollars for my {thing}",
            ),
            (
                "My {who} wants a loan",
                "My {who} {name} wants to borrow {amount} dollars for a {thing}.",
                "My {who} {name} wants to borrow {amount} dollars",
            ),
            (
                "What to do with {amount} dollars",
                "I got {amount} dollars from my grandmother, and my old {thing} may not last.",
                "I got {amount} dollars from my grandmother",
            ),
            (
                "Buy a new {thing}?",
                "My {thing} is old, and a new one costs {amount} dollars, which is most of my savings.",
                "A new {thing} costs {amount} dollars, most of my savings",
            ),
            (
                "Never got my money back",
                "My {who} {name} owes me {amount} dollars for a {thing} and never talks about it.",
                "My {who} {name} owes me {amount} dollars for a {thing}",
            ),
        ),
        details="I have a steady job and pay rent.|I have no other debt.|I can save about two hundred dollars a month.|My bank was not much help.|I have never had this much to think about.",
        tries="making a budget|calling the bank|selling old things|saving every week|cooking at home",
        asks="Should I save it or spend it?|How do I plan this?|Is it better to wait?|What would you do first?",
    ),
    "dogs": Forum(
        slots={
            "who": "dog|puppy|old dog|rescue dog",
            "noise": "thunder|the vacuum|bikes|other dogs|the mailman",
            "thing": "shoes|couch|books|pillows",
        },
        problems=(
            (
                "My {who} barks at {noise}",
                "My {who} {pet} barks at {noise} every single day.",
                "My {who} {pet} barks at {noise}",
            ),
            (
                "My {who} eats my {thing}",
                "My {who} {pet} chews up my {thing} when I am at work.",
                "My {who} {pet} chews up my {thing}",
            ),
            (
                "My {who} pulls on the leash",
                "My {who} {pet} pulls on the leash whenever we see {noise}.",
                "My {who} {pet} pulls on the leash",
            ),
            (
                "My {who} is afraid",
                "My {who} {pet} is afraid of {noise} and hides behind the couch.",
                "My {who} {pet} is afraid of {noise}",
            ),
            (
                "My {who} does not come back",
                "My {who} {pet} runs away in the park and does not come when I call.",
                "My {who} {pet} does not come when I call",
            ),
        ),
        details="{pet} is three years old and very sweet.|We walk for an hour every day.|The neighbors have started to complain.|I live in a small flat with a garden.|I never had a dog before.",
        tries="using treats|going to a trainer|taking longer walks|buying new toys|keeping calm",
        asks="How do I train this?|Do I need another trainer?|Is {pet} just bored?|What worked for your dog?",
    ),
    "cats": Forum(
        slots={
            "who": "cat|kitten|old cat|new cat",
            "place": "kitchen table|keyboard|bed|curtains|plants",
            "hour": "four|five|six",
        },
        problems=(
            (
                "My {who} wakes me at {hour}",
                "My {who} {pet} wakes me up at {hour} every morning and wants food.",
                "My {who} {pet} wakes me up at {hour} every morning",
            ),
            (
                "My {who} ruins the {place}",
                "My {who} {pet} scratches the {place} whenever I leave the room.",
                "My {who} {pet} scratches the {place}",
            ),
            (
                "My two cats fight",
                "My {who} {pet} fights with our other cat near the {place}.",
                "My {who} {pet} fights with our other cat",
            ),
            (
                "My {who} hides all day",
                "My {who} {pet} hides under the bed all day and only comes out at {hour}.",
                "My {who} {pet} hides under the bed all day",
            ),
            (
                "My {who} stopped eating",
                "My {who} {pet} stopped eating the dry food and only wants fish.",
                "My {who} {pet} only wants fish",
            ),
        ),
        details="{pet} lives indoors and has many toys.|We moved to a new house in spring.|The vet says that {pet} is healthy.|I got {pet} from a shelter.|I work from home most days.",
        tries="playing before bed|buying a scratching post|changing the food|closing the door|using a spray",
        asks="How can I change this?|Will it get better with time?|Should I see another vet?|What does your cat do?",
    ),
    "travel": Forum(
        slots={
            "city": "Rome|Tokyo|Paris|Berlin|Cairo|Oslo",
            "who": "sister|best friend|brother|mother|cousin",
            "lost": "passport|suitcase|phone|train ticket",
        },
        problems=(
            (
                "Lost my {lost} in {city}",
                "I am in {city} with my {who} {name}, and I lost my {lost} at the station.",
                "I lost my {lost} in {city}",
            ),
            (
                "Three days in {city}",
                "My {who} {name} and I have only three days in {city}, and we want different things.",
                "My {who} {name} and I have only three days in {city}",
            ),
            (
                "My {who} is afraid of flying",
                "I booked a trip to {city}, but my {who} {name} is afraid of flying.",
                "My {who} {name} is afraid of flying to {city}",
            ),
            (
                "Hotel in {city} canceled",
                "Our hotel in {city} canceled the room, and my {who} {name} blames me.",
                "Our hotel in {city} canceled the room",
            ),
            (
                "My {who} wants to come to {city}",
                "I planned to see {city} alone, but my {who} {name} wants to come along.",
                "My {who} {name} wants to join my trip to {city}",
            ),
        ),
        details="It is my first big trip.|We saved for it all year.|The flight leaves in a week.|I do not speak the language.|Our budget is quite small.",
        tries="calling the airline|asking at the hotel|looking for a train|reading some guides|making a list",
        asks="What should we do next?|Is there a better way?|Should I change the plan?|What would you do in {city}?",
    ),
    "Cooking": Forum(
        slots={
            "dish": "bread|soup|rice|pizza|curry|stew",
            "fault": "too salty|too dry|burned|much too soft|full of lumps",
            "who": "family|girlfriend|boyfriend|roommates|parents",
        },
        problems=(
            (
                "My {dish} is {fault}",
                "Every time I make {dish} at home, it comes out {fault}.",
                "My {dish} always comes out {fault}",
            ),
            (
                "{dish} for twenty people",
                "I promised to make {dish} for twenty people, and last time it was {fault}.",
                "I have to make {dish} for twenty people",
            ),
            (
                "My {who} hates my {dish}",
                "My {who} will not eat my {dish} because it was {fault} once.",
                "My {who} will not eat my {dish}",
            ),
            (
                "{dish} without an oven",
                "My oven broke, and I want to make {dish} for my {who} on Sunday.",
                "My oven broke and I want to make {dish}",
            ),
        ),
        details="I follow the recipe of my grandmother.|I use a cheap pan and an old stove.|I am new to cooking.|My kitchen is tiny.|It tasted great in the restaurant.",
        tries="using less water|buying a new pan|cooking it longer|lowering the heat|watching some videos",
        asks="What am I doing wrong?|Is there an easy trick?|Can I make it a day before?|Which recipe do you use?",
    ),
    "Fitness": Forum(
        slots={
            "sport": "running|swimming|cycling|lifting|climbing",
            "part": "knee|back|shoulder|ankle|wrist",
            "goal": "a race|a marathon|a long hike|my wedding",
        },
        problems=(
            (
                "My {part} hurts after {sport}",
                "I started {sport} to get ready for {goal}, and now my {part} hurts.",
                "My {part} hurts after {sport}",
            ),
            (
                "No progress in {sport}",
                "I go {sport} three times a week for {goal}, but I do not get any better.",
                "I do not get any better at {sport}",
            ),
            (
                "No time for {sport}",
                "I want to go {sport} before {goal}, but my new job takes all my time.",
                "I have no time for {sport} before {goal}",
            ),
            (
                "Afraid of the gym",
                "I want to try {sport} for {goal}, but I am afraid that people will stare.",
                "I am afraid to try {sport} because people will stare",
            ),
        ),
        details="I am thirty and work in an office.|I sleep about six hours a night.|I used to be in good shape.|A friend trains with me on Sundays.|I have only been at it for a short time.",
        tries="resting for a week|buying new shoes|eating better|going with a friend|starting slowly",
        asks="Should I take a break?|How do I keep going?|Is there a better plan?|How often should I train?",
    ),
    "gardening": Forum(
        slots={
            "plant": "tomatoes|roses|lemon tree|carrots|sunflowers|strawberries",
            "pest": "snails|rabbits|birds|ants|squirrels",
            "who": "neighbor|landlord|aunt|father",
        },
        problems=(
            (
                "{pest} eat my {plant}",
                "The {pest} in our garden eat all of my {plant} at night.",
                "The {pest} eat all of my {plant}",
            ),
            (
                "Yellow leaves",
                "The leaves of my {plant} turned yellow, and then the {pest} came.",
                "The leaves of my {plant} turned yellow",
            ),
            (
                "My {who} cut my {plant}",
                "My {who} {name} cut down my {plant} without asking me.",
                "My {who} {name} cut down my {plant}",
            ),
            (
                "My {who} wants my garden",
                "My {who} {name} wants to turn the garden with my {plant} into a parking place.",
                "My {who} {name} wants to turn my garden into a parking place",
            ),
        ),
        details="The garden gets sun all day.|I water it every evening.|The soil is mostly clay.|I planted everything in April.|It is my first year with a garden.",
        tries="building a fence|using less water|asking at the store|putting up a sign|adding new soil",
        asks="Can I still save it?|What should I do before winter?|Is there a gentle way to stop this?|Should I start again?",
    ),
    "DIY": Forum(
        slots={
            "thing": "sink|door|bike|window|washing machine|lamp|fence",
            "sound": "a strange sound|a bad smell|a lot of water|a small crack",
            "who": "husband|wife|father|roommate|neighbor",
        },
        problems=(
            (
                "My {thing} makes trouble",
                "I fixed our old {thing} myself, and now there is {sound} in the room.",
                "I fixed our {thing} and now there is {sound}",
            ),
            (
                "My {who} broke the {thing}",
                "My {who} {name} tried to fix the {thing} and broke it for good.",
                "My {who} {name} broke the {thing}",
            ),
            (
                "Fix or buy a {thing}?",
                "Our {thing} is twenty years old and there is {sound}, but my {who} {name} wants to keep it.",
                "My {who} {name} wants to keep our old {thing}",
            ),
            (
                "Cannot open the {thing}",
                "I want to repair the {thing}, but I cannot get the last screw out.",
                "I cannot get the last screw out of the {thing}",
            ),
        ),
        details="We rent the place, so I must be careful.|I own a drill and a hammer.|The last repair cost a lot.|I have a free weekend coming up.|The part is hard to find.",
        tries="using some oil|watching a video|calling a shop|tightening the screws|ordering a new part",
        asks="Can I do this myself?|Do I need a professional?|Which tool should I buy?|Is it safe to use?",
    ),
    "socialskills": Forum(
        slots={
            "who": "boss|teacher|neighbor|girlfriend|boyfriend|grandmother",
            "thing": "coffee|soup|paint|ice cream|cake",
            "place": "party|office|wedding|library|train",
        },
        problems=(
            (
                "I spilled {thing} on my {who}",
                "Today at the {place} I spilled {thing} all over my {who} {name}.",
                "I spilled {thing} all over my {who} {name}",
            ),
            (
                "A message to the wrong person",
                "Today I sent a silly message about the {thing} to my {who} {name} instead of a friend.",
                "I sent a silly message to my {who} {name}",
            ),
            (
                "I hugged a stranger",
                "Today at the {place} I hugged a stranger because I thought it was my {who} {name}.",
                "I hugged a stranger who I thought was my {who} {name}",
            ),
            (
                "I fell asleep at the {place}",
                "Today I fell asleep at the {place} and dropped my {thing} on my {who} {name}.",
                "I fell asleep and dropped {thing} on my {who} {name}",
            ),
            (
                "I forgot a name",
                "Today at the {place} I forgot the name of my {who} {name} and said the wrong one.",
                "I forgot the name of my {who} {name} at the {place}",
            ),
        ),
        details="Everybody at the {place} saw it.|{He} did not laugh at all.|I was wearing my best shirt.|I had not slept much that night.|The whole room went silent.",
        tries="saying sorry|making a joke|buying {him} flowers|hiding in the bathroom|blaming the {thing}",
        asks="How do I make up for it?|Can I ever go back there?|Should I say sorry again?|How do I face {him} tomorrow?",
    ),
}

LASTING = ("roommates", "Parenting", "college", "dogs", "cats", "Fitness")  # forums with problems that last
