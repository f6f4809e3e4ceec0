"""Normalization of language codes: ``en-GB``, ``eng`` and ``EN`` become ``en``."""

from __future__ import annotations

import re

from rerank.errors import UsageError

#: Languages for which some first stage has special rules: a stemmer, stop words, a segmenter or character pairs.
TREATED = tuple(
    "ar ca cs da de el en eo es et eu fa fi fr ga hi hu hy id it ja km ko lo lt my ne nl no pl pt ro ru sr st sv ta th "  # noqa: SIM905
    "tr yi yue zh".split()
)
#: Codes for a language without a code of its own, and for several languages; their texts are only split into words.
_ANY = ("und", "mul")
#: The ISO 639-1 codes, and the code of Cantonese (``yue``), which is not among them.
_CODES = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "  # noqa: SIM905
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu yue".split()
)
#: ISO 639-2 and 639-3 codes of the languages in `TREATED` and a few more, and the written forms of Norwegian.
_SAME = {
    **{"nb": "no", "nn": "no", "nob": "no", "nno": "no", "nor": "no", "cmn": "zh", "zho": "zh", "chi": "zh"},
    **{"jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bur": "my", "ara": "ar"},
    **{"arb": "ar", "cat": "ca", "ces": "cs", "cze": "cs", "dan": "da", "deu": "de", "ger": "de", "ell": "el"},
    **{"gre": "el", "eng": "en", "epo": "eo", "spa": "es", "est": "et", "ekk": "et", "eus": "eu", "baq": "eu"},
    **{"fas": "fa", "per": "fa", "pes": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "gle": "ga", "hin": "hi"},
    **{"hun": "hu", "hye": "hy", "arm": "hy", "ind": "id", "ita": "it", "lit": "lt", "nep": "ne", "npi": "ne"},
    **{"nld": "nl", "dut": "nl", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "srp": "sr"},
    **{"sot": "st", "swe": "sv", "tam": "ta", "tur": "tr", "yid": "yi", "ydd": "yi", "ben": "bn", "swa": "sw"},
    **{"swh": "sw", "tel": "te", "ukr": "uk", "urd": "ur", "vie": "vi", "yor": "yo", "heb": "he", "bul": "bg"},
}
#: Country codes that are often confused with the codes of their languages.
_COUNTRIES = {"cn": "zh", "jp": "ja", "cz": "cs", "dk": "da", "gr": "el", "ua": "uk"}


def normalize_text_language(language: str) -> str:
    """Return the code that first stages use for a language.

    Args:
        language: ISO 639-1 code or, for common languages, ISO 639-2 or 639-3 code. A region or script after the code
            (``zh-TW``, ``cmn-Hans``) is dropped. ``und`` stands for a language without a code, ``mul`` for several
            languages.

    >>> [normalize_text_language(code) for code in ("EN-us", "nb", "zh_TW", "jpn", "yue", "und")]
    ['en', 'no', 'zh', 'ja', 'yue', 'und']
    """
    prefix = re.split(r"[-_]", language.strip().lower())[0]
    code = _SAME.get(prefix, prefix)
    if code in _CODES or code in _ANY:
        return code
    hint = f"{prefix} is a country code; the language is {_COUNTRIES[prefix]}. " if prefix in _COUNTRIES else ""
    raise UsageError(
        f"Unknown language {language!r}",
        expected=f"an ISO 639-1 code. Languages with special rules: {', '.join(TREATED)}",
        remedy=f"{hint}Set the collection's option language, or use und, which only splits words",
    )
