"""The grammar of permutations such as ``[3] > [1] > [2]``, which allows each identifier only once.

The grammar is a prefix tree (trie) of token ids with one leaf per identifier. If only one token is allowed, it is
known without a forward pass, so a decoder can skip such forced tokens. This module works on token ids only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rerank.errors import UsageError
from rerank.lm.joined_tokens import TokenIds
from rerank.lm.tokenizers import tokenize_text_after


class _Node:
    """A node of the prefix tree of the tokens of all identifiers."""

    __slots__ = ("children", "items")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.items: set[int] = set()


class PermutationGrammar:
    """The grammar of one reply, a permutation of identifiers.

    ``first`` are the token ids of each identifier at the beginning, and ``later`` those of the separator and the
    identifier.
    """

    def __init__(self, first: Sequence[TokenIds], later: Sequence[TokenIds], count: int) -> None:
        self.count = count
        self.size = len(first)
        #: Maximum number of tokens of a reply.
        self.max_tokens = count * max(map(len, [*first, *later]))
        self.first, self.later = _build_tree(first), _build_tree(later)

    def start(self) -> GrammarState:
        return GrammarState(self)


class GrammarState:
    """The state of a partly generated permutation."""

    __slots__ = ("_node", "_unused", "grammar", "order")

    def __init__(self, grammar: PermutationGrammar) -> None:
        self.grammar = grammar
        self._node = grammar.first
        self._unused = set(range(grammar.size))
        self.order: list[int] = []

    @property
    def is_complete(self) -> bool:
        return len(self.order) == self.grammar.count

    def allowed(self) -> TokenIds:
        """Return the allowed next token ids in ascending order; empty if the permutation is complete."""
        if self.is_complete:
            return ()
        children = self._node.children.items()
        return tuple(sorted(token for token, node in children if not self._unused.isdisjoint(node.items)))

    def push(self, token: int) -> None:
        if token not in self.allowed():
            raise ValueError(f"Token {token} is not allowed here; the allowed tokens are {self.allowed()}")
        self._node = self._node.children[token]
        if not self._node.children:  # a leaf: the identifier is complete
            (item,) = self._node.items
            self._unused.discard(item)
            self.order.append(item)
            self._node = self.grammar.later

    def push_forced(self) -> list[int]:
        """Append and return the tokens without an alternative, up to the next choice or the end of the permutation."""
        tokens = []
        while len(allowed := self.allowed()) == 1:
            self.push(allowed[0])
            tokens.append(allowed[0])
        return tokens


def tokenize_identifiers(
    encode: Callable[[str], TokenIds], items: Sequence[str], separator: str, *, before: str = "", prefix: str = ""
) -> tuple[list[TokenIds], list[TokenIds]]:
    """Return the token ids of identifiers as the model would generate them, for `PermutationGrammar`.

    Tokenization depends on the preceding text, so each identifier is tokenized together with this text: ``before``
    is the end of the prompt, including ``prefix``.
    """
    for item in items:
        if not item.startswith(prefix):
            raise UsageError(
                f"The prompt begins the reply with {prefix!r}, but the identifier {item!r} does not start with it",
                expected="a prefix of every identifier",
                remedy="Use a prompt whose reply_prefix is '[' or empty, or --method NAME,constrain=false",
            )
    context = before + items[0][len(prefix) :]
    first = [tokenize_text_after(encode, before, item[len(prefix) :]) for item in items]
    later = [tokenize_text_after(encode, context, separator + item) for item in items]
    return first, later


def _build_tree(sequences: Sequence[TokenIds]) -> _Node:
    root = _Node()
    for item, tokens in enumerate(sequences):
        node = root
        for token in tokens:
            node.items.add(item)
            node = node.children.setdefault(token, _Node())
        node.items.add(item)
    pending = [root]
    while pending:
        node = pending.pop()
        pending += node.children.values()
        # Identifiers that end at this node: exactly one at a leaf, none at an inner node.
        ending = node.items.difference(*(child.items for child in node.children.values()))
        if len(ending) > (0 if node.children else 1):
            raise UsageError(
                f"The tokens of identifier {min(ending) + 1} are equal to, or a prefix of, those of another identifier",
                expected="identifiers that can be distinguished, such as numbers in brackets",
            )
    return root
