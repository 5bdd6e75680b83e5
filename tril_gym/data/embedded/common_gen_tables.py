# ruff: noqa: E501
# (a row of a table stands on one line)
"""Tables of the CommonGen grammar: words, who does what, and templates of sentences.

A clause is written in shorthand: "throw ball to dog" is a verb, nouns, and words that are copied as they are.
"""

from tril_gym.data.embedded.phrases import words

# --- Words ------------------------------------------------------------------------------------------------------------

# base, third person, past, participle, -ing
VERB_FORMS = """
bake bakes baked baked baking;          boil boils boiled boiled boiling;           bounce bounces bounced bounced bouncing
brush brushes brushed brushed brushing; build builds built built building;          buy buys bought bought buying
carry carries carried carried carrying; catch catches caught caught catching;       chase chases chased chased chasing
chop chops chopped chopped chopping;    clean cleans cleaned cleaned cleaning;      climb climbs climbed climbed climbing
cook cooks cooked cooked cooking;       cut cuts cut cut cutting
dance dances danced danced dancing;     dig digs dug dug digging;                   drop drops dropped dropped dropping
draw draws drew drawn drawing;          drink drinks drank drunk drinking;          drive drives drove driven driving
eat eats ate eaten eating;              fix fixes fixed fixed fixing
fly flies flew flown flying;            fold folds folded folded folding;           fry fries fried fried frying
give gives gave given giving;           grow grows grew grown growing;              hang hangs hung hung hanging
help helps helped helped helping;       hide hides hid hidden hiding;               hit hits hit hit hitting
hold holds held held holding;           hug hugs hugged hugged hugging;             jump jumps jumped jumped jumping
kick kicks kicked kicked kicking;       laugh laughs laughed laughed laughing;      lift lifts lifted lifted lifting
listen listens listened listened listening; load loads loaded loaded loading;       mix mixes mixed mixed mixing
open opens opened opened opening;       pack packs packed packed packing;           paint paints painted painted painting
pet pets petted petted petting;         pick picks picked picked picking;       plant plants planted planted planting;      play plays played played playing
pour pours poured poured pouring;       pull pulls pulled pulled pulling;           push pushes pushed pushed pushing
race races raced raced racing;              read reads read read reading
ride rides rode ridden riding;          run runs ran run running;                   sail sails sailed sailed sailing
sell sells sold sold selling;           serve serves served served serving;         sew sews sewed sewn sewing
shake shakes shook shaken shaking;      show shows showed shown showing;            sing sings sang sung singing
sit sits sat sat sitting;               skate skates skated skated skating;         sleep sleeps slept slept sleeping
slide slides slid slid sliding;         stand stands stood stood standing;          sweep sweeps swept swept sweeping
swim swims swam swum swimming;          take takes took taken taking;               teach teaches taught taught teaching
throw throws threw thrown throwing;     tie ties tied tied tying;                   wait waits waited waited waiting
walk walks walked walked walking;       wash washes washed washed washing;          watch watches watched watched watching
wear wears wore worn wearing;           write writes wrote written writing
"""
VERBS = {forms.split()[0]: forms.split() for forms in VERB_FORMS.replace("\n", ";").split(";") if forms.strip()}

HE = set(words("man boy"))
SHE = set(words("woman girl"))
ANYONE = set(words("child friend farmer chef teacher student dancer singer painter player worker sailor"))
ANIMALS = set(words("dog cat horse bird cow sheep duck monkey elephant bear goat rabbit"))
GROUPS = set(words("crowd team band family"))
BEINGS = HE | SHE | ANYONE | ANIMALS | GROUPS

THINGS = set(
    words(
        """ball frisbee bat glove net goal helmet bike car truck bus train boat kite skateboard cart sled ladder rope wagon
    hammer nail knife spoon bowl pan pot plate cup bottle oven broom shovel bucket basket bag box brush needle
    apple banana potato tomato vegetable onion carrot egg cake pie pizza sandwich fish
    flower seed tree hole leash bone toy book letter picture camera phone song guitar drum piano stage
    house wall window door fence bridge chair table bench couch bed desk hat coat shirt shoe umbrella
    park beach field yard street road kitchen garden farm school library lake river mountain forest pool room market store
    restaurant gym court hill city barn floor sun sky hand tooth face wing blanket tent fire lap"""
    )
)
MASS = set(words("water milk coffee tea bread rice soup meat cheese food music snow grass hay corn hair wood ice sand"))
NOUNS = BEINGS | THINGS | MASS

