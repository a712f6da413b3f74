"""What the benchmarks measured, as a person reads it: lines of text."""

from __future__ import annotations

from typing import Any

TITLES = {
    "road": "text tokens to pixels, super-conditioned",
    "step": "one decoder step, super-conditioned: the median position",
    "decode": "VQGAN: image tokens to pixels",
    "transformers": "image tokens without super-conditioning",
}
SHOWN_POSITIONS = 5  # of a step's, in the table; the JSON has all


def lines_of_generation(told: dict[str, Any]) -> list[str]:
    """What `bench_generation` measured; parts that were not are passed over."""
    lines = lines_about(told)
    if "limits" in told:
        lines += ["", *lines_of_limits(told["limits"])]
    for part, title in TITLES.items():
        rows = told.get(part, [])
        for n in dict.fromkeys(row["pictures"] for row in rows):
            lines += ["", f"{title}; {count(n)}", HEAD]
            for row in (row for row in rows if row["pictures"] == n):
                lines += lines_of_row(row)
    if "growth" in told:
        lines += ["", *lines_of_growth(told["growth"])]
    return lines


def lines_about(told: dict[str, Any]) -> list[str]:
    """Machine, versions, and what was done how often."""
    on, tokens, n = told["machine"], told["tokens"], told["image_length"]
    weights = "random weights" + (f" rounded to {told['stored']}" if told["stored"] else "")
    cut = "" if tokens == n else f"; all cut to the first {tokens} of {n} image tokens"
    return [
        f"{on['gpu'] or on['processor']}, threads {on['threads']}, "
        f"{' '.join(on['flags']) or 'processor flags unknown'}",
        f"Python {on['python']}, torch {on['torch']}, transformers {on['transformers']}, "
        f"minidalle {on['minidalle']}, min-dalle {on['min-dalle'] or 'not installed'}",
        f"size {told['size']}, {weights}: T {told['text_length']}, N {n}, "
        f"S {told['resolution']}, K {told['codebook_size']:,}; temperature 1, "
        f"top-k {told['top_k']}, condition scale {told['condition_scale']:g}{cut}",
        f"medians (quartiles) of {told['rounds']} rounds in turns, after one that does not count; "
        f"ratios by round",
    ]


def lines_of_limits(limits: dict[str, Any]) -> list[str]:
    """What the machine can do at the most, by which way of trying it."""
    way = max(limits["read"], key=limits["read"].get)
    lines = [f"limits: reads {limits['bandwidth'] / 1e9:.1f} GB/s ({way})"]
    for dtype, ways in limits["matrix"].items():
        way = max(ways, key=ways.get)
        lines.append(f"  {dtype} {limits['flops'][dtype] / 1e9:,.0f} GFLOP/s ({way})")
    return lines


HEAD = f"  {'':22}{'seconds':>28}{'limit':>9}{'share':>8}{'memory, GiB':>13}   times faster than"


def lines_of_row(row: dict[str, Any]) -> list[str]:
    """One contestant's figures; or why there are none."""
    name = f"  {row['who']} {row['dtype']}".ljust(24)
    if "not_measured" in row:
        return [f"{name}  not measured: {row['not_measured']}"]
    least = f"{row['least_seconds']:.3g}" if "share" in row else ""
    share = f"{row['share']:.0%}" if "share" in row else ""
    peak = row["gpu_peak_bytes"] or row["peak_bytes"]
    memory = "" if peak is None else f"{peak / 2**30:.2f}"
    faster = "; ".join(f"{rival} {with_quartiles(s, 2)}" for rival, s in row["faster"].items())
    figures = f"{with_quartiles(row['seconds']):>28}{least:>9}{share:>8}{memory:>13}"
    lines = [f"{name}{figures}   {faster}".rstrip()]
    if "tokens_per_second" in row:
        lines.append(f"{'':26}{row['tokens_per_second']:,.1f} image tokens a second")
    if "step_seconds" in row:
        every = max(1, (len(row["positions"]) - 1) // (SHOWN_POSITIONS - 1))
        at = zip(row["positions"][::every], row["step_seconds"][::every], strict=True)
        steps = ", ".join(f"{position}: {seconds:.3g}" for position, seconds in at)
        share = f", {row['encode']['share']:.0%} of its limit" if "share" in row["encode"] else ""
        lines.append(f"{'':26}at position {steps}")
        lines.append(f"{'':26}encoder {with_quartiles(row['encode']['seconds'])}{share}")
    return lines


def lines_of_growth(growth: dict[str, Any]) -> list[str]:
    """One step's seconds as pictures and width grow."""
    first, last = growth["positions"][0], growth["positions"][-1]
    lines = [f"one decoder step of ours as it grows, at positions {first} to {last}"]
    for field, title in (("pictures", "pictures"), ("d_model", "D, one picture")):
        for dtype in dict.fromkeys(row["dtype"] for row in growth[field]):
            rows = [row for row in growth[field] if row["dtype"] == dtype]
            steps = ", ".join(
                f"{row[field]}: {row['seconds']['median']:.3g}"
                if "seconds" in row
                else f"{row[field]}: not measured ({row['not_measured']})"
                for row in rows
            )
            lines.append(f"  {dtype}, by {title}: {steps}")
    return lines


def count(n: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if n == 1 else f"{n} pictures"


def lines_of_training(told: dict[str, Any]) -> list[str]:
    """What `bench_train` measured, as a person reads it."""
    on, head = told["machine"], f"{'parameters':>16}{'F':>7}{'first loss':>12}"
    rows = [
        f"{name:<14}{m['parameters']:>16,}{m['ffn_dim']:>7}{m['first_loss']:>12.3f}"
        f"{with_quartiles(m['step']):>25}{m['pictures_per_second']:>14.1f}"
        for name, m in told["models"].items()
    ]
    growth = [
        f"{row['smaller']:<14}{row['parameters']:>16,}{row['flops_ratio']:>10.2f}"
        f"{with_quartiles(row['time_ratio']):>25}{row['step']['median']:>12.3f}"
        for row in told["growth"]
    ]
    return [
        f"{on['gpu'] or on['processor']}, threads {on['threads']}, Python {on['python']}, "
        f"torch {on['torch']}, transformers {on['transformers']}, minidalle {on['minidalle']}",
        f"one training step of size {told['size']}: batch {told['batch_size']}, "
        f"T {told['text_length']}, N {told['image_length']}, {told['precision']}, AdamW; "
        f"medians (quartiles) of {told['steps']}",
        "",
        f"{'':14}{head}{'seconds':>25}{'pictures/s':>14}",
        *rows,
        f"throughput, minidalle / transformers: {with_quartiles(told['ratio'])}; "
        f"a first loss of ln K′ = {told['ln_k']:.3f} is a uniform guess",
        "",
        "how much more the whole takes than a smaller Bart",
        f"{'':14}{'parameters':>16}{'FLOPs ×':>10}{'time ×':>25}{'seconds':>12}",
        *growth,
    ]


def with_quartiles(spread: dict[str, float], digits: int = 3) -> str:
    """A median, and the quartiles in parentheses."""
    median, low, high = (f"{spread[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} – {high})"
