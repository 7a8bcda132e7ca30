"""What the project asks of itself, beside what a run reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.detection.subjects import Name
from guard.stats import clopper_pearson_interval

_HIGH, _LOW = "0.05", "0.01"
_DRIFT: Final = 0.10
_NEEDED: Final = 8 / 255 + 1e-6


class Asked(NamedTuple):
    """Least shares to be caught, of one data set. None where nothing is asked."""

    each: float | None
    mean: float | None
    each_strict: float | None
    mean_strict: float | None
    laundered: float
    laundered_worst: float | None
    patch: float
    left_out: float


ASKED: Final = {
    Name.MNIST: Asked(0.98, None, 0.95, None, 0.95, None, 0.90, 0.95),
    Name.CIFAR10: Asked(0.85, 0.95, None, 0.85, 0.75, 0.50, 0.80, 0.85),
}


class _Reached(NamedTuple):
    asked: str
    reached: str
    met: str


def markdown(name: Name, found: dict[str, Any]) -> Iterable[str]:
    """The table of a run; nothing where nothing is asked."""
    if name not in ASKED or {_HIGH, _LOW} - {f"{rate:g}" for rate in found["rates"]}:
        return
    yield "## Asked and reached"
    yield ""
    yield "*Open* is what 95 % intervals leave open, of each row and of each attack's rows together: too few images"
    yield "to say. *Yes* goes by shares; few rows have images enough for the whole interval. Means are of rows."
    yield ""
    yield "| asked | reached | met |"
    yield "| --- | --- | --- |"
    yield from (f"| {row.asked} | {row.reached} | {row.met} |" for row in _rows(ASKED[name], found))
    yield ""


def below(rows: Sequence[dict[str, Any]], rate: str, least: float) -> tuple[str, str]:
    """Which rows are caught less often than asked, in words, and whether none is: yes, no or open.

    A miss is sure where the interval of a row is below, or that of all rows of an attack together.
    """
    won = [row for row in rows if _share(row, rate) is not None]
    short = [row for row in won if row["caught"][rate]["share"] < least]
    surely = any(row["caught"][rate]["interval_95"][1] < least for row in short) or any(
        interval[1] < least for interval in _pooled(won, rate)
    )
    words = "; ".join(
        f"{row['attack']}, {row['setting']}: {row['caught'][rate]['count']} of {row['caught'][rate]['of']}"
        for row in sorted(short, key=lambda row: row["caught"][rate]["share"])
    )
    sure = sum(row["caught"][rate]["interval_95"][0] >= least for row in won)
    beyond = f"{sure} with the whole interval"
    if not short:
        return f"all {len(won)} rows, {beyond}", "**no**" if surely else "yes"
    return f"{len(won) - len(short)} of {len(won)} rows, {beyond}; not {words}", "**no**" if surely else "open"


def _pooled(rows: Sequence[dict[str, Any]], rate: str) -> Iterator[tuple[float, float]]:
    """The interval of each attack, all its rows together."""
    for name in dict.fromkeys(row["attack"] for row in rows):
        counts = [row["caught"][rate] for row in rows if row["attack"] == name]
        yield clopper_pearson_interval(sum(each["count"] for each in counts), sum(each["of"] for each in counts))


def _rows(asked: Asked, found: dict[str, Any]) -> Iterable[_Reached]:
    for rate in (_HIGH, _LOW):
        flagged = found["false_positives"][rate]
        low, high = flagged["interval_95"]
        met = "yes" if low <= float(rate) else "**no**"
        says = f"{flagged['share']:.2%} ({low:.2%} to {high:.2%})"
        yield _Reached(f"honest images flagged, at {float(rate):.0%}: no more", says, met)
    yield _drift(found["drift"])
    attacks = found["attacks"]
    small = [row for row in attacks if not _large(row)] if asked.mean is not None else []
    for rate, each, mean in ((_HIGH, asked.each, asked.mean), (_LOW, asked.each_strict, asked.mean_strict)):
        if each is not None:
            yield _Reached(f"each attack caught, at {float(rate):.0%}: {each:.0%}", *below(attacks, rate, each))
        if mean is not None:
            shares = _shares(attacks, rate), _shares(small, rate)
            yield _at_least(f"attacks caught, at {float(rate):.0%}: mean {mean:.0%}", *shares, mean)
    washed, of_small = _washed(attacks), _washed(small)
    yield _at_least(f"laundered attacks caught, at 5%: mean {asked.laundered:.0%}", washed, of_small, asked.laundered)
    if asked.laundered_worst is not None and washed:
        worst = (
            f"{sum(share < asked.laundered_worst for share in washed)} of {len(washed)} cells below; {min(washed):.0%}"
        )
        met = "yes" if min(washed) >= asked.laundered_worst else "**no**"
        yield _Reached(f"laundered attacks caught, at 5%: worst {asked.laundered_worst:.0%}", worst, met)
    sticker = [row for row in attacks if row["attack"] == "Patch" and row["setting"].startswith("5 %")]
    yield _Reached(f"stickers of 5 % of the area caught, at 5%: {asked.patch:.0%}", *below(sticker, _HIGH, asked.patch))


def _drift(cells: Sequence[dict[str, Any]]) -> _Reached:
    expected = [cell for cell in cells if cell["expected"]]
    over = [cell for cell in expected if cell["flagged"][_HIGH]["share"] > _DRIFT]
    surely = any(cell["flagged"][_HIGH]["interval_95"][0] > _DRIFT for cell in over)
    words = "; ".join(
        f"{cell['kind']} {cell['setting']}: {cell['flagged'][_HIGH]['count']} of {cell['flagged'][_HIGH]['of']}"
        for cell in over
    )
    asked = f"honest images flagged under each expected change, at 5%: no more than {_DRIFT:.0%}"
    if not over:
        return _Reached(asked, f"all {len(expected)} cells", "yes")
    met = "**no**" if surely else "open"
    return _Reached(asked, f"{len(expected) - len(over)} of {len(expected)} cells; not {words}", met)


def _at_least(asked: str, shares: Sequence[float], of_small: Sequence[float], least: float) -> _Reached:
    if not shares:
        return _Reached(asked, "none", "open")
    mean = sum(shares) / len(shares)
    without = f"; {sum(of_small) / len(of_small):.1%} without L-inf of more than 8/255" if of_small else ""
    return _Reached(asked, f"{mean:.1%}{without}", "yes" if mean >= least else "**no**")


def _large(row: dict[str, Any]) -> bool:
    """Whether a row is of more L-inf than anybody needs on colour images."""
    linf = row["linf"]
    return linf is not None and linf > _NEEDED


def _washed(rows: Sequence[dict[str, Any]]) -> list[float]:
    shares = [cell["caught"][_HIGH]["share"] for row in rows for cell in row["laundered"]]
    return [share for share in shares if share is not None]


def _shares(rows: Sequence[dict[str, Any]], rate: str) -> list[float]:
    return [share for row in rows if (share := _share(row, rate)) is not None]


def _share(row: dict[str, Any], rate: str) -> float | None:
    share: float | None = row["caught"][rate]["share"]
    return share