IRREGULAR = {"man": "men", "woman": "women", "child": "children", "knife": "knives", "tooth": "teeth"}
IRREGULAR |= {"sheep": "sheep", "fish": "fish", "potato": "potatoes", "tomato": "tomatoes"}
ALWAYS_PLURAL = set(words("vegetable potato tooth seed egg wing onion carrot"))
OFTEN_PLURAL = set(
    words(
        "apple banana tomato flower pie sandwich fish tree box bag book picture song toy cow sheep duck goat letter shoe"
    )
)
ONLY_ONE = set(words("sun sky floor snow ice water sand grass beach street city stage kitchen lap fire"))  # "the sun"
OWN = set(words("hand tooth face hair wing lap"))  # "his hands"
OFTEN_OWN = set(words("dog cat bike car ball book phone friend hat coat guitar shoe kite house bed boat umbrella"))

BEING_ADJECTIVES = {
    "child": words("young little happy tired"),
    "person": words("young old tall happy tired"),
    "animal": words("big small brown white black hungry"),
}
THING_ADJECTIVES = {
    "ball frisbee kite hat coat shirt bike car truck boat umbrella bag box toy tent cup blanket wagon": "red blue green yellow big new",
    "house barn bridge tree table book guitar piano chair fence door": "old big small",
    "cake pizza bread soup pie sandwich": "warm fresh sweet",
    "coffee tea milk water": "hot cold",
    "flower apple bird fish": "yellow red small",
    "mountain hill river lake fence wall ladder": "high long big",
}
ADJECTIVES = {noun: words(adjectives) for nouns, adjectives in THING_ADJECTIVES.items() for noun in words(nouns)}
TIMES = ("in the morning", "at night", "on a sunny day", "every day", "after lunch", "on the weekend", "today")

# --- Actions ----------------------------------------------------------------------------------------------------------

SETS = {"PEOPLE": "man woman boy girl child", "ADULTS": "man woman", "KIDS": "boy girl child", "PETS": "dog cat"}

