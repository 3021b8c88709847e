"""The common part of the grammar writers: alternatives, sequences, repetitions, and names for rules on lines of their
own."""

from abc import ABC, abstractmethod

from ggserve.grammar.rules import Choice, Repeat, Rule, Sequence


class RuleWriter(ABC):
    """Writes rules in a language with alternatives `a | b`, sequences `a b` and repetitions `a{2,3}`."""

    def __init__(self) -> None:
        self._known: dict[Rule, str] = {}  # the written form of each rule

    @abstractmethod
    def _simple(self, rule: Rule) -> str:
        """Return a rule that is not an alternative, sequence or repetition."""

    @abstractmethod
    def _define(self, rule: Rule, name: str) -> str:
        """Write a rule that needs its own lines, under this name if it needs one. Return the expression that stands for
        it."""

    def _either(self, rule: Rule) -> str:
        if isinstance(rule, Choice):
            return " | ".join(self._sequence(option) for option in rule.options)
        return self._sequence(rule)

    def _sequence(self, rule: Rule) -> str:
        if isinstance(rule, Sequence):
            return " ".join(map(self._one, rule.items)) if rule.items else '""'
        return self._one(rule)

    def _one(self, rule: Rule) -> str:
        match rule:
            case Sequence() | Choice():
                return f"({self._either(rule)})"
            case Repeat(inner, least, most):
                return self._one(inner) + times(least, most)
        return self._simple(rule)

    def _defined(self, rule: Rule) -> str:
        if rule not in self._known:
            self._known[rule] = name = f"x_{len(self._known)}"  # reserve the name
            self._known[rule] = self._define(rule, name)
        return self._known[rule]


def times(least: int, most: int | None) -> str:
    """Return the suffix of a repetition."""
    known = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return known.get((least, most)) or f"{{{least},{'' if most is None else most}}}"
