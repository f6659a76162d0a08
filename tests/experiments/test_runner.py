"""The experiment runner: rows, resuming, flags, and what it refuses."""

import dataclasses
import json

import pytest
from matplotlib import pyplot

from ariel_jax.errors import ConfigError, IntegrityError, MissingExtraError, StorageError
from experiments import runner
from experiments.decode import vs_transformers
from experiments.runner import Case, Experiment, Figure, Settings


class Script:
    """An experiment that counts what it measures and can be told to fail."""

    def __init__(self, *, plot=False, fail_at=None, kind="measured", n=3):
        self.measured, self.fail_at, self.kind = [], fail_at, kind
        self.experiment = Experiment(
            name="test.script",
            title="A script",
            cases=lambda settings: [
                Case(name=f"case{i}", config={"i": i, "tiny": settings.is_tiny}) for i in range(n)
            ],
            measure=self.measure,
            plot=self.plot if plot else None,
        )

    def measure(self, case, settings):
        if case.name == self.fail_at:
            raise ConfigError("stopped on purpose")
        self.measured.append(case.name)
        value = case.config["i"] + 0.5
        yield Figure(
            metric="m", value=value, unit="s", kind=self.kind, expected="at most 9", verdict="PASS"
        )

    def plot(self, rows):
        figure, axes = pyplot.subplots()
        axes.plot([row["value"] for row in rows])
        self.figure = figure
        return figure


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_rows_have_the_agreed_columns(tmp_path):
    script = Script()
    assert runner.main(script.experiment, ["--scale", "smoke", "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    assert [list(row) for row in rows] == [list(runner.COLUMNS)] * 3
    first = rows[0]
    assert (first["experiment"], first["case"], first["value"]) == ("test.script", "case0", 0.5)
    assert first["config"] == {"i": 0, "tiny": True, "scale": "smoke", "shapes": "full", "seed": 0}
    assert set(first["versions"]) == {"ariel_jax", "jax", "python", "driver"}
    text = (tmp_path / "test_script.md").read_text()
    assert "| case0 | m | s |  |  | 0.5 | at most 9 | PASS | measured |" in text


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path, capsys):
    broken = Script(fail_at="case1")
    arguments = ["--scale", "cpu", "--out", str(tmp_path)]
    assert runner.main(broken.experiment, arguments) == 2
    assert "stopped on purpose" in capsys.readouterr().err
    assert [row["case"] for row in rows_of(tmp_path)] == ["case0"]
    whole = Script()
    assert runner.main(whole.experiment, arguments) == 0
    assert whole.measured == ["case1", "case2"]
    captured = capsys.readouterr()
    assert "1 of 3 cases are finished" in captured.err
    assert "s left" in captured.err
    assert [row["case"] for row in rows_of(tmp_path)] == ["case0", "case1", "case2"]
    again = Script()
    runner.main(again.experiment, arguments)
    assert again.measured == []
    assert len(rows_of(tmp_path)) == 3


def test_cases_can_be_measured_by_several_runs_and_the_last_one_makes_the_table(tmp_path, capsys):
    arguments = ["--scale", "cpu", "--out", str(tmp_path)]
    last = Script(plot=True)
    assert runner.main(last.experiment, [*arguments, "--case", "case2", "--case", "case1"]) == 0
    assert last.measured == ["case1", "case2"]
    assert "no table yet, 1 of 3 cases are missing: ['case0']" in capsys.readouterr().err
    assert not (tmp_path / "test_script.md").exists()
    assert not (tmp_path / "test_script.png").exists()
    first = Script(plot=True)
    assert runner.main(first.experiment, [*arguments, "--case", "case0"]) == 0
    assert first.measured == ["case0"]
    lines = (tmp_path / "test_script.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[-3:]] == ["case0", "case1", "case2"]
    assert (tmp_path / "test_script.png").exists()


def test_of_two_runs_at_the_same_time_the_one_that_ends_last_makes_the_table(tmp_path):
    arguments = ["--scale", "cpu", "--out", str(tmp_path)]
    slow, quick = Script(n=2), Script(n=2)
    measure = slow.measure

    def while_another_runs(case, settings):
        assert runner.main(quick.experiment, [*arguments, "--case", "case1"]) == 0
        assert not (tmp_path / "test_script.md").exists()
        yield from measure(case, settings)

    experiment = dataclasses.replace(slow.experiment, measure=while_another_runs)
    assert runner.main(experiment, [*arguments, "--case", "case0"]) == 0
    assert (slow.measured, quick.measured) == (["case0"], ["case1"])
    lines = (tmp_path / "test_script.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["case0", "case1"]


def test_a_case_that_is_none_is_refused_before_anything_is_written(tmp_path, capsys):
    script = Script()
    arguments = ["--scale", "cpu", "--out", str(tmp_path / "out"), "--case", "case7"]
    assert runner.main(script.experiment, arguments) == 2
    assert (
        "no case is called 'case7' at this scale; pass some of ['case0'" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert script.measured == []


def test_other_settings_are_other_cases_in_the_same_file(tmp_path):
    for extra in ([], ["--shapes", "smoke"], ["--seed", "1"]):
        script = Script(n=1)
        runner.main(script.experiment, ["--scale", "cpu", "--out", str(tmp_path), *extra])
        assert script.measured == ["case0"]
    assert len(rows_of(tmp_path)) == 3


def test_flags_of_a_script_belong_to_the_settings_of_its_rows(tmp_path):
    script = Script(n=1)
    experiment = dataclasses.replace(script.experiment, flags={"model": "nano", "look_every": ""})
    arguments = ["--scale", "smoke", "--out", str(tmp_path)]
    for more in ([], ["--look-every", "4"], ["--look-every", "4"]):
        assert runner.main(experiment, [*arguments, *more]) == 0
    assert script.measured == ["case0"] * 2
    found = [(row["config"]["model"], row["config"]["look_every"]) for row in rows_of(tmp_path)]
    assert found == [("nano", ""), ("nano", "4")]


def test_an_aim_that_is_missed_and_explained_says_so():
    assert runner.judge(False, "at least 1", otherwise="MISSED")["verdict"] == "MISSED"
    assert runner.judge(True, "at least 1", otherwise="MISSED")["verdict"] == "PASS"
    assert runner.judge(False, "at least 1")["verdict"] == "FAIL"
    assert runner.judge(False, "at least 1", due=False) == {}


def test_off_a_gpu_the_gpu_scale_is_refused_and_its_path_runs_with_tiny_shapes(tmp_path, capsys):
    script = Script(n=1)
    arguments = ["--scale", "gpu", "--out", str(tmp_path)]
    assert runner.main(script.experiment, arguments) == 2
    assert "'gpu' is not available" in capsys.readouterr().err
    assert script.measured == []
    assert list(tmp_path.iterdir()) == []
    assert runner.main(script.experiment, [*arguments, "--shapes", "smoke"]) == 0
    assert rows_of(tmp_path)[0]["config"]["tiny"] is True


@pytest.mark.parametrize("kind", ["measured", "simulated"])
def test_what_is_not_measured_says_so_on_the_picture(tmp_path, kind):
    script = Script(plot=True, kind=kind, n=1)
    runner.run(script.experiment, Settings(scale="smoke"), tmp_path)
    assert (tmp_path / "test_script.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in script.figure.texts]
    assert labels == ([] if kind == "measured" else ["contains simulated figures"])


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    script = Script(plot=True)
    with pytest.raises(MissingExtraError, match=r"ariel-jax\[plot\]"):
        runner.run(script.experiment, Settings(scale="smoke"), tmp_path)
    assert script.measured == []


def test_a_foreign_file_is_not_overwritten(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(IntegrityError, match="line 1"):
        runner.run(Script().experiment, Settings(scale="smoke"), tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == '{"mine": 1}\n'


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        runner.run(Script().experiment, Settings(scale="smoke"), tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"kind": "guessed"}, "'guessed'"), ({"n": 0}, "different names")],
)
def test_bad_experiments_are_refused(tmp_path, fault, message):
    with pytest.raises(ConfigError, match=message):
        runner.run(Script(**fault).experiment, Settings(scale="smoke"), tmp_path)


def test_time_left_follows_the_declared_costs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runner.time, "perf_counter", lambda: now[0])
    first, second = Case(name="a", expected_s=1), Case(name="b", expected_s=3)
    clock = runner._TimeLeft([first, second])
    now[0] = 10.0
    assert clock.after(first) == "[1/2] a: 10 s so far, about 30 s left"


def test_vs_transformers_has_rows_and_bars_for_every_case(monkeypatch, tmp_path):
    from ariel_jax.bench import Row

    def compare(case, **_):
        return [
            Row(case=case.name, metric="decode ms/token", ours=2.0, theirs=5.0, ratio=2.5, low=2.0,
                high=3.0, target=case.target),
            Row(case=case.name, metric="% of read bandwidth", ours=80.0, theirs=None, ratio=80.0,
                low=70.0, high=90.0, target=85.0),
        ]  # fmt: skip

    monkeypatch.setattr(vs_transformers.bench, "compare", compare)
    rows = runner.run(vs_transformers.EXPERIMENT, Settings(scale="cpu"), tmp_path)
    ratios = {r["case"]: r for r in rows if r["metric"].endswith("(median of pairs)")}
    assert set(ratios) == set(vs_transformers.bench.SCALES["full"])
    assert ratios["nano"]["verdict"] == "PASS"
    assert ratios["nano"]["expected"] == "at least 2.5"
    shares = [r for r in rows if r["unit"] == "%"]
    assert {r["verdict"] for r in shares} == {"FAIL"}
    assert (tmp_path / "decode_vs_transformers.png").stat().st_size > 5000


def test_settings_can_be_remembered_whatever_flags_they_hold():
    with_flags = runner.Settings(scale="smoke", flags={"model": "nano"})
    assert {with_flags: 1}[runner.Settings(scale="smoke", flags={"model": "nano"})] == 1
    assert with_flags != runner.Settings(scale="smoke")