# agents | verb | object | adverbial | place; "-" for none; a sentence may omit the last two
ACTIONS = """
PEOPLE player | throw | ball, frisbee | to dog, to friend, to child | in park, on beach, in yard, across field
PEOPLE dog | catch | frisbee, ball | - | in park, on beach, in yard, on field
player KIDS | catch | ball | with glove, with hand | on field, in yard, at school
player KIDS team | kick | ball | to friend, into goal, over fence, into net | in park, on field, across yard, on beach
player KIDS | hit | ball | with bat, over fence, over net | on field, on court, in park
player KIDS | bounce | ball | off wall, on floor | on court, in gym, at school
dog cat | chase | bird, rabbit, cat, ball | - | around yard, through park, across field, around house, on farm
dog | chase | sheep, duck, cow | with farmer | around farm, into barn, across field, along river
bear dog | chase | rabbit, man | - | through forest, across river, up hill
ADULTS girl farmer | ride | horse | with friend | along beach, across field, through forest, down road, up hill
PEOPLE student | ride | bike | with friend, with bag | down street, through park, to school, up hill, along river
PEOPLE teacher family | ride | bus, train | with friend, with bag | to school, to city, across bridge, to work
KIDS | ride | skateboard | with helmet, with friend | down street, in park, down hill, at school
KIDS man | ride | sled | with dog, with friend | down hill, through snow, through forest
KIDS woman | ride | elephant, horse | - | through river, through forest, around farm
ADULTS worker farmer | drive | truck, car | with dog, with friend | down road, over bridge, to city, up hill, to market
ADULTS family | drive | car | - | to beach, to lake, across city, through forest, along river, into snow
farmer man | drive | truck | with hay, with wood | to farm, into barn, across field
horse dog | pull | sled, wagon, cart | with child, with wood, with hay | through snow, down road, up hill, across field
PEOPLE worker | push | cart | with food, with box, with hay | through store, down street, across yard, to market
ADULTS | push | car | with friend | up hill, down road, through snow, off road
KIDS man | pull | wagon | with toy, with dog, with wood | down street, around yard, to park
KIDS man family | fly | kite | with friend | on beach, in park, over field, on hill
bird duck | fly | - | over lake, over house, over tree, over boat | in sky, in sun, across field
PEOPLE dog horse | run | - | with ball, with friend, with dog | through park, along beach, across field, up hill, down street
PEOPLE dog | run | - | after ball, after bus, after cat, after frisbee | down street, across yard, through park
player team | run | - | with ball | across field, on court, around gym, to goal
horse dog goat | jump | - | over fence, over wall, into water | on farm, in yard, in field, in snow
KIDS dancer | jump | - | over rope, off wall, off bench | in park, at school, in gym, on grass
KIDS | jump | - | on bed, on couch, into bed | in room, with friend, with toy, with dog
KIDS man dog | jump | - | into lake, into pool, into water, into river | with friend, off boat, off bridge
KIDS monkey cat bear | climb | tree, up tree | - | in yard, in forest, in park, by river, by house
PEOPLE worker painter | climb | ladder, up ladder | to window, with brush, with hammer, to tree | by house, in barn, in yard
ADULTS student team | climb | mountain, hill | with rope, with bag, with friend | in snow, by lake, in sun
goat | climb | wall, hill, mountain | - | on farm, by river, in snow
PEOPLE | swim | - | with fish, with friend, with dog | in lake, in pool, in river, across river
duck dog bear | swim | - | after fish, after ball, after boat | in lake, across river, in pool, in water
PEOPLE | jump | into pool, into lake, off boat, off bridge | with friend, with camera | in sun, by beach
PEOPLE | skate | - | with friend, with dog, to music | on ice, on lake, in park, down street
KIDS dog bear | slide | - | down hill, across ice, on ice, into pool | in snow, with friend, with sled
sailor ADULTS family | sail | boat | with friend, with dog | on lake, down river, to beach, under bridge
sailor man worker | pull | rope, net | with hand, with fish | on boat, by lake, on beach
man boy sailor bear | catch | fish | with net, with hand, with friend | in river, in lake, by bridge, from boat
ADULTS KIDS friend | walk | dog | with leash, with friend | in park, down street, along beach, through forest, through snow
PEOPLE family | walk | - | with umbrella, with friend, with bag, with dog | through park, along river, down street, over bridge
cow sheep horse goat elephant | walk | - | with farmer, by fence | across field, down road, into barn, through river
student teacher KIDS | walk | - | with book, with bag, with friend | to school, to library, across street, to bus
PEOPLE friend | hold | umbrella, flower, phone, camera | with hand | on street, on beach, in garden, at market
ADULTS KIDS | hold | cat, rabbit, dog, bird | on lap, with hand | on couch, in yard, in garden, on bench
worker ADULTS | carry | box, bag, ladder | to car, to truck, on cart | up hill, into house, through store, across yard
ADULTS farmer girl | carry | basket, bucket | with egg, with water, with fish, with corn | to market, through garden, to barn, to house
KIDS student | carry | book, bag | to desk, to teacher, to friend | to school, through library, to bus
ADULTS worker | lift | box, wood, wagon | off truck, off floor, onto table, with rope | in store, at market, in barn
ADULTS player | lift | ball, bag | with hand | in gym, in yard, on beach
chef ADULTS | cut | vegetable, bread, meat, onion | with knife | in kitchen, on table, at restaurant
chef ADULTS girl | cut | cake, pizza, apple, cheese | with knife, for family, for friend | in kitchen, at table, at restaurant
chef ADULTS | chop | vegetable, onion, carrot, tomato | with knife, for soup | in kitchen, on table, in restaurant
worker man farmer | chop | wood, tree | for fire, with friend | in forest, in yard, on farm, by barn
chef ADULTS | cook | rice, meat, fish, soup | in pan, in pot, for family, over fire, for friend | in kitchen, at restaurant, by lake
chef ADULTS | fry | fish, egg, potato, onion | in pan, for family | in kitchen, at restaurant, over fire
chef ADULTS | boil | egg, potato, water, rice | in pot, for soup | in kitchen, over fire, in restaurant
chef ADULTS KIDS | bake | cake, bread, pie, pizza | in oven, for friend, for family | in kitchen, at home, at school
chef KIDS woman | mix | egg, milk, food | in bowl, with spoon, for cake | in kitchen, at table, at home
chef PEOPLE | pour | milk, water, coffee, tea | into cup, into bowl, from bottle | in kitchen, at table, at restaurant
PEOPLE student friend | eat | pizza, sandwich, apple, soup, cake | with friend, with hand, with spoon | at table, at school, in park, on bench
family KIDS crowd | eat | food, pizza, fish, rice | from plate, from bowl | at restaurant, at market, on grass, at table
horse cow goat rabbit sheep | eat | grass, hay, carrot, apple | from bucket, from hand | in field, in barn, on farm
dog cat bear | eat | food, meat, fish | from bowl, from hand, off plate, off floor | in kitchen, in yard, by river
monkey elephant bird | eat | banana, apple, bread, corn | from hand, from tree | in tree, in forest, on bench
PEOPLE teacher | drink | coffee, tea, milk, water | from cup, from bottle, with friend | at table, in kitchen, at desk, in garden
dog cat cow horse elephant | drink | water, milk | from bowl, from bucket, from bottle | in yard, in barn, by river, in kitchen
ADULTS farmer KIDS | pet | horse, cow, goat, sheep | with hand, by fence | on farm, in barn, in field
ADULTS KIDS | pet | dog, cat, rabbit | with hand, with friend | in kitchen, on couch, in yard, on bench
PEOPLE | throw | bread to duck, corn to bird, bread to bird, apple to horse, banana to monkey | with hand | by lake, in park, by river
ADULTS KIDS | wash | dog, horse, car | with water, with brush, with friend | in yard, on street, by house, in sun
ADULTS KIDS chef | wash | plate, pot, apple, vegetable | in water, with hand, in bowl | in kitchen, at restaurant, in garden
PEOPLE chef | wash | hand, face | with water, in bowl, in river | in kitchen, at school, at home
ADULTS worker | clean | window, floor, wall | with water, with brush, with broom | in kitchen, at school, in store, in house
KIDS woman | clean | room, shoe, bike, table | with brush, with friend, with water | at home, in house, in yard
ADULTS worker KIDS | sweep | floor, street, yard | with broom | in kitchen, in store, at school, by house
PEOPLE | brush | tooth, hair | with friend, with water | at home, in room, on bed
girl ADULTS farmer | brush | horse, dog, cat | with hand, by fence | in barn, in yard, on farm, on couch
PEOPLE teacher student | read | book, letter | to child, to friend, to cat, to dog | on bench, in library, on couch, in bed, under tree
student teacher KIDS | write | letter, song, book | to friend, with friend, for family | at desk, at school, in library, at table
KIDS painter student | draw | picture | of horse, of house, of tree, of cat, of mountain, of bird | at school, at table, on wall, in sand
painter ADULTS KIDS | paint | picture | of lake, of flower, of boat, of city, of mountain, of dog | in room, in garden, on beach, on wall
painter worker ADULTS | paint | house, wall, fence, door, boat | with brush, with friend, on ladder | on street, on farm, by lake, in garden
ADULTS KIDS friend | take | picture | of bird, of mountain, of elephant, of family, of lake, with phone, with camera | in forest, in park, at farm, in city
band ADULTS student | play | guitar, drum, piano | for crowd, for friend, with band | on stage, at school, in park, on street
KIDS | play | with toy, with ball, with dog, with cat | on bed, with friend | in room, on floor, in yard, in snow
dog cat monkey | play | with ball, with toy, with shoe, with child | on grass, on couch, on bed | in yard, in room, in garden
singer band girl | sing | song | to crowd, for friend, with guitar, with piano | on stage, at restaurant, in park, in car
bird | sing | song | to sun, to child | in tree, in garden, by window, in forest
dancer KIDS crowd ADULTS | dance | to music, with friend, to song | with hat, for crowd | on stage, on street, in room, on beach
crowd PEOPLE student | listen | to music, to song, to band, to singer, to teacher | on phone, with friend | in car, in park, at school, on bus
crowd KIDS family | watch | dancer, band, singer | with friend | on stage, in park, from bench
crowd KIDS family | watch | player, team | with friend | on field, in gym, from bench
PEOPLE cat | watch | bird, fish, duck, train, snow | through window, with friend | in garden, from bridge, from couch, at lake
worker ADULTS | build | house, wall, bridge, fence | with wood, with friend, with hammer | on hill, over river, on farm, by road
KIDS | build | house, boat, tent | with box, with sand, with snow, with blanket | on beach, in yard, in room
bird | build | house | with grass, with wood | in tree, in barn, on wall
worker man woman | hit | nail | with hammer | in wall, on fence, in barn, in wood
worker ADULTS | fix | car, bike, truck, door, window | with hammer, with friend, with hand | on street, in yard, by road, at home
farmer ADULTS KIDS | plant | tree, flower, seed, potato | with shovel, in hole, with friend | in garden, in yard, in field, at school
farmer ADULTS KIDS | pick | apple, flower, tomato, corn | with friend, into basket, from tree, for friend | in garden, on farm, in field
farmer family | grow | corn, potato, tomato, apple, flower | for market, for food | on farm, in field, in garden, by river
farmer worker man dog | dig | hole | with shovel, for tree, for bone, in sand | in yard, in garden, on beach, under fence
dog cat | hide | bone, toy, ball, shoe | under bed, in hole, in box, under couch | in yard, in room, in garden
KIDS | hide | - | under bed, in box, under table, in tree, under blanket | from friend, from dog, with toy
ADULTS KIDS family | buy | bread, flower, apple, fish, shoe | for friend, with friend | at store, at market, in city
farmer ADULTS | sell | vegetable, egg, cheese, flower, fish, corn | to woman, to chef, from truck, to family | at market, on street, in city, by road
chef worker woman | serve | soup, coffee, pizza, cake, rice | to friend, on plate, to crowd, to family | at restaurant, at table, on train
ADULTS KIDS | give | flower to friend, book to friend, letter to teacher, hat to child, flower to teacher | with friend | in garden, at school, on bridge
ADULTS KIDS farmer | give | apple to horse, carrot to goat, carrot to rabbit, water to cow, hay to horse | with hand, from bucket | on farm, in barn, in field
ADULTS KIDS | give | bone to dog, meat to dog, milk to cat, fish to cat, water to dog | in bowl, with hand | in yard, in kitchen, at home
teacher ADULTS | show | picture, book, letter | to student, to child, to family | at school, in library, on phone, at home
ADULTS KIDS | hug | dog, cat, friend, child | with hand | on couch, at school, at train, on street
dog cat | sleep | on couch, on bed, under table, by fire | with toy, with child | in room, in house, in sun
KIDS family | sleep | in tent, in bed, in car, on couch | with toy, with blanket, with dog | in forest, in room, on mountain, by lake
cow sheep horse bear | sleep | on grass, under tree, on hay | - | in barn, in field, in sun, in forest
PEOPLE student | wait | for bus, for train, for friend | with bag, with umbrella, with dog, with book | on street, on bench, in city, in snow
dog cat | wait | for food, for friend, for child | by door, by window, by bowl, with toy | at home, in kitchen, in yard
ADULTS family | pack | bag, box, car | with food, for beach, with book | at home, in room, on bed, on street
worker farmer | load | truck, cart, boat, train | with wood, with hay, with box, with fish | in city, on farm, by lake, on road
ADULTS girl | sew | shirt, coat, hat, blanket | with needle, for friend, for child | at table, at home, by fire
ADULTS KIDS | fold | shirt, blanket, letter, coat | with friend, with hand | on bed, on table, in room
ADULTS KIDS | hang | coat, picture, shirt | with nail, on wall, by door, with rope | in room, at school, in yard
PEOPLE | open | door, window, box, bottle, umbrella | for friend, for cat, with hand, with knife | at home, in room, in kitchen
KIDS sailor man | tie | rope, shoe | to tree, with hand, to boat, for friend | at school, in park, by lake, on bench
KIDS crowd friend | laugh | at monkey, at picture, at dog, at friend | with teacher, with family | on stage, at school, on bus
dog duck bird | shake | water, wing, snow | off face, onto floor | by lake, in yard, in sun, in kitchen
horse PEOPLE | race | along beach, down hill, around field, to tree, to fence | with friend, with dog | in snow, in sun
player team | race | down court, across field, to goal, after ball | with friend | in gym, at school
"""

