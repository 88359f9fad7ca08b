"""What all benchmarks share: tasks by index and by name, and what each can do."""

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import pytest
from fakes import TOY

from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import close_environment, keep_environment
from libra_vla.simulation.registry import BENCHMARKS, LIBERO, benchmark_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [0, 1, 2]),
        ("0,2", [0, 2]),
        ("2, 0-1", [0, 1, 2]),
        ("1,1", [1]),
        ("task_2,0", [0, 2]),
    ],
)
def test_tasks_are_chosen_in_the_suites_order(text, expected):
    assert [task.index for task in TOY.choose("toy", text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown task of toy ''"),
        ("1-", "unknown task of toy '1-'"),
        ("-1", "unknown task of toy '-1'"),
        ("1;2", "unknown task of toy '1;2'"),
        ("task1", "unknown task of toy 'task1': did you mean 'task_1'"),
        ("3", "toy has no task 3: expected 0 to 2"),
        ("1-4", "toy has no task 3: expected 0 to 2"),
    ],
)
def test_tasks_that_there_are_not(text, message):
    with pytest.raises(LibraError, match=message):
        TOY.choose("toy", text)


def test_a_suite_leads_to_its_benchmark():
    assert benchmark_of("libero_goal") is LIBERO
    names = [suite for benchmark in BENCHMARKS for suite in benchmark.suites]
    assert len(names) == len(set(names))
    with pytest.raises(LibraError, match="unknown suite 'libero_gaol': did you mean 'libero_goal'"):
        benchmark_of("libero_gaol")


@pytest.mark.parametrize("benchmark", [*BENCHMARKS, TOY], ids=lambda benchmark: benchmark.name)
def test_a_benchmark_can_be_sent_to_a_worker(benchmark):
    sent = ForkingPickler.loads(ForkingPickler.dumps(benchmark))
    assert sent == benchmark


def test_what_a_benchmark_cannot_do_is_said_beforehand():
    rigid = replace(TOY, spreads=False, move_object=None)
    rigid.require()
    for request, message in (
        ({"spread": 0.1}, "Toy cannot spread its objects"),
        ({"moves": True}, "Toy has no object to move"),
        ({"meshes": "decimated"}, "unknown meshes of Toy 'decimated': known: stock"),
    ):
        with pytest.raises(LibraError, match=message):
            rigid.require(**request)


def test_a_process_keeps_one_environment():
    first, second = TOY.tasks("toy")[:2]
    kept = keep_environment(TOY, first, image_size=8)
    assert keep_environment(TOY, first, image_size=8) is kept
    other = keep_environment(TOY, second, image_size=8)
    assert kept.closed and not other.closed
    assert keep_environment(TOY, second, image_size=16) is not other
    close_environment()
    assert other.closed
