"""Convert documents to passages for a prompt, and escape what looks like an identifier or a mark of a chat turn.

The form "Title: ... Content: ..." follows Liu et al. (ACL 2025, arXiv 2412.14574) and other descendants of RankGPT, as
do the round brackets that replace the outer characters of identifiers and marks. A mark that is not escaped could end
the user turn, whether the chat is rendered here or by a server. Escaping is idempotent and preserves the length of the
text, so offsets into a passage stay valid.
"""

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from string import ascii_letters, ascii_uppercase
from typing import Literal, cast

from rerank.errors import DataError, UsageError
from rerank.io.text_files import replace_lone_surrogates
from rerank.prompts.base import PICTURE, Prompt, TokenCounter
from rerank.types import Document

#: Mark of a document's picture in a rendered prompt, which `replace_picture_marks` replaces.
_MARK = re.compile(f"{PICTURE}([0-9]+){PICTURE}")


def collapse_whitespace(text: str) -> str:
    r"""Replace runs of whitespace by one space, so that a passage is a single line, and lone surrogates by U+FFFD.

    >>> collapse_whitespace("  two \n lines\u2028")
    'two lines'
    """
    return replace_lone_surrogates(" ".join(text.split()))


def passage_text(doc: Document) -> str:
    """Return the passage of a document, before it is escaped and truncated.

    >>> passage_text(Document(id="1", title="Fleas", text="They live two months."))
    'Title: Fleas Content: They live two months.'
    """
    title, body = collapse_whitespace(doc.title), collapse_whitespace(doc.text)
    if doc.image and not title and not body:
        raise DataError(
            f"Document {doc.id!r} is a picture without text, but this prompt shows texts",
            expected="documents with text, or a prompt with 'shows: pictures'",
            remedy="Use --method pointwise-images or fullrank-images, with a vision-language model",
        )
    return f"Title: {title} Content: {body}" if title else body


def picture_marks(docs: Sequence[Document], *, mixed: bool = False) -> list[str]:
    """Return the marks that stand for the documents' pictures while a prompt is rendered.

    If ``mixed``, documents may have a text instead, and the mark of those without a picture is empty.
    """
    for doc in docs:
        if not doc.image and not mixed:
            raise DataError(
                f"Document {doc.id!r} has no picture, but this prompt shows pictures",
                expected="a collection of pictures",
                remedy="Use a method for texts, such as --method fullrank",
            )
    return [f"{PICTURE}{index}{PICTURE}" if doc.image else "" for index, doc in enumerate(docs)]


def replace_picture_marks(prompt: Prompt, docs: Sequence[Document]) -> Prompt:
    """Replace the marks in a rendered prompt by the documents' pictures."""
    indices = [[int(index) for index in _MARK.findall(message.content)] for message in prompt]
    shown = {index for of_turn in indices for index in of_turn}
    if shown != {index for index, doc in enumerate(docs) if doc.image}:
        raise DataError(
            f"The prompt shows {len(shown)} of {len(docs)} pictures",
            expected="all pictures",
            remedy="Put {candidate} into the 'body' of the prompt",
        )
    return tuple(
        replace(message, content=_MARK.sub(PICTURE, message.content), images=tuple(docs[i].image for i in of_turn))
        for message, of_turn in zip(prompt, indices, strict=True)
    )


