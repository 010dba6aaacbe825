"""How free text is read: its typography, and the numbers in it."""

import html
import re
import unicodedata
from fractions import Fraction
from functools import cache

# --- typography -------------------------------------------------------------------------------

_SIGNS = str.maketrans(
    # quotes, primes and accents that stand for an apostrophe; quotes of two strokes, guillemets
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02b9\u02bb\u02bc\u02bd\u02c8`\u00b4\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u2039\u203a\u300c\u300d\u301d", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")  # hyphens, the en dash, the minus
    | dict.fromkeys("\u2014\u2015", " - ")
    | dict.fromkeys("\x0b\x0c\x85\u2028\u2029\r", "\n")
)
_ENTITY = re.compile(r"&(?:#\w{1,6}|[a-z]{2,6});")
_EMPHASIS = re.compile(
    r"""(?<![*_~`])(?: (?<!\w)(?<!\d[ ])[*_~`]++(?=\S)  # opens; 3 *4 is a product
        | (?<=\S)[*_~`]++(?!\w) | (?<=[^\W\d_])\*\*(?=[^\W\d_]) )
    | </?(?:b|i|em|strong|u|mark|code|span|small)\b[^<>]*>""",
    re.VERBOSE | re.IGNORECASE,
)


def plain(text: str) -> str:
    """Free text without its typography, to look for phrases and numbers in.

    Straight quotes, hyphens and single blanks, no accents (composed, decomposed and missing ones
    read alike), no emphasis (Markdown, HTML), no full-width or invisible letters. A line that goes
    on in lower case is none of its own.
    """
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text.replace("\r\n", "\n"))
    text = _EMPHASIS.sub("", text).replace(" \u0301", "'")  # an accent, as NFKC writes it
    text = re.sub("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215e])", " ", text)  # 1½ is not 11/2
    text = re.sub("([\u00b2\u00b3\u00b9\u2070-\u2079]+)", r"^\1", text)  # 10² is not 102
    text = unicodedata.normalize("NFKD", text.translate(_SIGNS)).replace("\u2044", "/")
    text = "".join(sign for sign in text if unicodedata.category(sign) not in ("Mn", "Cf"))
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r"(?<=\w) ?' ?(?=(?:t|m|re|ve|ll|d)\b)", "'", text)  # can ' t
    return re.sub(r"(?<!\n)\n(?=[a-z])", " ", re.sub(r" ?\n ?", "\n", text)).strip()


# --- numbers ----------------------------------------------------------------------------------

DECIMAL_SIGN = {"es": ","}  # a full stop elsewhere
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9}
_SCALES |= {"mil": 3, "millon": 6, "millones": 6, "mil millones": 9}
_MONTHS = (
    "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    "|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?|enero|febrero|marzo|abril|mayo"
    "|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
)
# <d> is the sign before decimals, <g> the one between groups of three digits. A part that is tried
# at every digit takes all the digits there are (++), so that long text takes no quadratic time.
_NUMBER = rf"""
  (?P<other>
      (?:\d{{4}}(?P<x>[-/.])\d\d?(?P=x)\d\d? | \d\d?(?P<y>[-/.])\d\d?(?P=y)\d{{4}}
        | \d\d?/\d\d?/\d\d)(?!\d)  # a date
    | \d\d?:\d\d(?::\d\d)?(?!\d)  # a time
    | (?!\d{{1,3}}(?:\.\d{{3}}(?!\d)){{2}})\d++(?:\.\d++){{2,}}+ )  # a version
| (?P<power> \d++(?:[.,]\d++)?\ ?(?:\^|\*\*|[eE][-+]?(?=\d))[-+]?\d*+ )
| (?P<weak>
      ^\d{{1,3}}[.)]\ (?=\S)  # an item of a list
    | \d++\.?(?:st|nd|rd|th|er|[drtvmn]?[oa])\b  # an ordinal
    | \b(?:{_MONTHS})\.?\ \d\d?(?!\d)(?:,?\ \d{{4}}(?!\d))?
    | \d\d?(?:\ de)?\ (?:{_MONTHS})\b(?:(?:\ del?|,)?\ \d{{4}}(?!\d))?
    | (?<=[^\W\d])-?\d++(?:[.,]\d++)*+ | (?<=\^)-?\d++  # part of a name or a unit: x2, m^2
    | \d++(?=-[^\W\d_]) )  # 3-day
| (?P<sign>
      (?<![\w)\]%°"$€£-])(?<![\d)\]%]\ )-(?:US)?[$€£]?(?=\.?\d)  # 3-5 and 3 -5 have none
    | (?<![\d%)\]][$€£])(?<=[$€£])-(?=\d) | (?<=[=:≈]\ )-\ (?=\d) )?
  (?: (?P<whole>
        [1-9]\d{{0,2}}(?: (?:<g>\d{{3}}(?!\d))++ | (?:\ \d{{3}}(?!\d))++ | (?:'\d{{3}}(?!\d))++
          | (?:_\d{{3}}(?!\d))++ | (?:<d>\d{{3}}(?!\d)){{2,}}+ | <d>\d{{3}}(?=<g>\d) )
      | [1-9]\d?(?:,\d\d){{1,6}},\d{{3}}(?!\d)  # as in India
      | \d++ )(?:[.,](?P<decimals>\d++))?
    | (?<![\w.])\.(?P<only>\d++) )
  (?:\ ?/\ ?(?P<below>\d++))?(?:\ ?(?P<scale>{"|".join(sorted(_SCALES, reverse=True))})\b)?
"""
LONGEST = 1000  # digits of a number that is read


@cache
def _number(decimal: str) -> re.Pattern[str]:
    group = "." if decimal == "," else ","
    pattern = _NUMBER.replace("<d>", re.escape(decimal)).replace("<g>", re.escape(group))
    return re.compile(pattern, re.VERBOSE | re.MULTILINE)


def numbers(text: str, language: str = "en") -> list[re.Match[str]]:
    """The numbers in a text (of `plain`), for `whole`.

    Decimals and groups of three digits are written as the language writes them: 1.234 is whole in
    Spanish alone. Where both signs are there, or one is there twice, the number says itself which
    is which. Groups may also be parted by a blank, an apostrophe or _. A sign that can be neither
    is taken to be before decimals: 2,5. A fraction is one number, a range is two. Dates, times and
    versions are none; ordinals, days of a month, items of a list and digits within a name or a unit
    are given only where there is no other.
    """
    found = _number(DECIMAL_SIGN.get(language, ".")).finditer(text)
    found = [token for token in found if not token["other"]]
    return [token for token in found if not token["weak"]] or found


def whole(token: re.Match[str]) -> int | None:
    """The exact value of one of `numbers`; None if it is not whole, a power or a long one."""
    if token["power"] or len(token[0]) > LONGEST:
        return None
    digits = re.search(r"\d+", token["weak"])[0] if token["weak"] else token["whole"] or "0"
    value = Fraction(re.sub(r"\D", "", digits) + "." + (token["decimals"] or token["only"] or "0"))
    value *= 10 ** _SCALES.get(token["scale"], 0)
    below = int(token["below"] or 1)
    if not below or (value / below).denominator > 1:
        return None
    return int(value / below) * (-1 if token["sign"] else 1)
