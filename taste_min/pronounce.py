"""Pronunciations for words that the aligner's dictionary lacks: numerals, inflections, and plain letter-to-sound rules.

Forced alignment needs *a* pronunciation of every word, not the perfect one: a wrong vowel moves a boundary by a frame
or two, a missing word stops the alignment. So a short table of English spelling rules is enough here. Phones are
ARPAbet without stress, as in the CMU dictionary. Not part of the paper; used for its word times (sections 4.3, 4.4).
"""

import re
from collections.abc import Callable

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"

# spelling:phones (joined by dots); `^` marks the word's beginning, `$` its end. The first rule that matches is applied.
_RULES = """
tion$:SH.AH.N tions$:SH.AH.N.Z sion$:ZH.AH.N cious$:SH.AH.S tious$:SH.AH.S ture$:CH.ER ought:AO.T aught:AO.T eigh:EY
igh:AY tch:CH dge:JH sch:SH que$:K ous$:AH.S ing$:IH.NG ings$:IH.NG.Z ble$:B.AH.L ple$:P.AH.L tle$:T.AH.L dle$:D.AH.L
gle$:G.AH.L cle$:K.AH.L kle$:K.AH.L fle$:F.AH.L ear:IH.R air:EH.R are$:EH.R ore$:AO.R ire$:AY.ER ch:CH sh:SH th:TH
ph:F wh:W gh:G ck:K ng:NG ^kn:N ^wr:R ^ps:S qu:K.W mb$:M ea:IY ee:IY ie$:IY ies$:IY.Z ei:EY ai:EY ay:EY oa:OW oo:UW
ou:AW ow:OW oi:OY oy:OY au:AO aw:AO ew:UW ey$:IY ia:IY.AH io:IY.OW ue$:UW ar:AA.R er:ER ir:ER or:AO.R ur:ER bb:B cc:K
dd:D ff:F gg:G ll:L mm:M nn:N pp:P rr:R ss:S tt:T zz:Z a(?=[b-z]e$):EY e(?=[b-z]e$):IY i(?=[b-z]e$):AY o(?=[b-z]e$):OW
u(?=[b-z]e$):UW e$: es$:Z ed$:D c(?=[eiy]):S g(?=[ei]):JH ^y:Y y$:IY a$:AH o$:OW i$:IY u$:UW ^x:Z a:AE b:B c:K d:D
e:EH f:F g:G h:HH i:IH j:JH k:K l:L m:M n:N o:AA p:P q:K r:R s:S t:T u:AH v:V w:W x:K.S y:IH z:Z
"""
ONES, TENS = _ONES.split(), _TENS.split()
RULES = [
    (re.compile(spelling), phones.split(".") if phones else [])
    for spelling, phones in (rule.split(":") for rule in _RULES.split())
]


def spell_number(number: int) -> str:
    """Words of a whole number below one billion: 1984 -> 'one thousand nine hundred eighty four'."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    for unit, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= unit:
            rest = f" {spell_number(number % unit)}" if number % unit else ""
            return f"{spell_number(number // unit)} {name}{rest}"
    raise AssertionError


def spoken_form(word: str) -> list[str]:
    """Lower-case dictionary words of one written word: 'Well-known,' -> ['well', 'known']; '12' -> ['twelve'].

    Accents are dropped with the other unknown characters; a word without letters or digits gives [].
    """
    word = word.lower().replace("\u2019", "'")
    word = re.sub(r"(?<=\d),(?=\d{3})", "", word)  # 1,500
    word = re.sub(r"\d{1,9}", lambda match: f" {spell_number(int(match.group()))} ", word)
    parts = (part.strip("'") for part in re.findall(r"[a-z']+", word))
    return [part for part in parts if part]


def letters_to_phones(word: str) -> list[str]:
    """ARPAbet phones of a lower-case word by spelling rules, at least one."""
    word = word.replace("'", "")
    phones, at = [], 0
    while at < len(word):
        for rule, sounds in RULES:
            match = rule.match(word, at)
            if match:
                phones += sounds
                at = match.end()
                break
    return phones or ["AH"]


def pronounce(word: str, lookup: Callable[[str], str | None]) -> str:
    """Phones of a word that the dictionary `lookup` lacks: from its stem, from two words it is made of, or by rule."""
    voiced = ("Z", "IH Z")
    for ending, sounds in (("'s", voiced), ("s", voiced), ("es", ("IH Z", "IH Z")), ("ed", ("D", "IH D"))):
        stem = lookup(word.removesuffix(ending)) if word.endswith(ending) else None
        if stem:
            needs_vowel = stem.split()[-1] in ({"T", "D"} if ending == "ed" else {"S", "Z", "SH", "CH", "ZH", "JH"})
            return f"{stem} {sounds[needs_vowel]}"
    for ending, sounds in (("ing", "IH NG"), ("ly", "L IY"), ("er", "ER"), ("ness", "N AH S"), ("less", "L AH S")):
        stem = lookup(word.removesuffix(ending)) if word.endswith(ending) else None
        if stem:
            return f"{stem} {sounds}"
    for cut in range(len(word) - 3, 2, -1):  # compounds: snowglobe = snow + globe
        first, second = lookup(word[:cut]), lookup(word[cut:])
        if first and second:
            return f"{first} {second}"
    return " ".join(letters_to_phones(word))