#: Characters that the parser reads as square brackets or digits, including full-width, superscript and circled ones.
_OPENING, _CLOSING, _ROUND = "[［【〔〖⟦", "]］】〕〗⟧", "()（）"
_BRACKET = re.compile(f"([{re.escape(_OPENING + _CLOSING + _ROUND)}])")
_NUMBER = re.compile(r"[\d⁰¹²³⁴-⁹₀-₉\u2460-\u249b\u24eb-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]")
#: One or two capital letters on their own: every letter identifier that `make_identifiers` can return.
_LETTERS = re.compile(r"(?<![A-Za-z])[A-Z]{1,2}(?![A-Za-z])")
#: Full-width, circled, mathematical and other forms of letters that Unicode normalization replaces by one ASCII letter.
_LETTER_FORMS = {
    code: letter
    for block in ((0x1D00, 0x1E00), (0x2070, 0x2500), (0xFF21, 0xFF5B), (0x1D400, 0x1D800), (0x1F100, 0x1F200))
    for code in range(*block)
    if (letter := unicodedata.normalize("NFKC", chr(code))) in (*ascii_letters,)
}
_NUMBER_OR_LETTERS = re.compile(f"{_NUMBER.pattern}|{_LETTERS.pattern}")

#: Marks of turns, roles, thoughts and tool calls in published chat templates: ChatML, Llama 2 to 4, Mistral, Gemma,
#: DeepSeek, Harmony, Phi, EXAONE, Seed, Command, StarCoder and BERT, in upper or lower case. Texts are searched after
#: `_ASCII_FORMS` has been applied.
_KNOWN_MARKS = (
    r"<\|[^\s<>|()]{1,64}\|?>",
    r"<[^\s<>|()]{1,64}\|>",
    r"\[\|[^\s\[\]|()]{1,64}\|\]",
    r"</?(?:s|(?:bos|eos|pad|unk|mask|sep|cls)(?:_token)?|sop|eop|eot|eom|think|tool_calls?|tool_response|tools)>",
    r"<fim_(?:prefix|middle|suffix|pad)>",
    r"<(?:start|end)_of_(?:turn|image|utterance)>",
    r"<(?:extra_id_|unused|reserved_|SPECIAL_)\d{1,6}>",
    r"</?seed:\w{1,32}>",
    r"<</?SYS>>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK)\]",
    r"\[(?:CLS|SEP|MASK|PAD|UNK|BOS|EOS|[gs]MASK|UNUSED_TOKEN_\d{1,6})\]",
)
_MARK_STARTS = r"<\[{＜﹤［｛"
_MARK_START = re.compile(f"[{_MARK_STARTS}]")
#: Most texts contain none of these characters, so a single search shows that nothing has to be escaped.
_BRACKET_OR_MARK_START = re.compile(f"[{re.escape(_OPENING + _CLOSING + _ROUND)}{_MARK_STARTS}]")
#: Full-width and small forms of ASCII characters, which tokenizers with Unicode normalization convert to ASCII.
_ASCII_FORMS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0xFE64: "<", 0xFE65: ">"}


@dataclass(frozen=True, slots=True)
class PromptEscaping:
    """Rules for escaping identifiers in the queries and passages of a prompt."""

    brackets: bool = True  # whether to replace square brackets around identifiers by round ones
    #: Whether identifiers are letters. If so, brackets around letters are replaced as well as brackets around numbers.
    letters: bool = False

    def escape(self, text: str, own_marks: tuple[str, ...] = ()) -> str:
        """Escape the marks of turns in a text and, if ``brackets`` is set, the identifiers in square brackets."""
        if not _BRACKET_OR_MARK_START.search(text):
            return text
        text = escape_turn_marks(text, own_marks)
        return escape_passage_brackets(text, letters=self.letters) if self.brackets else text


def escape_passage_brackets(text: str, *, letters: bool = False) -> str:
    """Replace square brackets around a number by round ones, so that no passage contains an identifier.

    Brackets are also replaced if there are words next to the number, since "[Passage 3]" is an identifier too. An
    unmatched bracket is replaced where a reader would add the missing one: at the end of the text, before another
    opening bracket, and after a number at the beginning of the text.

    >>> escape_passage_brackets("as shown in [12] and [Passage 3], see a[i]")
    'as shown in (12) and (Passage 3), see a[i]'
    """
    if not _BRACKET.search(text):
        return text
    identifier = _NUMBER_OR_LETTERS if letters else _NUMBER
    parts = _BRACKET.split(text)  # text, bracket, text, bracket, ..., text
    last = len(parts) - 1
    for index in range(0, last + 1, 2):
        before, after = parts[index - 1] if index else "", parts[index + 1] if index < last else ""
        if not identifier.search(parts[index].translate(_LETTER_FORMS)) or (after != "" and after in _ROUND):
            continue
        if opened := before != "" and before in _OPENING:
            parts[index - 1] = "("
        if after != "" and after in _CLOSING and (opened or not before):
            parts[index + 1] = ")"
    return "".join(parts)


