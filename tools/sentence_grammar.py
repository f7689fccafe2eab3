"""A small hand-written grammar of everyday English for tools/make_sentences.py.

`sentence(rng)` returns a full sentence. One part of the corpus is made of such sentences, the other of their first
words with an ending written by a language model. Verbs come with the kinds of thing that they go with, so that
sentences stay plausible: people repair radios and peel carrots.
"""

import random
import re

PEOPLE = """the baker|the young engineer|my uncle|our neighbour|Emma|the tired driver|a tall sailor|the new teacher
Tom|Lucy|the captain|my grandmother|an old gardener|the librarian|her brother|the plumber|two students|the nurse
Oliver|the tailor|a friendly farmer|the manager|his daughter|our cousin|the violin player|Nina|the mechanic
three tourists|the photographer|the cook|a clever pupil|the postman|my sister|the night guard|Peter|the carpenter
a shy boy|the dentist|the mayor|Anna|the shopkeeper|their landlord|the goalkeeper|a curious girl|the pilot|Maria
the waiter|my roommate|the actress|Ben|the electrician|some volunteers|the architect|David|the hairdresser
a retired judge|the fisherman|Grace|the scientist|Sam|the youngest child|our guide|the potter|Sarah|the old shepherd
a busy clerk|the swimmer|Jack|the cleaner|Alice|the drummer|the accountant|my aunt|the zookeeper|Paul|the astronomer
a patient tutor|the twins|Helen|the sculptor|the ferryman|Leo""".replace("\n", "|").split("|")

KINDS = {
    "machine": "radio|bicycle|kettle|heater|printer|lawn mower|washing machine|telescope|engine|toaster|camera"
    "|clock|pump|lift"
    "|vacuum cleaner|sewing machine|dishwasher|projector|microphone|generator|thermostat|headlight|alarm|lamp",
    "food": "bread|cheese|lentil soup|rice|mushrooms|apple pie|honey|porridge|pancakes|roasted nuts|noodles"
    "|potato salad|yogurt"
    "|dumplings|garlic butter|plum jam|grilled fish|chocolate|pumpkin stew|olives|vegetable curry|toast|tomato sauce",
    "produce": "carrots|onions|potatoes|cherries|peaches|lemons|cabbages|pears|cucumbers|strawberries|beans"
    "|turnips|grapes"
    "|walnuts|oranges|spinach|peppers|plums|radishes|melons",
    "furniture": "table|wooden chest|bookshelf|armchair|wardrobe|kitchen cupboard|mattress|mirror|piano|bench"
    "|desk|sofa|carpet"
    "|rocking chair|cradle|curtain|drawer|stool|cabinet|picture frame",
    "document": "letter|contract|map|recipe|postcard|newspaper|diary|timetable|invoice|invitation|school report"
    "|receipt|poster"
    "|catalogue|travel guide|notebook|blueprint|passport|brochure|calendar|manual|magazine",
    "clothing": "raincoat|leather boots|woollen scarf|cotton shirt|gloves|striped jumper|apron|winter hat"
    "|silk dress|sandals"
    "|uniform|velvet jacket|socks|belt|linen trousers|straw hat|cardigan|slippers|helmet|blanket",
    "animal": "puppy|black cat|goat|donkey|parrot|tortoise|lamb|rabbit|hedgehog|swan|pony|squirrel|goose|calf"
    "|owl|hamster"
    "|fox|heron|beaver|camel|dolphin|penguin|otter|robin|peacock|butterfly|frog|hen",
    "plant": "rose bush|oak tree|lavender|cactus|ivy|pine tree|sunflower|hedge|orchid|fern|willow|tulip"
    "|maple tree|moss|vine",
    "vehicle": "bus|ferry|night train|tractor|delivery van|tram|taxi|fishing boat|ambulance|truck|minibus"
    "|cable car|airplane"
    "|canoe|barge|motorbike|steam engine|helicopter|sailing boat|caravan",
    "building": "lighthouse|bakery|theatre|barn|town hall|museum|greenhouse|factory|windmill|cottage|hotel"
    "|castle|warehouse"
    "|observatory|hospital|bridge|garage|chapel|railway station|school|tower|stable|cinema|workshop",
    "instrument": "violin|trumpet|guitar|flute|cello|drum|accordion|harp|clarinet|banjo|saxophone|organ",
    "container": "bucket|suitcase|glass jar|basket|cardboard box|teapot|wallet|backpack|barrel|envelope|bottle"
    "|tin|vase|crate"
    "|toolbox|purse|mailbox|lunch box|copper pot",
    "tool": "hammer|ladder|rope|screwdriver|shovel|torch|paint brush|saw|wrench|broom|compass|needle|scissors"
    "|ruler|umbrella|axe",
    "landscape": "valley|river|harbour|forest|desert|hillside|lake|coast|meadow|canyon|island|glacier|swamp"
    "|village|city"
    "|mountain pass|orchard|vineyard|waterfall|plain|cliff|marsh",
    "weather": "storm|fog|cloud|shower|frost|rainbow|breeze|thunder|hail|snowfall|mist|drizzle|sunrise"
    "|heat wave|draught",
    "material": "copper|bamboo|wool|marble|rubber|velvet|clay|glass|oak|plastic|silver|paper|bronze|leather"
    "|concrete|straw",
    "subject": "geometry|history|chemistry|music|geography|biology|poetry|astronomy|algebra|pottery|economics"
    "|French|physics"
    "|carpentry|philosophy|Italian|gymnastics|drawing|cooking|navigation",
    "size": "tiny|huge|narrow|heavy|broken|rusty|shiny|wooden|square|round|dusty|empty|crooked|expensive|cheap"
    "|ancient|modern"
    "|faded|fragile|useless|borrowed|painted|enormous|ordinary|curious|damp|hollow|smooth|yellow|purple|grey"
    "|green|orange",
    "manner": "carefully|quietly|slowly|in a hurry|without help|with great patience|in silence|by hand|twice"
    "|badly|proudly"
    "|with a smile|at once|gently|with both hands|by mistake|in the dark|politely|eagerly|with some difficulty|calmly",
    "number": "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty"
    "|ninety|a hundred",
    "feeling": "happy|nervous|proud|sleepy|curious|worried|hungry|jealous|cheerful|lonely|grateful|confused|bored|calm"
    "|surprised|thirsty|disappointed|excited|angry|relieved|hopeful|embarrassed|puzzled",
    "hour": "six|seven|half past eight|nine|a quarter to ten|noon|three|four|half past five|midnight",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "month": "January|February|March|April|June|July|August|September|October|November|December",
}
KINDS = {kind: words.split("|") for kind, words in KINDS.items()}
PLURAL = {"food", "produce"}  # already plural or uncountable
PAIRS = {"boots", "gloves", "sandals", "socks", "trousers", "slippers", "scissors"}

