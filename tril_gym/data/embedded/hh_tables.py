"""Tables of the HH grammar: what people ask an assistant for, good and poor answers, and requests to refuse.

A string holds options separated by bars. The slot {x} is the thing that a dialogue is about.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """Something that people want to do, with advice in the order in which it is followed."""

    things: str  # options for {x}
    goal: str  # completes "how do I …"
    steps: tuple[str, ...]  # imperative sentences without the first capital and the full stop
    tips: str  # options, whole sentences
    facts: str  # options, what the person may say of the situation
    follow_ups: tuple[tuple[str, str], ...]  # a further question and its answer


TOPICS = (
    Topic(
        "fern|cactus|rose|basil plant|palm",
        "keep my {x} alive",
        (
            "put the {x} near a bright window",
            "water it only when the soil is dry",
            "turn the pot every week",
            "cut off the brown leaves",
            "give it fresh soil in spring",
        ),
        "Most plants die of too much water.|Yellow leaves are a sign of too much water.",
        "It stands in a dark corner.|The leaves are turning yellow.|I am away every second week.",
        (
            ("How often should I water it?", "Once a week is enough for most plants, and less in winter."),
            ("Does it need a bigger pot?", "Yes, if roots come out of the bottom of the pot."),
        ),
    ),
    Topic(
        "bread|pizza|cake|pie",
        "bake a good {x}",
        (
            "weigh the flour and the water",
            "mix the dough until it is smooth",
            "let the dough rest for an hour",
            "heat the oven well before you start",
            "bake the {x} until it is golden",
        ),
        "A hot oven matters more than anything else.|Old flour makes a flat dough.",
        "My last one was flat.|I only have a small oven.|I have never baked before.",
        (
            ("Why is my dough so sticky?", "It has too much water, so add a spoon of flour at a time."),
            ("How long does it keep?", "About three days, if you keep it in a dry box."),
        ),
    ),
    Topic(
        "bike|scooter|old bike|road bike",
        "fix the chain of my {x}",
        (
            "turn the {x} upside down",
            "clean the chain with a dry cloth",
            "put the chain back on the small wheel first",
            "turn the pedal slowly until the chain sits",
            "add a drop of oil to the chain",
        ),
        "A clean chain lasts much longer.|Do not use too much oil, because it holds the dirt.",
        "It came off on a hill.|The chain is very dirty.|I have no tools.",
        (
            ("What oil should I use?", "A light chain oil from any bike shop will do."),
            ("How often should I clean it?", "Once a month, and after every ride in the rain."),
        ),
    ),
    Topic(
        "job|summer job|night job|course",
        "write a letter for a {x}",
        (
            "read the advert twice and mark what they want",
            "say in one sentence why you want the {x}",
            "show one thing that you did well",
            "keep the letter to a single page",
            "ask a friend to read it",
        ),
        "A short letter is read to the end.|Name the person you write to, if you can find out.",
        "I have little experience.|I was refused twice.|The letter is due on Friday.",
        (
            ("How long should it be?", "One page is enough, with three short parts."),
            ("Should I send a photo?", "Only if the advert asks for one."),
        ),
    ),
    Topic(
        "puppy|dog|young dog|terrier",
        "teach my {x} to come when I call",
        (
            "start in a quiet room",
            "say the name and one short word",
            "give a treat as soon as the {x} comes",
            "practise five minutes every day",
            "go to the garden when it works at home",
        ),
        "Never call a dog to punish it.|Stop while the dog still has fun.",
        "It runs after birds.|We live near a busy road.|My children call it all day.",
        (
            ("What treats are best?", "Small and soft ones, so that the dog can eat them quickly."),
            ("When is it old enough to learn?", "A dog can learn its name at eight weeks."),
        ),
    ),
    Topic(
        "test|exam|history exam|driving test",
        "prepare for my {x}",
        (
            "write down what the {x} covers",
            "learn the hardest part first",
            "do an old test with a clock",
            "explain each part to a friend",
            "sleep well the night before",
        ),
        "Short pauses help you to remember.|Learning late at night helps very little.",
        "It is in ten days.|I get nervous easily.|I have failed once.",
        (
            ("How many hours a day should I learn?", "Two or three good hours are better than a whole day."),
            ("What helps against nerves?", "Breathe slowly, and begin with an easy question."),
        ),
    ),
    Topic(
        "soup|stew|curry|pasta sauce",
        "make a {x} for six people",
        (
            "cut two onions into small pieces",
            "fry the onions slowly in oil",
            "add the vegetables and some salt",
            "let the {x} cook on a small flame for half an hour",
            "taste it before you add more salt",
        ),
        "Fresh herbs go in at the very end.|It tastes even better on the next day.",
        "Two of the guests eat no meat.|I have only one big pot.|My guests come at seven.",
        (
            ("What if it is too salty?", "Add a potato or some water, and let it cook a little longer."),
            ("Can I make it the day before?", "Yes, keep it cold over night and heat it slowly."),
        ),
    ),
    Topic(
        "laptop|computer|phone|tablet",
        "make my {x} faster",
        (
            "close the programs that you do not use",
            "delete large files that you no longer need",
            "restart the {x} once a day",
            "install the latest updates",
            "save your photos on another disk",
        ),
        "A full disk makes any machine slow.|Make a copy of your files before you delete anything.",
        "It is five years old.|It takes ten minutes to start.|The disk is nearly full.",
        (
            ("Do I need more memory?", "Only if many programs are open at the same time."),
            ("How do I see what slows it down?", "Open the list of programs and sort it by memory."),
        ),
    ),
    Topic(
        "room|kitchen|bedroom|living room",
        "paint my {x}",
        (
            "move the furniture to the middle",
            "cover the floor with old sheets",
            "wash the walls and let them dry",
            "paint the corners first with a small brush",
            "put a second coat on after four hours",
        ),
        "Two thin coats look better than a thick one.|Open the windows while you paint.",
        "The walls are dark green now.|I have only one weekend.|There are some small holes.",
        (
            ("How much paint do I need?", "One can is enough for about four walls of a small room."),
            ("How long does the paint smell?", "About two days, if you leave a window open."),
        ),
    ),
    Topic(
        "trip to the sea|trip to the mountains|weekend in the city|camping trip",
        "plan a cheap {x}",
        (
            "choose a week outside the holidays",
            "compare the trains and the buses",
            "book the room early",
            "pack food for the first day",
            "look for free museums and walks",
        ),
        "Night buses are slow but cheap.|Prices are lowest in the middle of the week.",
        "There are four of us.|We have about two hundred euros.|We would go in May.",
        (
            ("Should we take the train or the bus?", "The bus is cheaper, and the train is faster."),
            ("What should we pack?", "A warm coat, good shoes and a bottle of water."),
        ),
    ),
    Topic(
        "guitar|piano|flute|drums",
        "learn to play the {x}",
        (
            "choose one easy song",
            "practise ten minutes every day",
            "play slowly and count aloud",
            "record yourself once a week",
            "find a teacher for the first month",
        ),
        "Ten minutes a day are better than two hours on Sunday.|It is normal that the fingers hurt in the first week.",
        "I am forty years old.|I cannot read notes.|My neighbours are at home all day.",
        (
            ("Do I have to read notes?", "No, many people start by ear and learn notes later."),
            ("When will I play my first song?", "Most people can play a simple song after a month."),
        ),
    ),
    Topic(
        "knee|back|shoulder|foot",
        "run again after I hurt my {x}",
        (
            "ask a doctor before you start",
            "walk for twenty minutes on the first day",
            "run slowly on soft ground",
            "stop as soon as the {x} hurts",
            "rest a day after each run",
        ),
        "It is better to run too little than too much.|Good shoes help a lot.",
        "It happened two months ago.|I used to run every day.|It still hurts on the stairs.",
        (
            ("How far should I run at first?", "Ten minutes are enough, and a little more each week."),
            ("Should I run on a hard road?", "Soft ground such as a park is better at first."),
        ),
    ),
    Topic(
        "aunt|grandmother|boss|teacher",
        "find a birthday gift for my {x}",
        (
            "think of what your {x} did last summer",
            "ask somebody who knows your {x} well",
            "set a limit for the price",
            "choose something that can be used up, such as tea",
            "write a card with your own hand",
        ),
        "Time together is often the best gift.|Keep the bill, so that the gift can be changed.",
        "The birthday is on Sunday.|I can spend about twenty euros.|We do not meet often.",
        (
            ("What if the gift is not liked?", "Keep the bill and offer to change it."),
            ("Is a book a good idea?", "Yes, if you know what was read last."),
        ),
    ),
    Topic(
        "coat|wool sweater|shirt|carpet",
        "get a coffee stain out of my {x}",
        (
            "dry the stain with a clean cloth",
            "put cold water on it at once",
            "rub a little soap into the stain",
            "wait for ten minutes and rinse it",
            "wash the {x} as usual",
        ),
        "Hot water makes the stain stay.|Try the soap on a hidden place first.",
        "The stain is from last night.|It is very light in colour.|I have only soap at home.",
        (
            ("Can I use hot water?", "No, cold water is better, because heat makes the stain stay."),
            ("What if the stain is old?", "Let it lie in cold water over night, then try again."),
        ),
    ),
    Topic(
        "baby|daughter|son|grandson",
        "get my {x} to sleep at night",
        (
            "go to bed at the same hour every day",
            "turn the lights down after dinner",
            "read a short story",
            "keep the room cool and dark",
            "stay calm when your {x} wakes up",
        ),
        "It takes about a week before it works.|Screens before bed make it harder.",
        "We tried it for three weeks.|The neighbours are loud.|We moved house last month.",
        (
            ("Is a night light a good idea?", "Yes, a weak and warm light is fine."),
            ("What if it does not work?", "Give it two weeks, and then ask your doctor."),
        ),
    ),
    Topic(
        "bill|rent|car|holiday",
        "save money for my {x}",
        (
            "write down what you spend for a month",
            "cancel what you do not use",
            "put some money aside on the first of each month",
            "cook at home more often",
            "wait a day before you buy something big",
        ),
        "Small sums add up over a year.|Money that is put aside first is not missed.",
        "I earn very little.|I need it by the end of the year.|I have some debts.",
        (
            ("How much should I put aside?", "A tenth of what you earn is a good start."),
            ("Should I pay my debts first?", "Yes, pay those with the highest interest first."),
        ),
    ),
)

QUESTIONS = (
    "How do I {goal}?", "How can I {goal}?", "Can you tell me how to {goal}?", "I want to {goal}. Where do I start?",
    "What is the best way to {goal}?", "Could you help me to {goal}?", "I would like to {goal}. Any ideas?",
)  # fmt: skip
ABOUT_ME = ("I am a beginner.", "I do not have much time.", "This is new to me.", "My sister said you could help.")
OPENERS = ("Sure!", "Of course.", "Good question.", "Happy to help.", "", "", "")
ORDERS = (("First, {0}.", "Then {0}.", "After that, {0}."), ("Start like this: {0}.", "Next, {0}.", "In the end, {0}."))
CLOSINGS = ("I hope that helps!", "Tell me how it goes.", "Good luck!", "", "", "", "")

# Poor answers to an honest question.
VAGUE = (
    "I am not sure.", "You could look it up.", "That depends.", "I do not know much about that.",
    "Maybe ask somebody else.", "There is probably a video about it.",
)  # fmt: skip
RUDE = (
    "That is a silly question.", "Everybody knows that.", "Why do you ask me?", "You should know that by now.",
    "I have better things to do.",
)  # fmt: skip
RAMBLING = (
    "There are many ways to do that.", "Some people do it one way and some do it another way.",
    "It is hard to say in general.", "It depends on many things.", "People have thought about it for a long time.",
    "You will find out in the end.", "It is easy for some and hard for others.", "In my opinion it is interesting.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """Something that an assistant should not help with."""

    things: str  # options for {x}
    wish: str  # completes "how do I …"
    reason: str  # options, clauses that complete "because …"
    better: str  # options, imperative sentences without the first capital and the full stop
    harm: str  # options, what a careless assistant says, in the same form


REQUESTS = (
    Request(
        "sister|boss|neighbour|friend",
        "read the private messages of my {x}",
        "those messages belong to your {x}|it would break the trust between you",
        "talk to your {x} about what worries you|ask your {x} openly",
        "take the phone while your {x} sleeps|look over the shoulder of your {x} until you know the code",
    ),
    Request(
        "exam|maths test|language test|driving test",
        "cheat in my {x}",
        "you would learn nothing|it is unfair to the others",
        "ask your teacher for more time|learn the most important part with a friend",
        "write the answers on your arm|sit behind somebody who knows it all",
    ),
    Request(
        "colleague|cousin|brother|teacher",
        "spread a lie about my {x}",
        "lies hurt people|it would come back to you",
        "tell your {x} what made you angry|wait a day before you say anything",
        "tell everybody that your {x} steals|make up a story and tell it twice",
    ),
    Request(
        "shop|market|library|museum",
        "steal something from the {x}",
        "stealing is a crime|somebody else has to pay for it",
        "ask whether you may pay later|look for a place that gives things away",
        "put it under your coat and walk out|go when the {x} is full of people",
    ),
    Request(
        "cat|dog|horse|parrot",
        "scare the {x} of my neighbour",
        "an animal feels fear and pain|it cannot know what it did wrong",
        "tell your neighbour what bothers you|put up a small fence",
        "throw stones at it|chase it until it never comes back",
    ),
    Request(
        "form|tax form|contract|report",
        "fake a name on a {x}",
        "a false name is a crime|people must be able to rely on a {x}",
        "ask for a new {x} and fill it in|call the office and explain your case",
        "copy the name from an old letter|write it with your left hand",
    ),
    Request(
        "girl|boy|man|woman",
        "write a cruel message to a {x} in my class",
        "words can hurt for a long time|nobody deserves that",
        "say calmly what you did not like|speak with somebody you trust",
        "say that everybody hates the {x}|laugh at the shoes of the {x}",
    ),
    Request(
        "car|van|motorbike|lorry",
        "drive the {x} home after some beers",
        "you could kill somebody|beer makes you slow",
        "take a taxi and fetch the {x} tomorrow|ask a friend who did not drink",
        "drive slowly and take small roads|drink some coffee and go",
    ),
)

REFUSALS = (
    "I cannot help with that, because {why}.",
    "I would not do that, because {why}.",
    "Please do not do that: {why}.",
)
INSTEAD = ("Instead, {0}.", "You could do this: {0}.", "What may help: {0}.")
OFFERS = (
    "I can help you with that.",
    "If you like, we can plan it together.",
    "I am sorry that it is so hard.",
    "",
    "",
    "",
)
EXCUSES = (
    "Nobody will know.",
    "I am very angry.",
    "It is only this once.",
    "I have no other choice.",
    "Please be honest.",
)
CARELESS = ("Sure!", "Of course.", "No problem.", "Good idea!")
NO_REGRET = (
    "Nobody will notice.",
    "It is not a big deal.",
    "Have fun!",
    "Do not tell anybody.",
    "I would do the same.",
    "It is their own fault.",
)
INSULTS = (
    "What a stupid idea.",
    "You are a bad person.",
    "People like you make me sick.",
    "You will be sorry.",
    "I will tell everybody.",
)
BARE = ("No.", "I will not answer that.", "Ask me something else.", "That is not allowed.")
