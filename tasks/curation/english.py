"""Words of English that are split, or are not, otherwise than the general rules would have it.

Contractions are two words or three ("do" + "n't"), with or without their apostrophe; abbreviations
and emoticons keep their punctuation. What is listed is what spaCy's English tokenizer (3.8) treats
so, because the published thresholds are used with the words that it finds.
"""

from collections.abc import Iterable, Iterator
from itertools import product

_SUBJECTS = ("i", "you", "he", "she", "it", "we", "they")
_ASKING = ("who", "what", "when", "where", "why", "how", "there")
_NEGATED_HAVE = "ca could do does did had may might must need ought sha should wo would"
_NEGATED = _NEGATED_HAVE + " ai are is was were have has dare"
_MODAL = ("could", "might", "must", "should", "would")
_TWO = (
    "y'|all y|all not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta Got|ta "
    "let|'s Let|'s c'm|on C'm|on how|'d|'y How|'d|'y"
)
_WHOLE = (
    "' '' 's 'S 'd 're 'em em 'll ll 'nuff nuff 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout "
    "and/or w/o ma'am Ma'am o'clock O'clock C++ <space> \\\") "
    "doin doin' Doin Doin' goin goin' Goin Goin' nothin nothin' Nothin Nothin' nuthin nuthin' "
    "Nuthin Nuthin' ol ol' Ol Ol' somethin somethin' Somethin Somethin' lovin lovin' Lovin Lovin' "
    "havin havin' Havin Havin' "
    "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. "
    "Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. "
    "N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. "
    "a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. "
    "Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. "
)
_EMOTICONS = (
    ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) "
    "(; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ "
    ":1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D "
    ";D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V "
    "o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) "
    "(._.) (>_<) (*_*)"
)
_ALSO_WORDS = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
"""What would be a contraction without its apostrophe, but is a word."""


def special_words() -> dict[str, tuple[str, ...]]:
    """The words and the parts that each is split into, with both kinds of apostrophe."""
    words: dict[str, tuple[str, ...]] = {}
    for parts in _all():
        words["".join(parts)] = parts
    for word in words.keys() & set(_ALSO_WORDS.split()):
        del words[word]
    curly = {
        word.replace("'", "\u2019"): tuple(part.replace("'", "\u2019") for part in parts)
        for word, parts in words.items()
    }
    return words | curly


def _all() -> Iterator[tuple[str, ...]]:
    yield from _contractions()
    for form in ("n't", "nt"):
        yield from _cased(_NEGATED.split(), form)
        yield from _cased(_NEGATED_HAVE.split(), form, "'ve" if form == "n't" else "ve")
    for word in _TWO.split():
        yield tuple(word.split("|"))
    for hour, half in product(range(1, 13), ("a.m.", "am", "p.m.", "pm")):
        yield str(hour), half
    for word in (*_WHOLE.split(), *_EMOTICONS.split()):
        yield (word,)
    for letter in "abcdefghijklmnopqrstuvwxyz\u00e4\u00f6\u00fc":
        yield (f"{letter}.",)


def _contractions() -> Iterator[tuple[str, ...]]:
    pointing, plural = ("that", "this"), ("these", "those")
    for quote in ("'", ""):
        for subject in ("i", "I"):
            yield subject, f"{quote}m"
            yield subject, f"{quote}m", "a"
        every = (*_SUBJECTS, *_ASKING, *pointing, *plural)
        for ending in ("ll", "d"):
            yield from _cased(every, f"{quote}{ending}")
            yield from _cased(every, f"{quote}{ending}", f"{quote}ve")
        yield from _cased(("he", "she", "it", *_ASKING, *pointing), f"{quote}s")
        yield from _cased(("you", "we", "they", *_ASKING, *plural), f"{quote}re")
        yield from _cased(("i", "you", "we", "they", *_ASKING, *plural, *_MODAL), f"{quote}ve")


def _cased(words: Iterable[str], *endings: str) -> Iterator[tuple[str, ...]]:
    for word in words:
        yield word, *endings
        yield word.title(), *endings
