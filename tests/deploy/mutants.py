"""Rules with one mistake each, to see that `alert_cases` would find it.

A mutant is a copy of the rules that an alert is made of, one of them changed, under names of its own: so one run of
promtool looks at all mutants of an alert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]
_QUIET = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on) \([^)]*\)')
_NUMBER = re.compile(r"(?<![\w.:])\d+(?:\.\d+)?(?![\w.])")
_LIMITS = re.compile(r"\b(?:histogram_quantile|quantile_over_time)\(|\bguard:detections:target\b|> bool\b")
_FLIPPED = {">": "<", "==": "!="}


@dataclass(frozen=True)
class Mutant:
    """`rules` are in the order in which they are evaluated; `what` says which mistake is in them."""

    what: str
    alert: str
    rules: tuple[Rule, ...]


def mutants(alert: str, rules: list[Rule]) -> list[Mutant]:
    """Every mutant of an alert, whose rules are among these. A rule that an alert before it reads is that one's."""
    mine = needed(alert, rules)
    names = [_name(rule) for rule in rules if "alert" in rule]
    others = [rule for name in names[: names.index(alert)] for rule in needed(name, rules)]
    made = [(rule, *mistake) for rule in mine if rule not in others for mistake in _mistakes(rule)]
    return [
        Mutant(f"{_name(rule)}: {what}", f"{alert}_{number}", _renamed(alert, number, mine, (rule, mistaken)))
        for number, (rule, what, mistaken) in enumerate(made)
    ]


def needed(alert: str, rules: list[Rule]) -> list[Rule]:
    """The rules by that name, and those that they read."""
    names, found = {alert}, list[Rule]()
    for rule in reversed(rules):
        if _name(rule) in names:
            found.insert(0, rule)
            names |= set(re.findall(r"guard:[\w:]+", rule["expr"]))
    return found


def _renamed(alert: str, number: int, rules: list[Rule], mistake: tuple[Rule, Rule]) -> tuple[Rule, ...]:
    """The mistaken rule, in place of the one before it; those that read it; and in any case the alert. No others."""
    names, copies = {alert: f"{alert}_{number}"}, []
    for rule in rules:
        each = mistake[1] if rule is mistake[0] else rule
        expr = re.sub(r"guard:[\w:]+", lambda name: names.get(name[0], name[0]), each["expr"])
        if each is not rule or expr != each["expr"] or "alert" in each:
            kind = "alert" if "alert" in each else "record"
            new = names.setdefault(each[kind], f"{each[kind]}:mutant{number}")
            copies.append({**each, kind: new, "expr": expr})
    return tuple(copies)


def _name(rule: Rule) -> str:
    name: str = rule.get("alert", rule.get("record"))
    return name


def _mistakes(rule: Rule) -> Iterator[tuple[str, Rule]]:
    for key in ("for", "keep_firing_for"):
        if key in rule:
            yield f"without `{key}`", {other: value for other, value in rule.items() if other != key}
    whole = " ".join(rule["expr"].split())
    limits = _numbers(whole) if "alert" in rule or _LIMITS.search(whole) else ()
    more = (*_parts(whole), *_matchers(whole), *_windows(whole), *_together(whole), *_other_end(whole))
    for what, expr in (*_flipped(whole), *limits, *more):
        yield what, {**rule, "expr": expr}


def _quiet(expr: str) -> str:
    """The same with blanks where it names things, so that what is left is operators and numbers."""
    return _QUIET.sub(lambda found: " " * len(found[0]), expr)


def _flipped(expr: str) -> Iterator[tuple[str, str]]:
    """A comparison the other way round."""
    for found in re.finditer(r">|==", _quiet(expr)):
        yield f"{expr[: found.end()][-30:]} flipped", expr[: found.start()] + _FLIPPED[found[0]] + expr[found.end() :]


