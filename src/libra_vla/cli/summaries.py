"""Results as a few lines for a reader; the files that a command writes hold everything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLLECTED = (
    "suite", "seed", "spread", "noise", "recovery", "shoves", "fumble", "image_size", "draw_every",
    "meshes",
)  # fmt: skip
"""What a summary says of how demonstrations were collected; the metadata hold more."""


def evaluate(results: Mapping[str, Any], out: Path) -> str:
    """Success with its interval, per task and over all of them."""
    protocol = (
        "official protocol" if results["protocol"]["official"] else "not the official protocol"
    )
    rows = [(str(t["index"]), t["instruction"], t) for t in results["tasks"]]
    width = max([len("all tasks"), *(len(instruction) for _, instruction, _ in rows)])
    lines = [f"{results['suite']}, {results['mode']} mode, {protocol}"]
    lines += [f"{index:>3}  {name:<{width}}  {success(task)}" for index, name, task in rows]
    lines.append(f"{'':>3}  {'all tasks':<{width}}  {success(results)}")
    if results["errors"]:
        lines.append(
            f"{results['errors']} episodes ended in an error of the program and are in no rate: "
            "run the same command with --resume to try them again"
        )
    return "\n".join([*lines, f"wrote {out / 'results.json'}"])


def run(results: Mapping[str, Any], out: Path | None) -> str:
    """An evaluation, and what became of the link to the planner."""
    link = results["link"]
    lines = [
        f"{link['plans']} plans over {link['connects']} connections, {link['failures']} failures"
    ]
    if link["last_failure"]:
        lines.append(f"last failure: {link['last_failure']}")
    text = evaluate(results, out or Path("."))
    return "\n".join([*(text.splitlines() if out else text.splitlines()[:-1]), *lines])


def success(counted: Mapping[str, Any]) -> str:
    """For instance "48/50   96.0 %  [86.5, 98.9]"; the interval is Wilson's at 95 %."""
    trials = counted["episodes"] - counted["errors"]
    share = f"{counted['successes']:>3}/{trials:<3}"
    if counted["success_rate"] is None:
        return f"{share}  no episode counts"
    low, high = counted["ci95"]
    return f"{share} {counted['success_rate']:6.1%}  [{low:.1%}, {high:.1%}]"


def asynchrony(study: Mapping[str, Any], out: Path) -> str:
    """The plain cells, a line each."""
    lines = ["success with its interval; age of intents and steps without motion, per episode"]
    for cell in study["cells"]:
        if cell["variant"] == "plain":
            factor = "   " if cell["M"] is None else f"M={cell['M']}"
            still = cell["starved_steps"] + cell["waited_steps"]
            lines.append(
                f"{cell['mode']:<12} {factor} delay {cell['delay']}  {success(cell)}  "
                f"age {cell['age']['mean'] or 0.0:4.1f}  still {still:5.1f}"
            )
    return "\n".join([*lines, f"wrote {out / 'study.json'}", f"open  {out / 'report.html'}"])


def granularity(study: Mapping[str, Any], out: Path) -> str:
    """The predictions, then the curve."""
    from libra_vla.reports.granularity import why  # reports take NumPy along

    if (prediction := study["prediction"]) is None:
        record = study["registration"]
        stamp = f"registered {record['sha256'][:12]} at {record['registered']}"
        return f"{stamp}\nwrote {out / 'preregistration.json'}"
    lines = []
    for name, found in prediction["observables"].items():
        low, high = found["interval"]
        lines.append(
            f"{name:<12} N* = {found['n']:5.1f}  [{low:.1f}, {high:.1f}], where {why(found)}"
        )
    lines.append(f"recommended N = {prediction['recommended']}")
    for placement, curve in study["placements"].items():
        lines.append(f"{placement} bins: success with its interval")
        lines += [f"  N = {row['N']:<4} {_rate(row)}" for row in curve["levels"]]
        shown = "an inverted U" if curve["two_lines"]["inverted_u"] else "no inverted U shown"
        lines.append(f"  highest at N = {curve['peak']['level']}; two-lines test: {shown}")
    return "\n".join([*lines, f"wrote {out / 'study.json'}", f"open  {out / 'report.html'}"])


def arms(study: Mapping[str, Any], out: Path) -> str:
    """A line per arm."""
    width = max(len(arm["name"]) for arm in study["arms"])
    lines = [f"{arm['name']:<{width}}  {_rate(arm)}" for arm in study["arms"]]
    return "\n".join([*lines, f"wrote {out / 'study.json'}", f"open  {out / 'report.html'}"])


def suites(study: Mapping[str, Any], out: Path) -> str:
    """A line per arm and suite."""
    width = max(len(arm["name"]) for arm in study["arms"])
    lines = [
        f"{arm['name']:<{width}}  {name:<16} {_rate(row)}"
        for arm in study["arms"]
        for name, row in arm["suites"].items()
    ]
    return "\n".join([*lines, f"open  {out / 'report.html'}"])


def _rate(row: Mapping[str, Any]) -> str:
    if row["success_rate"] is None:
        return "not run"
    low, high = (100 * end for end in row["ci95"])
    return f"{100 * row['success_rate']:5.1f} %  [{low:.0f}, {high:.0f}]"


def train(summary: Mapping[str, Any], out: Path) -> str:
    """Steps, size and the last metrics."""
    metrics = summary["metrics"]
    names = {"planner_loss": "planner loss", "bin_accuracy": "bin accuracy",
             "refiner_loss": "refiner loss"}  # fmt: skip
    last = ", ".join(
        f"{words} {metrics[key]:.3f}" for key, words in names.items() if key in metrics
    )
    return "\n".join(
        [f"trained for {summary['steps']:,} steps: {last}", f"wrote {out / 'checkpoint'}"]
    )