# base past third-person -ing : kinds of object
VERBS = """repair repaired repairs repairing:machine vehicle furniture instrument
clean cleaned cleans cleaning:machine furniture clothing building
sell sold sells selling:vehicle instrument furniture clothing
buy bought buys buying:food produce clothing machine instrument
carry carried carries carrying:container tool furniture instrument|peel peeled peels peeling:produce
plant planted plants planting:plant|paint painted paints painting:building furniture vehicle
borrow borrowed borrows borrowing:tool machine instrument document|read read reads reading:document
fold folded folds folding:document clothing|feed fed feeds feeding:animal|chase chased chases chasing:animal
draw drew draws drawing:animal building plant
photograph photographed photographs photographing:animal building landscape
visit visited visits visiting:building landscape|leave left leaves leaving:building landscape
lift lifted lifts lifting:container furniture|study studied studies studying:subject document
teach taught teaches teaching:subject|wash washed washes washing:clothing vehicle produce
cook cooked cooks cooking:food|taste tasted tastes tasting:food|share shared shares sharing:food tool
open opened opens opening:container document|lose lost loses losing:tool document clothing container
find found finds finding:tool document container animal|hide hid hides hiding:container document
describe described describes describing:landscape animal building|cross crossed crosses crossing:landscape
follow followed follows following:animal vehicle|measure measured measures measuring:furniture building
polish polished polishes polishing:furniture instrument vehicle|pack packed packs packing:clothing container
drop dropped drops dropping:container tool|tune tuned tunes tuning:instrument
practise practised practises practising:instrument subject|water watered waters watering:plant
order ordered orders ordering:food machine furniture|wear wore wears wearing:clothing
sign signed signs signing:document|return returned returns returning:tool document clothing
choose chose chooses choosing:clothing document instrument|hear heard hears hearing:animal vehicle instrument
watch watched watches watching:animal vehicle weather|push pushed pushes pushing:vehicle furniture
design designed designs designing:building machine clothing|sketch sketched sketches sketching:landscape building
hang hung hangs hanging:clothing|knit knitted knits knitting:clothing|rent rented rents renting:vehicle building
stop stopped stops stopping:vehicle machine|copy copied copies copying:document
wrap wrapped wraps wrapping:container food|slice sliced slices slicing:produce|bake baked bakes baking:food
inspect inspected inspects inspecting:machine building vehicle|notice noticed notices noticing:weather animal
weigh weighed weighs weighing:produce container|rescue rescued rescues rescuing:animal
guard guarded guards guarding:building animal|explore explored explores exploring:landscape building"""
VERBS = [
    (entry.split(":")[0].split(), entry.split(":")[1].split()) for entry in VERBS.replace("\n", "|").split("|") if entry
]

