import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_samples import SPACE, TASKS, arm, curves, report, trace

from libra_vla.data.video import write_video
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.files import write_json
from libra_vla.reports.episode_picture import (
    WIDTH,
    episode_picture,
    lay_out,
    opacity,
    time_scale,
)
from libra_vla.reports.evaluation import write_evaluation_report
from libra_vla.reports.failures import load_strips
from libra_vla.reports.inputs import Arm, ArmGroup, Clip, Curves, Rate, Report
from libra_vla.reports.markup import VOID, join, number, significant, tag
from libra_vla.reports.plan_picture import choose
from libra_vla.reports.report import render, write_report
from libra_vla.reports.success import difference, verdict
from libra_vla.reports.svg import Scale, log_ticks, path, ticks
from libra_vla.reports.trace import FIELDS, load_trace

SECTIONS = ("headline", "success", "reading", "failures", "how", "training", "latency", "making")
NASTY = "<script>alert('x')</script> & \"quotes\""


class Checker(HTMLParser):
    """Demands that every element is closed, and collects what a test asks about."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    @property
    def ids(self) -> set[str | None]:
        return {attrs.get("id") for _, attrs in self.seen}


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def page() -> str:
    return render(report())


def test_page_is_balanced_and_whole(page: str) -> None:
    found = parse(page)
    assert found.ids >= set(SECTIONS)
    assert "Libra succeeds in 90% of its episodes" in found.text
    assert "27 of 30 episodes" in found.text


def test_page_loads_nothing(page: str) -> None:
    for _, attributes in parse(page).seen:
        for name in ("src", "href", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(http" not in page and "@import" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_text_is_escaped() -> None:
    full = report()
    nasty = replace(
        full,
        title=NASTY,
        traces=(replace(full.traces[0], instruction=NASTY),),
        groups=(ArmGroup(NASTY, NASTY, (replace(arm("x", (1, 2, 3)), name=NASTY),)),),
        curves=(replace(curves("y", 0, planner=True), name=NASTY),),
        facts={NASTY: NASTY},
        commands=(NASTY,),
    )
    html = render(nasty)
    assert "<script>alert" not in html
    assert html.count("<script>") == 1
    assert NASTY in parse(html).text


def test_empty_report_says_so() -> None:
    found = parse(render(Report("Nothing yet")))
    assert "No episodes were run" in found.text
    assert found.ids.isdisjoint({*SECTIONS} - {"headline", "making"})


def test_zero_episodes_nan_latencies_and_missing_arms() -> None:
    nothing = arm("Libra", (0, 0, 0), trials=0)
    broken = replace(
        nothing, latency_ms={"plan": {"p50": math.nan, "p95": None, "p99": 3.0}, "refine": {}}
    )
    other = arm("Base", (1, 2, 3), role="baseline")
    text = parse(
        render(Report("t", (ArmGroup("a", "", (broken, other)), ArmGroup("b", "", ()))))
    ).text
    assert "No episodes were run" in text
    assert "not measured" in text
    assert "cannot be compared" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_trace_without_chunks_or_frames() -> None:
    full = trace()
    blind = replace(full, frames=full.frames[:0], frame_steps=full.frame_steps[:0])
    assert "how" in parse(render(Report("t", traces=(blind,)))).ids
    empty = replace(full, **{name: getattr(full, name)[:0] for name in FIELDS})
    assert "how" not in parse(render(Report("t", traces=(empty,)))).ids


def test_many_chunks_fit_the_slider() -> None:
    long = trace(length=600, chunk=1, factor=1)
    assert len(render(Report("t", traces=(long,)))) < 4_000_000


def test_boxes_merge_within_a_chunk_only() -> None:
    episode = trace()
    coarse = np.full_like(episode.coarse, 4)
    coarse[0, 2:, 0] = 7
    confidence = np.full_like(episode.confidence, 0.5)
    confidence[0, 2, 0] = 0.8
    boxes = replace(episode, coarse=coarse, confidence=confidence).boxes(0)
    first, second, third = boxes[:3]
    assert (first.start, first.end, first.coarse) == (0, 2, 4)
    assert (first.low, first.high) == pytest.approx((-0.2, 0.0))
    assert (second.start, second.end, second.coarse) == (2, 5, 7)
    assert (second.low, second.high) == pytest.approx((0.4, 0.6))
    assert second.confidence == pytest.approx(0.6)
    assert (third.start, third.end) == (5, 10)
    assert len(boxes) == len(episode.step) + 1
    assert boxes[-1].end == episode.length


def test_a_known_bin_is_a_known_rectangle() -> None:
    episode = trace()
    lane, x = lay_out(episode, 100.0)[0], time_scale(episode)
    intent = episode.boxes(0)[0]
    expected = {
        "x": number(x(intent.start)),
        "width": number(x(intent.end) - x(intent.start)),
        "y": number(lane.y(intent.high)),
        "height": number(lane.y(intent.low) - lane.y(intent.high)),
        "fill-opacity": number(opacity(intent.confidence)),
    }
    drawn = [
        attributes
        for _, attributes in parse(episode_picture(episode)).seen
        if attributes.get("class") == "intent"
    ]
    assert len(drawn) == sum(len(episode.boxes(d)) for d in range(SPACE.size))
    for name in ("x", "width", "height", "fill-opacity"):
        assert drawn[0][name] == expected[name]
    assert x(0) > 0 and x(episode.length) < WIDTH


def test_action_in_its_bin_lies_in_its_rectangle() -> None:
    episode = trace()
    actions = episode.executed_actions
    inside = SPACE.encode(actions) == episode.executed_intents
    for lane in lay_out(episode, 0.0):
        d = lane.dimension
        for box in episode.boxes(d):
            for t in range(box.start, box.end):
                y = lane.y(float(actions[t, d]))
                within = lane.y(box.high) - 1e-3 <= y <= lane.y(box.low) + 1e-3
                assert within or not inside[t, d]
                assert lane.top - 1e-3 <= y <= lane.bottom + 1e-3


def test_new_plans_are_counted_by_their_observation() -> None:
    episode = trace(length=100, chunk=5, factor=2)
    assert episode.step[episode.new_plans].tolist() == list(range(0, 100, 10))
    first, last, dimension = choose(episode)
    assert last - first == 2
    assert dimension != SPACE.convention.gripper


def test_partly_executed_chunks() -> None:
    whole = trace(length=40)
    cut = replace(whole, step=np.arange(8) * 3, executed=np.full(8, 3))
    assert cut.length == 24
    assert cut.executed_actions.shape == (24, 7)
    assert all(box.end - box.start <= 3 for box in cut.boxes(0))
    parse(episode_picture(cut))


def test_newcombe_interval_of_a_difference() -> None:
    # Newcombe (1998), example (a): 56/70 - 48/80, score method without continuity correction.
    ours = Arm("a", "", Rate(56, 70)), Arm("b", "", Rate(48, 80))
    assert difference(*ours) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "role", "said"),
    [
        (2, "baseline", "Libra does better than other"),
        (27, "baseline", "nor that there is none"),
        (2, "control", "Libra needs images"),
        (27, "control", "Nothing here shows that Libra needs images"),
    ],
)
def test_verdicts(successes: int, role: str, said: str) -> None:
    libra = Arm("Libra", "", Rate(28, 30))
    other = Arm("other", "", Rate(successes, 30), role=role, lacks="images")  # type: ignore[arg-type]
    assert said in verdict(libra, other)


def test_worse_than_the_baseline_is_said_too() -> None:
    libra, other = Arm("Libra", "", Rate(3, 30)), Arm("Base", "", Rate(28, 30), role="baseline")
    assert "Base does better than Libra" in verdict(libra, other)


def test_arm_from_results() -> None:
    goal = {"evaluated": 10, "reached": 7}
    swapped = {"task_instruction": TASKS[0], "instruction_from": 1, "other_goal": goal}
    counts = {"episodes": 11, "successes": 2, "errors": 1, "success_rate": 0.2, "ci95": [0, 1]}
    task = counts | {"instruction": TASKS[1], "swapped": swapped}
    results = counts | {"tasks": [task], "latency_ms": {}}
    found = Arm.from_results(results, name="swapped", explanation="", role="control")
    assert found.total == Rate(2, 10)
    assert found.per_task == (Rate(2, 10, TASKS[0]),)
    assert found.obeyed == Rate(7, 10)
    with pytest.raises(LibraError, match="damaged"):
        Arm.from_results({}, name="x", explanation="")


def test_curves_survive_a_half_written_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 10, "refiner_loss": 0.5}\n{"step": 20, "refi')
    assert len(Curves.load(file, name="x").metrics) == 1
    with pytest.raises(LibraError, match="check the path"):
        Curves.load(tmp_path / "absent.jsonl", name="x")


def test_load_trace_and_film(tmp_path: Path) -> None:
    episode = trace(length=23)
    (tmp_path / "traces").mkdir()
    arrays = {name: getattr(episode, name) for name in FIELDS}
    np.savez_compressed(tmp_path / "traces" / "task02_trial001.npz", **arrays)
    film = tmp_path / "videos" / "task02_trial001.mp4"
    write_video(film, episode.frames, fps=4)
    outcome = {"task": 2, "trial": 1, "success": True}
    task = {"index": 2, "instruction": TASKS[0]}
    write_json(tmp_path / "results.json", {"trials": [outcome], "tasks": [task]})

    loaded = load_trace(tmp_path, task=2, trial=1, space=SPACE)
    assert (loaded.instruction, loaded.success, loaded.length) == (TASKS[0], True, 23)
    assert loaded.frame_steps.tolist() == [0, 5, 10, 15, 20, 23]
    assert np.abs(loaded.frames.astype(int) - episode.frames).mean() < 4
    with pytest.raises(LibraError, match="no trial 0 of task 2"):
        load_trace(tmp_path, task=2, trial=0, space=SPACE)

    write_report(
        tmp_path / "report.html",
        Report("t", traces=(loaded,), clips=(Clip(film, NASTY, False), Clip(film, "b", True))),
    )
    found = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    films = [attributes for name, attributes in found.seen if name == "video"]
    assert len(films) == 2 and all(f["src"].startswith("data:video/mp4") for f in films if f["src"])


def test_damaged_trace(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "task00_trial000.npz").write_bytes(b"PK\x03\x04 cut off")
    results = {"trials": [{"task": 0, "trial": 0, "success": True}],
               "tasks": [{"index": 0, "instruction": "x"}]}  # fmt: skip
    write_json(tmp_path / "results.json", results)
    with pytest.raises(LibraError, match="not a trace"):
        load_trace(tmp_path, task=0, trial=0, space=SPACE)


def test_ticks_and_scales() -> None:
    assert ticks(0, 1, 4) == [0, 0.5, 1]
    assert ticks(0, 4000, 4) == [0, 1000, 2000, 3000, 4000]
    assert ticks(3, 3) == [3]
    assert log_ticks(0.02, 50) == [0.1, 1, 10]
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert "M0 0L1 1M3 3" in path([(0, 0), (1, 1), (2, math.nan), (3, 3)], "x")


def test_markup() -> None:
    assert tag("p", "a < b", None, [1.5, tag("br")], class_="x") == (
        '<p class="x">a &lt; b1.5<br></p>'
    )
    assert tag("rect", x=1 / 3, hidden=True, y=None, data_a='"') == (
        '<rect x="0.33" hidden data-a="&quot;"></rect>'
    )
    assert join(["&", tag("b")]) == "&amp;<b></b>"
    assert [significant(v) for v in (0.0214, 8.34, 21.4, 1070.0, 0.0, math.nan)] == [
        "0.021", "8.3", "21", "1,070", "0", "–",
    ]  # fmt: skip


def test_failures_are_broken_down_by_class_and_task() -> None:
    full = report()
    text = parse(render(full)).text
    assert "actuation: 2" in text and "grasp 1, place 1" in text
    assert "Actuation, grasp." in text and "evenly along the hand's way" in text
    assert "The fingers closed 2 times." in text
    assert "asynchrony" not in text, "nobody ran the failures again"
    assert "No film of" not in text
    unseen = parse(render(replace(full, strips=full.strips[:1]))).text
    assert "No film of actuation: libra eval --videos failures records them." in unseen
    assert "73%" in text and "did what it was told" in text


def test_the_page_of_an_evaluation(tmp_path: Path) -> None:
    from fakes import TOY, load_scripted

    def page(**options: object) -> Checker:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        config = EvalConfig(tmp_path, "toy", out, episodes=4, workers=0, **options)  # type: ignore[arg-type]
        quiet = {"on_progress": lambda *_: None}
        results = evaluate(config, benchmark=TOY, load_policy=load_scripted, **quiet)
        strips = load_strips(out, results)
        assert [strip.kind for strip in strips] == (["semantic"] if config.videos else [])
        assert all(len(s.frames) == len(s.steps) <= 8 and s.steps[-1] == 8 for s in strips)
        return parse(write_evaluation_report(out, results).read_text(encoding="utf-8"))

    seen = page(tasks="0", videos="failures")
    assert "The policy succeeds in 75% of its episodes" in seen.text
    assert {"success", "failures", "latency", "making"} <= seen.ids and "reading" not in seen.ids
    assert any(attributes.get("class") == "strip" for _, attributes in seen.seen)
    assert "how" not in seen.ids, "no success was filmed"
    assert "No film of semantic" in page(tasks="0").text
    drawn = page(tasks="0", videos=4)
    assert "how" in drawn.ids and "A whole episode. It succeeded" in drawn.text
    told = page(instruction="permuted")
    assert "Told another task, it succeeds in 100% of its episodes" in told.text
    assert "reading" in told.ids


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_script_runs_in_a_browser(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    write_report(tmp_path / "report.html", report())
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync "
        "--disable-component-update --enable-logging=stderr --proxy-server=127.0.0.1:1 --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    assert re.search(r'<div class="scrub">', done.stdout), "the script shows the slider"
    assert 'class="scrub-cursor"' in done.stdout