def collect(summary: Mapping[str, Any], out: Path) -> str:
    """What was collected, and where the expert failed."""
    what = "scenes" if summary["stills"] else "demonstrations"
    lines = [
        f"{summary['episodes']} {what} ({summary['frames']:,} frames) out of "
        f"{summary['attempts']} attempts"
    ]
    lines += [f"  {n} failed: {name}" for name, n in summary["failures"].items() if n]
    return "\n".join([*lines, f"wrote {out}"])


def quickstart(results: Mapping[str, Any], out: Path) -> str:
    """Every arm's success rate, and the page to open."""
    arms = results["arms"]
    width = max(map(len, arms))
    lines = [f"{name:<{width}}  {success(arm)}" for name, arm in arms.items()]
    return "\n".join([*lines, f"wrote {out / 'results.json'}", f"open  {out / 'report.html'}"])


def data_info(described: Mapping[str, Any]) -> str:
    """Size, cameras, instructions and how the actions are spread."""
    length = described["length"]
    cameras = (f"{name} {w} x {h}" for name, (h, w) in described["cameras"].items())
    actions, places = described["actions"], len(described["places"])
    width = max(map(len, actions))
    views = ", ".join(described["views"])
    pictures = f", and where in the pictures of {views}" if views else ""
    lines = [
        f"{described['episodes']} episodes, {described['frames']:,} frames at "
        f"{described['fps']:g} Hz; {length['min']} to {length['max']} frames each, "
        f"{length['median']:g} in the middle",
        f"cameras: {', '.join(cameras) or 'none'}",
        f"state: {described['state_size']} numbers",
        *([f"told: where things are, of {places} that there may be{pictures}"] if places else []),
        "instructions: episodes, and how often the motion turns back in each, where most",
        *(
            f"{count:>6}  {r['per_episode']:5.1f} {r['dimension']:<{width}}  {text}"
            for text, count in described["instructions"].items()
            for r in [described["turns"][text]]
        ),
        "actions: smallest and largest value, and how often each bin occurs",
        *(
            f"  {name:<{width}}  {a['min']:8.3f} {a['max']:8.3f}  {sparkline(a['histogram'])}"
            for name, a in actions.items()
        ),
    ]
    if (convention := described["convention"]) is None:
        lines.append("convention: unknown; say it in meta/libra_vla.json before training")
    else:
        rate = convention["rate_hz"]
        lines.append(f"convention: {convention['representation']}, {rate:g} Hz")
    lines += (
        f"{name.replace('_', ' ')}: {r['min']:g} to {r['max']:g}, {r['median']:g} in the middle"
        for name, r in described["recorded"].items()
    )
    return "\n".join([*lines, *_made(described["metadata"])])


def _made(metadata: Mapping[str, Any]) -> list[str]:
    """How a dataset was collected, and what it was merged from."""
    lines = []
    for part in metadata.get("parts", []):
        first, end = part["episodes"]
        lines.append(f"episodes {first} to {end - 1} are from {part['name']}")
        lines += (f"  {line}" for line in _made(part["metadata"]))
    if settings := {k: metadata[k] for k in COLLECTED if metadata.get(k) is not None}:
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
        lines.append(f"collected with {told}")
    if checkpoint := metadata.get("policy"):
        lines.append(f"a policy drove first: checkpoint {checkpoint[:16]}")
    if attempts := metadata.get("attempts"):
        made, failed = (sum(a[key] for a in attempts.values()) for key in ("made", "failed"))
        lines.append(f"{made} attempts, {failed} of them failed")
    return lines


def data_merge(summary: Mapping[str, Any]) -> str:
    """What became of the parts."""
    return (
        f"{summary['datasets']} datasets: {summary['episodes']} episodes, "
        f"{summary['frames']:,} frames, {summary['instructions']} instructions\n"
        f"wrote {summary['out']}"
    )


def sparkline(counts: Sequence[int]) -> str:
    """A histogram as tall as a letter; a bin that occurs at all is seen."""
    bars, most = "▁▂▃▄▅▆▇█", max(counts, default=0)
    return "".join(bars[-(-n * (len(bars) - 1) // most)] if n else " " for n in counts)


def doctor(found: Mapping[str, Any]) -> str:
    """One line per check, and what to type for each that failed."""
    width = max(len(check["name"]) for check in found["checks"])
    lines = []
    for check in found["checks"]:
        mark = "ok" if check["ok"] else "!!"
        lines.append(f"{mark}  {check['name']:<{width}}  {check['found']}")
        if not check["ok"]:
            lines.append(f"{'':<{width + 4}}  -> {check['remedy']}")
    failed = sum(not check["ok"] for check in found["checks"])
    lines.append("everything is here" if not failed else f"{failed} of the above need attention")
    return "\n".join(lines)


def outline(value: Mapping[str, Any], indent: int = 0) -> str:
    """Nested values as indented lines."""
    lines = []
    for key, item in value.items():
        name = f"{'  ' * indent}{key.replace('_', ' ')}"
        if isinstance(item, Mapping):
            lines += [f"{name}:", outline(item, indent + 1)] if item else []
        else:
            lines.append(f"{name}: {_shown(item)}")
    return "\n".join(lines)


def _shown(item: Any) -> str:
    if isinstance(item, bool) or item is None:
        return {True: "yes", False: "no", None: "-"}[item]
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:,.4g}"
    if isinstance(item, list | tuple):
        return ", ".join(_shown(i) for i in item)
    return str(item)
