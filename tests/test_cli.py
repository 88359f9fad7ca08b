"""The command line: exit codes, one-line errors, and nothing heavy before it is needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from libra_vla import __version__
from libra_vla.cli import COMMANDS, main, summaries
from libra_vla.errors import LibraError

DATASET = Path(__file__).parent / "data" / "lerobot_v3_image"
HEAVY = ("torch", "mujoco", "robosuite", "libero", "pyarrow", "av", "transformers", "numpy", "tyro")


def libra(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import libra_vla.cli as c, sys; sys.exit(c.main())", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_imports_nothing_heavy():
    probe = (
        "import sys; from libra_vla.cli import main; code = main(['--help'])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"libra-vla {__version__}\n"


def test_every_command_has_a_function():
    from libra_vla.cli import commands

    assert all(callable(getattr(commands, name.replace(" ", "_"))) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_every_option(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: libra {command}")
    entries = re.split(r"\n\W*(?=--[a-z])", re.sub(r"[│╭╮╰╯─|+]|-{3,}", " ", out))[1:]
    bare = [
        e.split()[0]
        for e in entries
        if re.fullmatch(r"\S+(\s+[A-Z]+|\s+\{[^}]*\})*\s+\(default:.*", e, re.S)
    ]
    assert not bare, "options without a word of help"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "did you mean 'train'?"),
        (["data"], "did you mean 'data info'?"),
        (["eval"], "libra eval needs --policy, --suite, --out"),
        (["eval", "--polcy", "x"], "did you mean '--policy'?"),
        (["eval", "--policy=x", "--suite", "y", "--out", "z", "--mode", "fast"], "'fast'"),
        (["eval", "--policy=x", "--suite", "y", "--out", "z", "--episodes", "q"], "--episodes"),
        (["eval", "--policy=x", "--suite", "y", "--out", "z", "--episodes", "0"], "episodes is 0"),
        (["eval", "--policy=x", "--suite", "y", "--out"], "--out"),
        (["info"], "either --preset"),
        (["info", "--preset", "tinny"], "did you mean 'tiny'?"),
        (["data", "info"], "DATASET"),
        (["data", "info", "/nowhere"], "/nowhere"),
        (["data", "info", "a", "b"], "b"),
        (["data", "merge", "a", "b"], "libra data merge needs --out"),
        (["data", "merge", "/nowhere", "--out", "x"], "at least two datasets"),
        (["data", "merge", "/nowhere", "/else", "--out", "x"], "/nowhere is no LeRobot dataset"),
        (["collect", "--suite", "x", "--out", "y", "--recovery", "2"], "recovery is 2.0"),
    ],
)
def test_bad_input_is_one_line_on_stderr(words, expected, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert expected in err


def test_no_command_shows_the_usage(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: libra COMMAND")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (LibraError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (KeyboardInterrupt("stopped after 3 of 9"), 130, "stopped after 3 of 9\n"),
        (
            ModuleNotFoundError("No module", name="mujoco.egl"),
            2,
            "error: mujoco.egl is not installed: pip install 'libra-vla[libero]'\n",
        ),
    ],
)
def test_how_a_command_can_end(raised, code, said, capsys, monkeypatch):
    def stop(words):
        raise raised

    monkeypatch.setattr("libra_vla.cli.commands.doctor", stop)
    assert main(["doctor"]) == code
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(words):
        raise ModuleNotFoundError("No module named 'x'", name="x")

    monkeypatch.setattr("libra_vla.cli.commands.doctor", broken)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_exit_codes_of_the_process():
    assert libra("--version").returncode == 0
    failed = libra("trian")
    assert (failed.returncode, failed.stdout) == (2, "")


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-c", "import libra_vla.cli as c, sys; sys.exit(c.main())"]
    with subprocess.Popen(
        [*command, "data", "info", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_json_is_json(capsys):
    assert main(["info", "--preset", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "tiny"
    assert main(["data", "info", str(DATASET), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 3


def test_data_info_for_people(capsys, tmp_path):
    assert main(["data", "info", str(DATASET), "--out", str(tmp_path / "sheet.png")]) == 0
    assert "3 episodes" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_success_line():
    counted = {"episodes": 50, "errors": 1, "successes": 48, "success_rate": 48 / 49}
    line = summaries.success(counted | {"ci95": [0.893, 0.996]})
    assert line == " 48/49   98.0%  [89.3%, 99.6%]"
    assert "no episode" in summaries.success(counted | {"success_rate": None})


def test_sparkline_shows_what_is_rare():
    assert summaries.sparkline([0, 1, 500, 1000]) == " ▂▅█"
    assert summaries.sparkline([0, 0]) == "  "


def test_a_scheduler_stops_a_command_as_ctrl_c_does():
    script = (
        "import sys, time; from libra_vla.cli import commands, main\n"
        "def work(words):\n    print('begun', flush=True); time.sleep(60)\n"
        "commands.doctor = work; sys.exit(main(['doctor']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, "stopped\n")
