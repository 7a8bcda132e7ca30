"""Whose answer an answer is, where the protocol tells, and that nothing is guessed where it doesn't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guard.values import Decision, InferenceOutcome
from guard.wire import ledger
from guard.wire.ledger import Ledger
from guard.wire.stream_messages import Head
from tests.wire.parts import Decide


@pytest.fixture
def decisions(decide: Decide) -> list[Decision]:
    """Decisions with ids from d-0 on."""
    return [replace(decide(), id=f"d-{n}") for n in range(4)]


def answer(request_id: str = "", model: str = "digits", *, final: bool = True, outcome: str = "answered") -> Head:
    """The head of an answer."""
    return Head(request_id, model, final, InferenceOutcome(outcome))


@pytest.fixture
def told() -> list[tuple[str, str]]:
    """What the ledger tells of requests."""
    return []


@pytest.fixture
def book(told: list[tuple[str, str]]) -> Ledger[str]:
    """A ledger."""
    return Ledger(lambda *settled: told.append(settled))


def test_in_order(book: Ledger[str], decisions: list[Decision]) -> None:
    """Requests of plain models are answered in order, whether they have ids or not, errors without a model too."""
    for request_id, model, decision in zip(("", "x", "x", ""), ("a", "b", "b", "a"), decisions, strict=True):
        book.forwarded(request_id, model, model, decision, decoupled=False)
    heads = [answer("", "a"), answer("x", "b"), answer("x", ""), answer("", "a")]
    assert [book.answered(head) for head in heads] == decisions
    assert len(book) == 0


def test_owed(book: Ledger[str]) -> None:
    """Plain models owe an answer each, decoupled ones a final one, and blind nobody can tell."""
    assert not book.owed()
    book.forwarded("a", "digits", "digits", None, decoupled=False)
    book.say("own", decoupled=False)
    assert book.owed()
    book.answered(answer("a"))
    book.due()
    assert not book.owed()
    book.forwarded("b", "many", "many", None, decoupled=True)
    book.answered(answer("b", "many", final=False))
    assert book.owed()
    book.answered(answer("b", "many"))
    assert not book.owed()
    book.answered(None)
    assert book.owed()


def test_own_answers_wait(book: Ledger[str], decisions: list[Decision]) -> None:
    """An answer of Guard's own is due when all before it were given."""
    assert book.say("first", decoupled=False) == ["first"]
    book.forwarded("", "digits", "digits", decisions[0], decoupled=False)
    assert book.say("second", decoupled=False) == []
    assert book.say("to a decoupled model", decoupled=True) == ["to a decoupled model"]
    assert book.say("third", decoupled=False) == []
    book.forwarded("", "digits", "digits", decisions[1], decoupled=False)
    assert book.due() == []
    assert book.answered(answer()) == decisions[0]
    assert book.due() == ["second", "third"]
    assert book.answered(answer()) == decisions[1]


@pytest.mark.parametrize(
    "strange",
    [None, answer("unheard of"), answer("", "other")],
    ids=["another protocol", "an unknown id", "another model"],
)
def test_blind(book: Ledger[str], decisions: list[Decision], strange: Head | None) -> None:
    """A server that answers by other rules ends all attribution, and what waited is due at once."""
    book.forwarded("", "digits", "digits", decisions[0], decoupled=False)
    book.say("own", decoupled=False)
    assert book.answered(strange) is None
    assert book.due() == ["own"]
    book.forwarded("", "digits", "digits", decisions[1], decoupled=False)
    assert book.answered(answer()) is None
    assert book.say("later", decoupled=False) == ["later"]
    assert len(book) == 0


def test_decoupled_ids(book: Ledger[str], decisions: list[Decision]) -> None:
    """An id that one open request has tells its answers, until the final one."""
    book.forwarded("a", "many", "many", decisions[0], decoupled=True)
    book.forwarded("b", "many", "many", decisions[1], decoupled=True)
    assert [book.answered(answer(i, "many", final=False)) for i in "bab"] == [decisions[n] for n in (1, 0, 1)]
    assert book.answered(answer("a", "many")) == decisions[0]
    assert book.answered(answer("a", "many")) is None
    book.forwarded("a", "many", "many", decisions[2], decoupled=True)
    assert book.answered(answer("a", "")) == decisions[2]


