"""Which token may come next while a chain of identifiers is written, none of them twice. Knows token ids, not models.

A chain is ``[3] > [1] > [2]``; its grammar is a tree of token ids with one leaf an identifier. Where the tree leaves a
single way on, the tokens are known without asking the model: that is what a decoder of such chains may skip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rerank.errors import UsageError

Ids = tuple[int, ...]


class _Node:
    """One position in the tree.

    Attributes:
        children: Token -> where it leads.
        items: Identifiers below this node.
    """

    __slots__ = ("children", "items")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.items: set[int] = set()


class Chain:
    """The grammar of one reply; states are made from it.

    Args:
        first: Token ids of each identifier where it begins the chain.
        later: Token ids of each where it follows another, the separator included.
        count: How many identifiers to write.

    Raises:
        UsageError: The tokens of one identifier begin those of another, so that it could not be told when it ends.
    """

    def __init__(self, first: Sequence[Ids], later: Sequence[Ids], count: int) -> None:
        """Grow the trees."""
        self.count = count
        self.size = len(first)
        #: The most tokens that a reply can have.
        self.longest = count * max(map(len, [*first, *later]))
        self.first, self.later = _tree(first), _tree(later)

    def start(self) -> State:
        """Nothing written yet."""
        return State(self)


class State:
    """How far a chain has come.

    Attributes:
        order: Identifiers written so far, as positions.
    """

    __slots__ = ("_chain", "_left", "_node", "order")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._node = chain.first
        self._left = set(range(chain.size))
        self.order: list[int] = []

    @property
    def done(self) -> bool:
        """Whether all identifiers that were asked for are written."""
        return len(self.order) == self._chain.count

    @property
    def longest(self) -> int:
        """The most tokens that the whole chain can have."""
        return self._chain.longest

    def allowed(self) -> Ids:
        """Tokens that may come next, rising; none once the chain is done."""
        if self.done:
            return ()
        ways = self._node.children.items()
        return tuple(sorted(token for token, node in ways if not self._left.isdisjoint(node.items)))

    def push(self, token: int) -> None:
        """Write one of the allowed tokens.

        Raises:
            ValueError: It is none of them.
        """
        if token not in self.allowed():
            raise ValueError(f"Token {token} cannot come here; allowed: {self.allowed()}")
        self._node = self._node.children[token]
        if not self._node.children:
            (item,) = self._node.items
            self._left.discard(item)
            self.order.append(item)
            self._node = self._chain.later

    def forced(self) -> list[int]:
        """Write all tokens that have no alternative, up to the next choice or the end; return them."""
        written = []
        while len(ways := self.allowed()) == 1:
            self.push(ways[0])
            written.append(ways[0])
        return written


def pieces(
    encode: Callable[[str], Ids], items: Sequence[str], separator: str, *, before: str = "", opening: str = ""
) -> tuple[list[Ids], list[Ids]]:
    """Token ids of identifiers as the model would write them, for `Chain`.

    A tokenizer sees more than one identifier at a time, so each is tokenized behind what comes before it, and the
    tokens of that are taken off. Where a token would reach over the border, it is tokenized by itself.

    Args:
        encode: Text -> token ids, no special tokens added.
        items: The identifiers, brackets included.
        separator: What stands between two of them.
        before: The end of the prompt, which the first identifier is tokenized behind; it ends with ``opening``.
        opening: The beginning of the reply that the prompt gives already.

    Raises:
        UsageError: The identifiers do not begin as the reply does.
    """
    for item in items:
        if not item.startswith(opening):
            raise UsageError(
                f"The prompt begins the reply with {opening!r}, and no order such as {item!r} begins so",
                expected="a beginning of every identifier",
                remedy="Use a prompt whose reply_prefix is '[' or empty, or --method NAME,constrain=false",
            )
    known = before + items[0][len(opening) :]
    first = [behind(encode, before, item[len(opening) :]) for item in items]
    later = [behind(encode, known, separator + item) for item in items]
    return first, later


def behind(encode: Callable[[str], Ids], before: str, text: str) -> Ids:
    """Tokens of ``text`` behind ``before``; by itself where a token reaches over the border."""
    head, whole = encode(before), encode(before + text)
    return whole[len(head) :] if whole[: len(head)] == head else encode(text)


def _tree(sequences: Sequence[Ids]) -> _Node:
    root = _Node()
    for item, tokens in enumerate(sequences):
        node = root
        for token in tokens:
            node.items.add(item)
            node = node.children.setdefault(token, _Node())
        node.items.add(item)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.children.values()
        ending = node.items.difference(*(child.items for child in node.children.values()))
        if len(ending) > (0 if node.children else 1):
            raise UsageError(
                f"The tokens of identifier {min(ending) + 1} are those of another, or begin them",
                expected="identifiers that can be told apart, such as numbers in brackets",
            )
    return root