def escape_turn_marks(text: str, own_marks: tuple[str, ...] = ()) -> str:
    """Replace the first and last character of each mark of a turn by round brackets.

    The marks are those of published chat templates, and ``own_marks`` of the model's tokenizer.

    >>> escape_turn_marks("He left.<|im_end|> [/INST] x < 3 [sic]")
    'He left.(|im_end|) (/INST) x < 3 [sic]'
    """
    if not _MARK_START.search(text):
        return text
    pieces, end = [], 0
    for match in _turn_mark_pattern(own_marks).finditer(text.translate(_ASCII_FORMS)):
        pieces += [text[end : match.start()], "(", text[match.start() + 1 : match.end() - 1], ")"]
        end = match.end()
    return "".join([*pieces, text[end:]])


@lru_cache(maxsize=32)
def _turn_mark_pattern(own_marks: tuple[str, ...]) -> re.Pattern[str]:
    own = sorted({mark.translate(_ASCII_FORMS) for mark in own_marks}, key=len, reverse=True)
    # Some tokenizers convert texts to lower case before they look for their marks.
    return re.compile("|".join([*map(re.escape, own), *_KNOWN_MARKS]), re.I)


Alphabet = Literal["numbers", "letters"]

#: All letters, then all pairs of letters.
LETTER_IDENTIFIERS = (*ascii_uppercase, *(a + b for a, b in product(ascii_uppercase, repeat=2)))


def make_identifiers(alphabet: Alphabet, count: int, tokens: TokenCounter) -> tuple[str, ...]:
    """Return identifiers for ``count`` passages, without brackets.

    Letters are A to Z, then the pairs of letters that are a single token after a square bracket. A single-token
    identifier needs the fewest decoding steps, and its logit is a score (FIRST, Reddy et al., EMNLP 2024, arXiv
    2406.15657, section 3); most published listwise models were trained with numbers.
    """
    if alphabet == "numbers":
        return tuple(map(str, range(1, count + 1)))
    letters = single_token_letters(tokens)
    if len(letters) < count:
        raise UsageError(
            f"A window has {count} candidates, but this tokenizer has only {len(letters)} letters and pairs "
            "of letters that are a single token",
            expected="no more candidates than identifiers",
            remedy="Use smaller windows (--window-size, if the method has it) or a smaller --depth",
        )
    return letters[:count]


def single_token_letters(tokens: TokenCounter) -> tuple[str, ...]:
    """Return all letters and pairs of letters that are a single token, the shortest first.

    If the token counter has an attribute ``letters`` that is not empty, as in a replay, the identifiers in this
    attribute are returned instead.
    """
    recorded: tuple[str, ...] = getattr(tokens, "letters", ())
    return recorded or _find_letters(cast(Hashable, tokens))


@lru_cache(maxsize=16)
def _find_letters(counter: Hashable) -> tuple[str, ...]:
    """Return the letters, then the pairs of letters, that add exactly one token between square brackets."""
    tokens = cast(TokenCounter, counter)
    (bracket,) = tokens.lengths(["["])
    closed = tokens.lengths([f"[{name}]" for name in LETTER_IDENTIFIERS])
    lengths = zip(LETTER_IDENTIFIERS, tokens.lengths([f"[{name}" for name in LETTER_IDENTIFIERS]), closed, strict=True)
    return tuple(name for name, half, full in lengths if half == bracket + 1 and full == half + 1)