PLACES = """at the station|behind the barn|near the fountain|in the cellar|on the balcony|under the bridge
beside the canal|in the waiting room|on the top floor|by the open window|at the corner shop|outside the theatre
in the attic|on the beach|along the railway line|in the school yard|at the edge of the forest|on the kitchen table
inside the tent|across the street|in the middle of the square|at the bus stop|near the airport|on the upper deck
between two warehouses|in the laboratory|next to the post office|at the foot of the hill|in front of the bank
on a small island|in the garage|at the vegetable market|around the corner|below the waterfall|on the platform
in the shade of a tree|at the back of the hall|in a narrow alley|above the bakery|on the north side of town
in the reading room|at the campsite|near the old mill|in the village square"""
TIMES = """on #day# morning|after lunch|before sunrise|last #month#|in the afternoon|at midnight|every #day#
during the storm|a week ago|late in the evening|before the meeting|after a long walk|in early spring
during the holidays|at half past seven|just before dinner|in the first week of #month#|on a cold #day#|as usual
for the second time|at the end of #month#|since last winter|at dawn|during the school break|one evening in #month#
for almost an hour|the day before yesterday|between lessons|after the concert|in the rainy season|on the way home
shortly after nine|all summer|on the last day of #month#"""
CAUSES = """the #vehicle# was late|the #container# was too heavy|the #machine# had stopped working
the #building# was closed|the #landscape# was hidden by fog|nobody had brought the #tool#|the #animal# had escaped
somebody had eaten the #food#|the #weather# surprised everyone|the #clothing# did not fit|the #document# was missing
the #size# #furniture# blocked the door|someone had moved the #container#|the #plant# needed more light
the price of #produce# had doubled|the #vehicle# broke down|the lesson about #subject# was cancelled
the #instrument# was out of tune|the #building# had no heating|it was #person#'s birthday|the #tool# was too short
the road to the #landscape# was blocked|the neighbours complained about the #instrument#
the #animal# looked #feeling#|the #material# was still wet|the bill for the #machine# was wrong
everyone felt #feeling#"""
IFS = """the #vehicle# is late|the #container# is too heavy|the #machine# stops working
the #building# is closed on #day#|nobody brings the #tool#|the #animal# escapes again|the #document# is missing
the #furniture# does not fit|it snows in #month#|the #plant# needs more light|the #vehicle# breaks down
the #instrument# is out of tune|the #tool# is too short|the road to the #landscape# is blocked
the #animal# is still #feeling#|the #material# is still wet|everyone feels #feeling#"""
SPLIT = re.compile(r"[|\n]")
PLACES, TIMES, CAUSES, IFS = (SPLIT.split(block) for block in (PLACES, TIMES, CAUSES, IFS))

