"""What ``python -m benchmarks device`` prints, from what it keeps as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.device.cells import PEERS
from benchmarks.report import US, geometric_mean, titled

# jaxqr's own name where its GPU kernels are switched off.
OFF = f"{US} without kernels"

_HEADS = [
    *("cell", US, *PEERS, "off", f"best/{US}", f"off/{US}", "of copy", "of product", "single"),
    *("launches", "compile s"),
]
_LEGEND = f"""\
A time is that of a call in a queue of them; "single" that of one of {US}'s that is waited for.
"off" is {US} without its GPU kernels, "best" the fastest peer. "of copy" and "of product": {US}'s
bytes and operations, each counted once, over what a copy and a product reach in that time."""

Row = dict[str, Any]


def tables(record: dict[str, Any]) -> str:
    """Formats all that is known, the failures last."""
    failed, skipped = failures(record), record.get("skipped", [])
    parts = [
        _machine(record),
        _suite(record.get("suite", {})),
        _ratios(record.get("checks", [])),
        _LEGEND,
        *_races(record.get("races", [])),
        _solves(record.get("solves", [])),
        "\n".join(["No time was left for", "--------------------", *skipped]) if skipped else "",
        "\n".join(["Failed", "------", *failed]) if failed else "Nothing failed.",
    ]
    return "\n\n".join(filter(None, parts))


def failures(record: dict[str, Any]) -> list[str]:
    """Lists what went wrong: tests, answers, parts and tasks that broke off."""
    found = [f"{x['name']}: {x['message']}" for x in record.get("suite", {}).get("failed", [])]
    for row in (*record.get("checks", []), *record.get("races", [])):
        if "error" in row:
            found.append(f"{row['cell']}: {row['error']}")
        for name, result in row.get("results", {}).items():
            if result["status"] in ("wrong", "error"):
                found.append(f"{name} {result['status']} in {row['cell']}: {result['detail']}")
    return found + [f"{part}: {error}" for part, error in record.get("errors", [])]


def is_right(record: dict[str, Any]) -> bool:
    """Whether tests, answers and parts went well; what becomes of the peers does not count."""
    rows = (*record.get("checks", []), *record.get("races", []))
    answers = (row.get("results", {}).get(name, {}) for row in rows for name in (US, OFF))
    return not (
        record.get("errors")
        or record.get("suite", {}).get("failed")
        or any("error" in row for row in rows)
        or any(answer.get("status") in ("wrong", "error") for answer in answers)
    )


def row_line(row: Row) -> str:
    """Formats one race while it goes on."""
    times = ", ".join(f"{n} {_micro(r.get('seconds'))}" for n, r in row.get("results", {}).items())
    return f"{row['cell']}: {row.get('error') or times} us"


def best_peer(row: Row) -> str | None:
    """Names the fastest of the peers that count."""
    times = {
        name: result["seconds"]
        for name, result in row.get("results", {}).items()
        if name in row["peers"] and result.get("seconds")
    }
    return min(times, key=times.__getitem__) if times else None


def speedup(row: Row, name: str | None) -> float | None:
    """How many times as long as jaxqr another takes."""
    results = row.get("results", {})
    ours, theirs = (results.get(x, {}).get("seconds") for x in (US, name))
    return theirs / ours if ours and theirs else None


def _machine(record: dict[str, Any]) -> str:
    lines = {name: str(text) for name, text in record.get("machine", {}).items()}
    rates = record.get("rates", {})
    if "copy" in rates:
        lines["copy"] = f"{rates['copy'] / 1e12:.3f} TB/s read and written"
        products = (f"{dtype} {rate / 1e12:.1f}" for dtype, rate in rates["products"].items())
        lines["product"] = f"{', '.join(products)} TFLOP/s"
        for name in ("dispatch", "call", "fori_round", "while_round"):
            lines[name] = f"{_micro(rates[name])} us"
    width = max(map(len, lines), default=0)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _suite(suite: dict[str, Any]) -> str:
    if not suite:
        return ""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in suite["counts"].items())
    stopped = f", stopped {suite['stopped']}" if suite["stopped"] else ""
    return f"Tests of the device: {counts or suite['last line']} in {suite['seconds']} s{stopped}"


def _ratios(rows: Iterable[Row]) -> str:
    """LAPACK's ratios and relative errors of gradients, by work and shape; a column a dtype."""
    by_size: dict[str, dict[str, str]] = {}
    for row in rows:
        work, size, dtype = row["cell"].split("/")
        result = row.get("results", {}).get(US, {"status": "error"})
        checks = ", ".join(f"{value:.2g}" for value in result.get("checks", {}).values())
        by_size.setdefault(f"{work} {size}", {})[dtype] = checks or result["status"]
    if not by_size:
        return ""
    dtypes = list(dict.fromkeys(dtype for ratios in by_size.values() for dtype in ratios))
    lines = [[name, *(x.get(dtype, "-") for dtype in dtypes)] for name, x in by_size.items()]
    title = "Ratios of jaxqr: residual, orthogonality, error of the gradient (limit 30)"
    return titled(title, [["", *dtypes], *lines])


def _races(rows: Iterable[Row]) -> Iterator[str]:
    by_part: dict[str, list[Row]] = {}
    for row in rows:
        by_part.setdefault(row["part"], []).append(row)
    for part, group in by_part.items():
        lines = [_HEADS, *map(_race, group)]
        yield titled(f"{part}, microseconds", lines, *_summary(group))


def _race(row: Row) -> list[str]:
    results = row.get("results", {})
    ours = results.get(US, {})
    facts = ours.get("facts", {})
    return [
        row["cell"],
        *(_time(results.get(name)) for name in (US, *PEERS, OFF)),
        _ratio(speedup(row, best_peer(row))),
        _ratio(speedup(row, OFF)),
        *(_share(ours.get(share)) for share in ("of_copy", "of_product")),
        _micro(ours.get("single")),
        str(facts.get("launches", "-")),
        f"{facts['compile']:.1f}" if "compile" in facts else "-",
    ]


def _summary(rows: list[Row]) -> Iterator[str]:
    ratios = {row["cell"]: x for row in rows if (x := speedup(row, best_peer(row))) is not None}
    if ratios:
        worst = min(ratios, key=ratios.__getitem__)
        mean = geometric_mean(list(ratios.values()))
        yield f"best peer/{US}: geometric mean {mean:.2f}, worst {ratios[worst]:.2f} in {worst}"


def _solves(rows: Iterable[Row]) -> str:
    lines = [
        [row["shape"], _micro(row.get("solve")), _micro(row.get("product"))]
        for row in rows
        if "error" not in row
    ]
    heads = ["", "solve", "product"]
    return titled("Triangular solves and products, microseconds", [heads, *lines]) if lines else ""


def _time(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    return _micro(result["seconds"]) if result.get("seconds") else str(result["status"])


def _micro(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.4g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
