"""Continuations of one prompt as a trie of tokens: common beginnings are evaluated once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Node:
    """The place after some tokens. `logprob` is that of the token that leads here, given those before it."""

    children: dict[int, "Node"] = field(default_factory=dict)
    logprob: float = 0.0

    def only_tokens(self) -> list[int]:
        """Return the tokens from here to the next branch or leaf."""
        node, tokens = self, []
        while len(node.children) == 1:
            ((token, node),) = node.children.items()
            tokens.append(token)
        return tokens


class TokenTrie:
    """The trie of some continuations."""

    def __init__(self, continuations: Sequence[Sequence[int]]) -> None:
        self._continuations = continuations
        self.root = Node()
        self.depth = max(map(len, continuations), default=0)
        for tokens in continuations:
            node = self.root
            for token in tokens:
                node = node.children.setdefault(token, Node())

    def branches(self) -> Iterator[tuple[list[int], Node]]:
        """Yield the places that need evaluating, with the tokens that lead there, depth first: all but the leaves."""
        pending: list[tuple[list[int], Node]] = [([], self.root)]
        while pending:
            path, node = pending.pop()
            if node.children:
                yield path, node
                pending += [([*path, token], child) for token, child in reversed(node.children.items())]

    def logprobs(self) -> tuple[tuple[float, ...], ...]:
        """Return the log-probabilities of each continuation's tokens."""
        found = []
        for tokens in self._continuations:
            node, path = self.root, []
            for token in tokens:
                node = node.children[token]
                path.append(node.logprob)
            found.append(tuple(path))
        return tuple(found)