# agents | first clause | second clause, whose "it" is the object of the first | place
SEQUENCES = """
PEOPLE player | catch ball, pick up ball, pick up frisbee | throw it to dog, throw it to friend, throw it over fence | in park, on beach, in yard
player KIDS | catch ball, bounce ball | kick it to friend, kick it into goal, run with it, throw it into net | on field, in gym, on court
dog | catch fish, pick up bone, chase ball | carry it to man, carry it to child, hide it under bed, hide it in hole | in yard, by river, on beach
chef ADULTS | wash vegetable, pick tomato, wash potato | chop it with knife, cut it on plate, boil it in pot, drop it in soup | in kitchen, at restaurant
chef ADULTS | chop onion, chop carrot, cut meat, catch fish | fry it in pan, cook it over fire, drop it in pot, mix it with rice | in kitchen, by lake
KIDS woman chef | mix milk with egg, open bottle of milk | pour it into bowl, pour it into pan | in kitchen, at home
chef woman girl | bake cake, bake bread, bake pie | cut it with knife, serve it on plate, give it to friend, sell it at market | at home, in kitchen
farmer ADULTS | grow corn, pick apple, pick flower, catch fish | sell it at market, carry it to house, drop it in basket, give it to friend | on farm, by lake
farmer worker | chop wood, pack box, lift box | load it onto truck, carry it to barn, pull it on sled, load it onto cart | on farm, in forest
KIDS painter | draw picture, paint picture, write letter | show it to teacher, give it to friend, hang it on wall, show it to family | at school, at home
ADULTS KIDS | buy book, open letter, pick up book | read it on bench, read it to child, read it on couch, read it in bed | in park, at home
ADULTS KIDS | wash shirt, sew coat, wash blanket | fold it on bed, hang it on rope, hang it by door, wear it to school | at home, in yard
worker man | fix bike, fix car, wash car, paint boat | ride it down street, drive it to city, sell it to friend, show it to friend | in yard, by lake
farmer KIDS | dig hole | plant tree in it, plant flower in it, drop seed into it, pour water into it | in garden, in yard
farmer girl | brush horse, pet horse, wash horse | ride it across field, ride it up hill, walk it to barn | on farm
KIDS ADULTS | open door, open window | watch bird, watch snow, sweep floor, hang picture | at home
PEOPLE | pull on coat, pull on hat, tie shoe | walk dog, run through snow, walk to school, wait for bus, climb hill | in snow
PEOPLE | climb ladder | paint wall, pick apple, fix window, clean window, hang picture | at home, on farm
KIDS sailor | run down hill, run along beach, swim to boat | jump into water, hug friend, climb tree | in sun
"""

