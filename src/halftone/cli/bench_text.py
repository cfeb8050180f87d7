"""A measurement for people: a table of loads, ratios to the baseline, and the capacity card."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.serve.measuring.document import Bench, Figures, Ratio
from halftone.spec.capacity import Fitted


def print_bench(found: Bench, card_file: Path | None) -> None:
    """Print to standard output; `card_file` is where the card was written."""
    console = plain_console()
    console.print(f"endpoint {escape(found.endpoint.url)} {escape(found.endpoint.model)}")
    if found.baseline is not None:
        console.print(f"baseline {escape(found.baseline.url)} {escape(found.baseline.model)}")
    console.print(
        f"{found.inputTokens} tokens in, {found.outputTokens} out, {found.rounds} rounds of each"
    )
    console.print(_table(found), soft_wrap=False)
    for load in found.loads:
        for name, side in (("endpoint", load.endpoint), ("baseline", load.baseline)):
            if side is not None and side.failed:
                told = (
                    f"{side.failed} of {side.requests} requests at {load.concurrency} at a time on "
                    f"the {name}: {side.firstFailure}"
                )
                console.print(f"[red]failed[/red] {escape(told)}")
    capacity = found.capacity
    if capacity.card is None:
        console.print(f"no capacity card: {escape(str(capacity.noCardBecause))}")
        return
    card = capacity.card
    console.print(
        f"capacity of {escape(card.device)}: reads {_told(card.prefillTokensPerSecond)} tok/s; a "
        f"step takes {_told(card.stepBaseSeconds)} s, {_told(card.secondsPerKvToken)} s a KV "
        f"token, {_told(card.secondsPerSequence)} s a sequence; from {card.samples} samples"
    )
    if card_file is not None:
        console.print(f"capacity card {escape(str(card_file))}")
        console.print(
            "to ship it, copy it to `capacity/` of the job's work directory and run "
            "`halftone publish` again"
        )


def _table(found: Bench) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("AT A TIME", justify="right")
    table.add_column("")
    for heading in ("TTFT p50", "p95 (ms)", "ITL p50", "p95 (ms)", "TOK/S A USER", "TOK/S ALL"):
        table.add_column(heading, justify="right")
    table.add_column("TOKENS A STEP", justify="right")
    for load in found.loads:
        table.add_row(str(load.concurrency), "endpoint", *_cells(load.endpoint))
        if load.baseline is not None:
            table.add_row("", "baseline", *_cells(load.baseline))
        if load.ratios is not None:
            ratios = load.ratios
            cells = (_ratio(ratios.ttft), "", _ratio(ratios.itl) if ratios.itl else "", "", "")
            table.add_row("", "ratio", *cells, _ratio(ratios.tokensPerSecond), "")
    return table


def _cells(side: Figures) -> tuple[str, ...]:
    return (
        f"{side.ttftMs.p50:.1f}",
        f"{side.ttftMs.p95:.1f}",
        f"{side.itlMs.p50:.2f}" if side.itlMs else "",
        f"{side.itlMs.p95:.2f}" if side.itlMs else "",
        f"{side.tokensPerSecondPerUser.p50:.1f}" if side.tokensPerSecondPerUser else "",
        f"{side.tokensPerSecond:.1f}",
        _accepted(side),
    )


def _accepted(side: Figures) -> str:
    """Tokens a step; where the engine does not tell, what a client sees is a bound."""
    if side.acceptLength is not None:
        return f"{side.acceptLength:.2f}"
    seen = side.tokensPerChunk
    return f"≤ {seen:.2f}" if seen is not None and round(seen, 2) > 1 else ""


def _ratio(found: Ratio) -> str:
    if found.lower is None or found.upper is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.lower:.2f}-{found.upper:.2f})"


def _told(fitted: Fitted) -> str:
    return f"{float(fitted.value):.3g} ± {float(fitted.standardError):.1g}"