def _numbers(expr: str) -> Iterator[tuple[str, str]]:
    """A limit or a factor four times or a quarter of it."""
    for found in _NUMBER.finditer(_quiet(expr)):
        for factor in (4, 0.25):
            if (other := float(found[0]) * factor) != float(found[0]):
                yield f"{found[0]} times {factor:g}", f"{expr[: found.start()]}{other:g}{expr[found.end() :]}"


def _parts(expr: str) -> Iterator[tuple[str, str]]:
    """One operand of `and`, `or` or `unless` alone, without the operator."""
    quiet = _quiet(expr)
    for found in re.finditer(r" (and|or|unless) ", quiet):
        begin, end = _operand(quiet, found.start(), -1), _operand(quiet, found.end(), 1)
        yield f"without `{expr[found.start() + 1 : end]}`", expr[: found.start()] + expr[end:]
        if found[1] == "or":
            yield f"without `{expr[begin : found.end()]}`", expr[:begin] + expr[found.end() :]


def _operand(quiet: str, at: int, step: int) -> int:
    """Where an operand ends that begins here, or, backwards, begins: at its bracket or the next operator."""
    depth = 0
    while 0 <= (look := at if step > 0 else at - 1) < len(quiet):
        depth += {"(": step, ")": -step}.get(quiet[look], 0)
        near = quiet[at : at + 8] if step > 0 else quiet[max(at - 8, 0) : at]
        if depth < 0 or (depth == 0 and re.search(r"^ (and|or|unless) " if step > 0 else r" (and|or|unless) $", near)):
            break
        at += step
    return at


def _matchers(expr: str) -> Iterator[tuple[str, str]]:
    """A label that doesn't matter, a value that is forgotten, or a pattern that fits nothing."""
    for found in re.finditer(r'(\w+)(=~|!~|!=|=)"([^"]*)"', expr):
        yield f"without {found[0]}", expr[: found.start()] + f'{found[1]}=~".*"' + expr[found.end() :]
        values = found[3].split("|")
        for value in values if len(values) > 1 else []:
            kept = "|".join(each for each in values if each != value)
            yield f"{found[1]} without {value}", expr[: found.start(3)] + kept + expr[found.end(3) :]
    for found in re.finditer(r', "([^"]*)" ?\)', expr):
        if found[1] == "(.*)":  # the copy of a label, without which it would not be evaluated at all
            continue
        yield f"{found[1]} fits nothing", expr[: found.start(1)] + "nothing" + expr[found.end(1) :]


def _together(expr: str) -> Iterator[tuple[str, str]]:
    """Namespaces, their deployments, or pods at one address taken for one."""
    for found in re.finditer(r"(?:by|on) \([^)]*\)", expr):
        for label in ("namespace", "deployment", "pod"):
            fewer = re.sub(rf", {label}\b|\b{label}, ", "", found[0])
            if fewer != found[0]:
                what = f"{expr[max(found.start() - 30, 0) : found.end()]} without `{label}`"
                yield what, expr[: found.start()] + fewer + expr[found.end() :]


def _other_end(expr: str) -> Iterator[tuple[str, str]]:
    """The lowest of several in place of the highest, or the other way round. Of one instance there is only one."""
    for found in re.finditer(r"\b(min|max) by (?!\([^)]*\binstance\b)", expr):
        other = {"min": "max", "max": "min"}[found[1]]
        what = f"{other} in {expr[found.start() : found.end() + 60]}"
        yield what, expr[: found.start()] + other + expr[found.end(1) :]


def _windows(expr: str) -> Iterator[tuple[str, str]]:
    """A window that is far too short, or too long where it is as short as can be; now in place of before."""
    other = {"[5m]": "[1h]", "[30m]": "[5m]", "[1h]": "[5m]", "[6h]": "[30m]", "[1d]": "[20m]", "[7d]": "[1h]"}
    for window in sorted(other.keys() & set(re.findall(r"\[\w+\]", expr))):
        yield f"{window} is {other[window]}", expr.replace(window, other[window])
    for found in re.finditer(r" offset (\w+)", expr):
        yield f"without{found[0]}", expr[: found.start()] + expr[found.end() :]