# agents | posture | activity at the same time | place
POSTURES = """
ADULTS student KIDS | sit on bench, sit under tree, sit on grass, sit by lake | read book, eat sandwich, listen to music, watch bird, draw picture, write letter | in park, at school
PEOPLE | sit at table, stand in kitchen, sit on chair | eat soup, drink tea, cut bread, write letter, wash potato, laugh at picture | at home, in restaurant
KIDS woman | sit on couch, sit on floor, sit on bed | read book, play with toy, hold cat, fold blanket, listen to song, brush hair | at home, in room
worker painter man | stand on ladder, stand on chair, sit on wall | paint house, fix window, hit nail, clean window, pick apple | in yard, on street
singer band student | stand on stage, sit on stage, stand by piano | sing song, play guitar, play drum, hold flower, laugh with crowd | at school, in restaurant
PEOPLE | stand on street, stand by road, wait for bus, sit on bus | hold umbrella, eat apple, read book, listen to music, hold phone, drink coffee | in city, in snow
sailor man boy | sit in boat, stand on boat, stand in river | catch fish, pull net, hold rope, take picture, sing song | in sun, in snow
farmer woman | stand in field, stand by fence, sit in barn | pet goat, pet cow, pet sheep, brush horse, watch bird, pick corn | on farm
teacher | stand by desk, sit at desk, stand by window | read book, read letter, drink coffee, show picture, listen to student | at school
crowd family | stand by road, sit on hill, sit on grass | watch team, watch band, eat food, sing song, listen to singer | in park
monkey bird | sit in tree, sit on wall, sit on fence | eat banana, watch child, sing song, eat bread, watch dog | in forest, in garden
cat dog | sit by window, sit on lap, stand by door | watch bird, wait for food, watch snow, eat meat, play with toy | at home
KIDS ADULTS | wear helmet | ride bike, ride horse, ride skateboard, climb mountain, skate on ice, play with ball | on street, in park
PEOPLE | wear hat, wear coat | walk dog, ride bike, carry bag, pick flower, sell flower, wait for train, sweep street | on street, in snow, in garden
worker chef | wear glove, wear hat | carry wood, load truck, wash pot, serve soup, dig hole, bake bread | on farm, in kitchen, in city
"""