def test_one_id_for_several(book: Ledger[str], decisions: list[Decision]) -> None:
    """Where two open requests to decoupled models share an id nothing is said, not even after one has ended."""
    for decision in decisions[:2]:
        book.forwarded("", "many", "many", decision, decoupled=True)
    assert [book.answered(answer("", "many", final=final)) for final in (False, True, False)] == [None] * 3
    book.forwarded("", "digits", "digits", decisions[2], decoupled=False)
    assert book.answered(answer()) == decisions[2]


def test_an_error_that_could_be_either(book: Ledger[str], decisions: list[Decision]) -> None:
    """An error without id and model, while plain and decoupled requests without ids are open, is nobody's."""
    book.forwarded("", "many", "many", decisions[0], decoupled=True)
    book.forwarded("", "digits", "digits", decisions[1], decoupled=False)
    assert book.answered(answer("", "")) is None
    assert book.answered(answer()) is None


def test_decoupled_requests_are_forgotten(
    book: Ledger[str], decisions: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of requests that may never be answered only so many are remembered, and a late answer is nobody's."""
    monkeypatch.setattr(ledger, "MAX_REMEMBERED", 2)
    for request_id, decision in zip("abc", decisions, strict=False):
        book.forwarded(request_id, "many", "many", decision, decoupled=True)
    assert [book.answered(answer(i, "many")) for i in "abc"] == [None, *decisions[1:3]]


def test_forgotten_ones_with_one_id_end_attribution(
    book: Ledger[str], decisions: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once requests that share an id are forgotten, a later one with it could be taken for the only one."""
    monkeypatch.setattr(ledger, "MAX_REMEMBERED", 2)
    for request_id in ("", "", "a", "b", ""):
        book.forwarded(request_id, "many", "many", decisions[0], decoupled=True)
    assert [book.answered(answer(i, "many")) for i in ("", "b")] == [None, None]


class TestSettled:
    """What became of each request is told once."""

    def test_in_order(self, book: Ledger[str], told: list[tuple[str, str]]) -> None:
        """Under the policy's name; what is not answered by the end is unknown, in order or not."""
        for request_id in "abc":
            book.forwarded(request_id, "digits", "digits@1", None, decoupled=False)
        book.answered(answer("a"))
        book.answered(answer("b", "", outcome="failed"))
        assert told == [("digits@1", "answered"), ("digits@1", "failed")]
        book.forwarded("d", "many", "many", None, decoupled=True)
        book.rest()
        book.rest()
        assert told[2:] == [("digits@1", "unknown"), ("many", "unknown")]
        book.forwarded("late", "digits", "digits@1", None, decoupled=False)
        assert told[4:] == [("digits@1", "unknown")]

    def test_decoupled(self, book: Ledger[str], told: list[tuple[str, str]]) -> None:
        """By the first answer, whatever follows."""
        book.forwarded("a", "many", "many", None, decoupled=True)
        for final, outcome in ((False, "answered"), (False, "answered"), (True, "unknown")):
            book.answered(answer("a", "many", final=final, outcome=outcome))
        book.rest()
        assert told == [("many", "answered")]

    def test_one_id_for_several(self, book: Ledger[str], told: list[tuple[str, str]]) -> None:
        """Nobody can tell: unknown at once, but for what was answered before."""
        book.forwarded("a", "many", "many", None, decoupled=True)
        book.answered(answer("a", "many", final=False))
        for request_id in "aabb":
            book.forwarded(request_id, "many", "many", None, decoupled=True)
        assert told == [("many", "answered"), *[("many", "unknown")] * 4]
        book.answered(answer("b", "many"))
        book.rest()
        assert len(told) == 5

    def test_forgotten(self, book: Ledger[str], told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        """What is remembered no more is unknown, unless it was answered."""
        monkeypatch.setattr(ledger, "MAX_REMEMBERED", 1)
        for request_id in "abc":
            book.forwarded(request_id, "many", "many", None, decoupled=True)
            if request_id == "b":
                book.answered(answer("b", "many", final=False))
        assert told == [("many", "unknown"), ("many", "answered")]