# #kind# a bare noun, #the:kind# with a determiner, #past#/#third#/#base#/#ing# a verb phrase with its object
FRAMES = """#person# #past# #place# #time#|#time#, #person# #past# #place#|#person# #past# because #cause#
because #cause#, #person# #past#|when #person# arrived, #person# was #ing# #place#|did #person# #base# #time#?
why did #person# #base# #place#?|could you #base# before #day#?|please #base# and put the #container# #place#
do not #base# unless #person# asked you to|we bought #food#, #produce# and #food# #place#
the #size# #furniture# #place# is made of #material# and #material#|#number# people wanted to #base# #time#
is the #size# #container# yours?|a #size# #animal# was sleeping #place# while #person# #past#
the #weather# over the #landscape# lasted for #number# hours|#person# would rather #base# than #base#
if #if#, #person# will have to #base#|although #cause#, #person# #past# #manner#
#person# said that #person# #third# #time#|nobody knows why #person# never #third# #manner#
where did #person# find such a #size# #container#?
the #vehicle# to the #landscape# leaves at #hour#, so #person# should hurry
#person# #past# #manner# and felt #feeling# #time#|#person# was too #feeling# to #base#
how many #produce# did #person# put in the #container#?|there was a #size# #document# inside the #container#
#person# and #person# #past# together #place#|after #ing#, #person# rested #place#
instead of #ing#, #person# #past# #time#|the #building# near the #landscape# was built #number# years ago
from the #building# you can see the #landscape# and the #size# #building#
#person# has a lesson in #subject# #time#, but the #document# is lost|have you ever tried #ing# #place#?
who left the #size# #tool# #place#?|remember to #base# #manner#, or #person# will be #feeling#
the sound of the #instrument# woke the #animal# #place#
#person# forgot the #tool#, the #container# and the #clothing# #place#
a #size# #vehicle# stopped #place#, and #person# looked #feeling#
would you like some #food# or a bowl of #produce# #time#?|the #plant# #place# grows faster than the #plant# #place#
the #animal# and a young #animal# shared a #size# corner #place#|every #day# #person# #third# before breakfast
should we #base# or wait for #person#?|#person# learned #subject# from #person# #time#
it took #number# minutes to #base# #place#|the #size# #instrument# belongs to #person#
not even #person# could #base# #place#|what will happen if #if#?|#person# hopes to #base# next #month#
let us #base# before #day# comes|the more #person# practised #subject#, the more #feeling# everyone became
the smell of #food# drifted through the #building# #time#|#person# wore a #size# #clothing# to the #building# #time#
when will #person# #base# again?|are the #produce# #place# still fresh?|#person# spent #number# days #ing# #place#
#manner#, #person# #past#|keep the #tool# #place#, and never #base# alone"""
FRAMES = SPLIT.split(FRAMES)
THIRD_PLURAL = re.compile(r"^(two|three|some|the twins)\b")


def _thing(kind: str, rng: random.Random) -> str:
    noun = rng.choice(KINDS[kind])
    if kind == "subject":
        return noun
    if kind in PLURAL:
        return rng.choice(["some ", "the ", "fresh ", "a bowl of "]) + noun
    pair = noun.split()[-1] in PAIRS
    adjective = f"{rng.choice(KINDS['size'])} " if rng.random() < 0.3 else ""
    return (
        rng.choice(["the ", "the ", "his " if rng.random() < 0.5 else "her ", "the " if pair else "a "])
        + adjective
        + noun
    )


def _fill(slot: str, rng: random.Random) -> str:
    if slot in ("base", "past", "third", "ing"):
        forms, kinds = rng.choice(VERBS)
        return f"{forms[('base', 'past', 'third', 'ing').index(slot)]} {_thing(rng.choice(kinds), rng)}"
    if slot == "person":
        return rng.choice(PEOPLE)
    options = {"place": PLACES, "time": TIMES, "cause": CAUSES, "if": IFS}.get(slot) or KINDS[slot]
    return rng.choice(options)


def sentence(rng: random.Random) -> str:
    """One grammatical sentence of the grammar, with capital and full stop or question mark."""
    text = rng.choice(FRAMES)
    while "#" in text:
        before, slot, after = text.split("#", 2)
        filled = _fill(slot, rng)
        if (
            slot == "person"
            and THIRD_PLURAL.match(filled)
            and re.match(r" (#third|was |has |hopes |never #third|asked)|'s", after)
        ):
            continue  # these people are plural
        text = before + filled + after
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    text = re.sub(r"\ba (\w+ )?(?=(\w+ )?(boots|gloves|sandals|socks|trousers|slippers|scissors)\b)", r"\1", text)
    text = text[0].upper() + text[1:]
    return text if text.endswith("?") else text + "."