# agents | verb | second agents, who do one of the actions
COMPANY = """
ADULTS teacher | teach | KIDS student
ADULTS friend | help | KIDS farmer chef worker
KIDS crowd family ADULTS | watch | player dog dancer horse worker KIDS painter monkey bird
"""

# --- Templates --------------------------------------------------------------------------------------------------------

SINGLE = (
    "{subject} {present} {place} {time}",
    "{subject} {present} {place}",
    "{subject} {be} {ing} {place}",
    "{subject} {be} {ing} {place} {time}",
    "{subject} {past} {place} {time}",
    "{subject} {was} {ing} {place}",
    "there {be} {a_subject} {ing} {place}",
    "there {was} {a_subject} {ing} {place}",
    "{front}, {subject} {present}",
    "{front}, {subject} {be} {ing}",
    "{front}, {subject} {past}",
    "{subject} {love} to {base} {place}",
    "{subject} {want} to {base} {place} {time}",
    "{subject} {be} about to {base} {place}",
    "{subject} {be} learning how to {base} {place}",
    "{subject} {have} {participle} {place}",
    "{subject} will {base} {place} {time}",
    "{object} {be_object} {participle_rest} by {subject} {place}",
    "{object} {was_object} {participle_rest} by {subject} {place}",
    "{front}, {object} {be_object} being {participle_rest} by {subject}",
    "look at {subject} {ing} {place}",
    "{ing} {place} is fun for {subject}",
    "{subject} {past} {place}, and everyone was happy",
    "{subject} stopped {ing} {place}",
    "{subject} went to {goal} to {base}",
    "{subject} {go} to {goal} and {present}",
)
THEN = (
    "{subject} {present} and {present2} {place}",
    "{subject} {past} and {past2} {place}",
    "{subject} {past}, then {past2}",
    "{subject} {present} before {ing2} {place}",
    "after {ing}, {subject} {present2} {place}",
    "{front}, {subject} {present} and {present2}",
    "{subject} will {base} and {base2} {place}",
    "{subject} {want} to {base} and {base2}",
)
MEANWHILE = (
    "{subject} {present} and {present2} {place}",
    "{subject} {present} {ing2} {place}",
    "{ing} {place}, {subject} {present2}",
    "{subject} {present2} {place} while {ing}",
    "{subject} {past2} while {ing} {place}",
    "{subject} {be} {ing} and {ing2} {place}",
    "{subject} {ing} {present2} {place}",
    "there {be} {a_subject} {ing} and {ing2}",
    "{front}, {subject} {past} and {past2}",
)
TWO = (
    "{subject} {present} while {subject2} {present2} {place}",
    "{subject} {present} and {subject2} {present2} {place}",
    "{front}, {subject} {present} and {subject2} {present2}",
    "{subject} {past} while {subject2} {was2} {ing2} {place}",
    "as {subject} {present}, {subject2} {present2} {place}",
    "{subject} {past} {place}, but {subject2} {past2}",
)
WITH = (
    "{subject} {present} {subject2} {to} {base2} {place}",
    "{subject} {be} {ing} {subject2} {to} {base2} {place}",
    "{subject} {past} {subject2} {to} {base2} {place} {time}",
    "{front}, {subject} {present} {subject2} {to} {base2}",
    "{subject} {love} to {base} {subject2} {to} {base2}",
)
TEMPLATES = {"single": SINGLE, "then": THEN, "meanwhile": MEANWHILE, "two": TWO, "with": WITH}
GOALS = set(
    words("park beach lake river pool field gym school library market store restaurant garden forest farm kitchen city")
)
TEACHABLE = set(
    words(
        """throw catch kick hit bounce ride drive fly climb swim skate sail cut chop cook fry bake read write draw paint play
        sing dance build fix plant grow dig sew fold tie brush pet"""
    )
)
