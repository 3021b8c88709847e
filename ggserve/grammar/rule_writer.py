"""The part that grammar languages share: alternatives, sequences, repetitions, and names for rules that take several
lines."""

from abc import ABC, abstractmethod

from ggserve.grammar.rules import Choice, Repeat, Rule, Sequence


class RuleWriter(ABC):
    """Writes rules in a language whose alternatives are `a | b`, sequences `a b` and repetitions `a{2,3}`."""

    def __init__(self) -> None:
        self._known: dict[Rule, str] = {}  # the text that stands for each rule

    @abstractmethod
    def _simple(self, rule: Rule) -> str:
        """Write a rule that is neither an alternative nor a sequence nor a repetition."""

    @abstractmethod
    def _define(self, rule: Rule, name: str) -> str:
        """Write a rule on lines of its own, preferably under this name; return the text that stands for it."""

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
            self._known[rule] = name = f"x_{len(self._known)}"  # reserves the name
            self._known[rule] = self._define(rule, name)
        return self._known[rule]


def times(least: int, most: int | None) -> str:
    """Return the sign of a repetition."""
    known = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return known.get((least, most)) or f"{{{least},{'' if most is None else most}}}"
