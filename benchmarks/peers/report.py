"""What was measured, as a table in Markdown and as pictures."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot

MIB = 2**20
TARGETS = (0.99, 0.999)


def write_report(results: dict[str, Any], out: Path) -> str:
    """Write report.md and three PNG files; return the Markdown."""
    peers = {name: peer for name, peer in results["peers"].items() if "settings" in peer}
    text = "\n".join(
        [
            _heading(results), "", *_best(peers), "", *_sizes(peers), "", *_all(peers), "", *_left_out(results), "",
        ]
    )  # fmt: skip
    (out / "report.md").write_text(text)
    pyplot.switch_backend("Agg")  # draws without a screen
    _plot_recall(peers, results, out / "recall.png")
    _plot_bars(peers, "memory after a warm-up, MiB", {"own": "anon_bytes", "with mapped files": "total_bytes"}, MIB,
               out / "memory.png")  # fmt: skip
    _plot_bars(peers, "build on one thread, seconds", {"build": "build_s"}, 1, out / "build.png")
    return text


def best_at(peer: dict[str, Any], recall: float) -> dict[str, Any] | None:
    """Return the fastest setting with at least this recall, if there is one.

    By the median, which a busy machine disturbs least.
    """
    good = [each for each in peer["settings"] if each["recall"] >= recall]
    return min(good, key=lambda each: each["p50_ms"], default=None)


def _heading(results: dict[str, Any]) -> str:
    return (
        "{rows} vectors of {dim} dimensions ({corpus}), {queries} queries, k = {k}, {threads} thread on one core. "
        "Medians of {rounds} rounds in which the stores take turns, each in a fresh process."
    ).format(**results)


def _best(peers: dict[str, Any]) -> list[str]:
    head = ["store", *(f"at recall ≥ {each}: setting | searches/s | p50 ms | p99 ms" for each in TARGETS)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|---|---|---|" * len(TARGETS)]
    for name, peer in peers.items():
        cells = [name]
        for target in TARGETS:
            best = best_at(peer, target)
            cells += (
                [best["setting"], f"{best['per_s']:.0f}", f"{best['p50_ms']:.2f}", f"{best['p99_ms']:.2f}"]
                if best
                else ["not reached", "", "", ""]
            )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _sizes(peers: dict[str, Any]) -> list[str]:
    lines = [
        "| store | set up as | build s | of it CPU | open s | own memory MiB | with mapped files MiB | disk MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, peer in peers.items():
        versions = ", ".join(f"{package} {number}" for package, number in peer["versions"].items())
        lines.append(
            f"| {name} | {peer['told']} ({versions}) | {peer['build_s']:.0f} | "
            f"{peer['build_cpu_s']:.0f} | {peer['open_s']:.2f} | "
            f"{peer['anon_bytes'] / MIB:.0f} | {peer['total_bytes'] / MIB:.0f} | {peer['disk_bytes'] / MIB:.0f} |"
        )
    return lines


def _all(peers: dict[str, Any]) -> list[str]:
    lines = ["| store | setting | recall@10 | p50 ms | p99 ms | searches/s |", "|---|---|---|---|---|---|"]
    for name, peer in peers.items():
        lines += [
            f"| {name} | {each['setting']} | {each['recall']:.4f} | {each['p50_ms']:.2f} | {each['p99_ms']:.2f} | "
            f"{each['per_s']:.0f} |"
            for each in peer["settings"]
        ]
    return lines


def _left_out(results: dict[str, Any]) -> list[str]:
    return [
        f"Left out: {name}, {peer['failed']}" for name, peer in results["peers"].items() if "failed" in peer
    ]


def _plot_recall(peers: dict[str, Any], results: dict[str, Any], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 6))
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # the usual ten colours are too few
    for name, peer in peers.items():
        points = [(each["recall"], 1000 / each["p50_ms"]) for each in peer["settings"]]
        # A logarithm of what is missed spreads the end that matters; what misses nothing stands at its edge.
        missed = [max(1 - recall, 1e-4) for recall, _ in points]
        axes.plot(missed, [per_s for _, per_s in points], "o-", label=name, lw=3 if name == "twopass" else 1)
    axes.set(
        xscale="log", yscale="log", xlabel="recall@10", ylabel="searches per second, one thread (1 / median)"
    )
    axes.invert_xaxis()
    ticks = [0.5, 0.1, 0.05, 0.01, 0.005, 0.001, 1e-4]
    axes.set_xticks(ticks, [f"{1 - tick:g}" if tick > 1e-4 else "1" for tick in ticks])
    axes.set_title(f"{results['rows']} × {results['dim']} ({results['corpus']})")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _plot_bars(peers: dict[str, Any], title: str, parts: dict[str, str], unit: int, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(peers) + 1.5))
    height = 0.8 / len(parts)
    for i, (label, field) in enumerate(parts.items()):
        values = [peer[field] / unit for peer in peers.values()]
        bars = axes.barh([y + i * height for y in range(len(peers))], values, height, label=label)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=7)
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(peers))], list(peers))
    axes.invert_yaxis()
    axes.set_title(title)
    if len(parts) > 1:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
