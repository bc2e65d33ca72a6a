"""`w2s fit` and `w2s fit2` as they are typed: answers, files, refusals and exit codes."""

import json
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from sweep.cli import main

X = np.geomspace(1e18, 1e21, 7)


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """A table of two noise-free power laws, in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    frames = [pl.DataFrame({"size": [s] * 7, "flops": X, "loss": a * X**-0.08}) for s, a in (("l", 40.0), ("s", 50.0))]
    pl.concat(frames).write_csv("losses.csv")
    return tmp_path


def run(capsys, *words: str) -> tuple[object, str, str]:
    try:
        code = main([*words])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


FIT2 = ("fit2", "no.csv", "--n-col", "N", "--d-col", "D", "--loss-col", "L")
FIT = ("fit", "losses.csv", "--x", "flops", "--y", "loss", "--by", "size", "--family", "power", "--draws", "40")


def test_every_curve_is_told_with_parameters_tests_and_predictions(losses, capsys):
    code, out, err = run(capsys, *FIT, "--holdout-largest", "2", "--predict", "1e22")
    assert (code, err) == (0, "")
    assert "loss against flops: 2 curves; minimised: squared errors of log y" in out
    blocks = out.split("\n\n")
    assert blocks[1].startswith("size=l\n  5 points at 5 different x from 1e+18 to 1e+20")
    for block in blocks[1:]:
        assert "power: A x^-alpha" in block
        assert "alpha        0.08" in block
        assert "held out, 2 predictions: RMSLE" in block
        assert "95 %: 2 of 2" in block
        assert "at 1e+22:" in block
        assert "100 times the largest x, beyond" in block


def test_files_are_written_and_written_again(losses, capsys):
    for words in (("--predict", "1e22"), ("--holdout-largest", "1")):
        code, out, _ = run(capsys, *FIT, "--out", "out", *words)
        assert code == 0
        assert f"written: {losses / 'out'}" in out
    names = {p.name for p in (losses / "out").iterdir()}
    plots = {"plot.png", "plot.svg", "plot.pdf"}
    assert names == {"parameters.csv", "parameters.parquet", "curves.csv", "tests.csv", "fit.json"} | plots
    curves = pl.read_csv(losses / "out" / "curves.csv")
    assert curves["size"].to_list() == ["l", "s"]
    assert curves["n_tested"].to_list() == [1, 1]
    parameters = pl.read_parquet(losses / "out" / "parameters.parquet")
    told = ["method", "identified", "preferred", "width_ratio"]
    assert parameters.columns == ["size", "family", "parameter", "estimate", "low", "high", *told]
    about = json.loads((losses / "out" / "fit.json").read_text())
    assert about["asked"]["holdout_largest"] == 1


def test_many_curves_are_a_line_each_and_a_summary(losses, capsys):
    pl.concat([pl.DataFrame({"k": [k] * 7, "x": X, "y": (40 + k) * X**-0.08}) for k in range(14)]).write_csv("many.csv")
    words = ("fit", "many.csv", "--x", "x", "--y", "y", "--by", "k", "--family", "power", "--draws", "20")
    code, out, _ = run(capsys, *words, "--holdout-largest", "1", "--out", "out")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if " power " in line]
    assert [row[:4] for row in rows] == [[str(k), "power", "6", "1"] for k in range(14)]
    assert "RMSLE, median of 14 curves" in out
    assert "(the fit is nearer on 14)" in out


def test_no_curve_goes_unmentioned_however_many_there_are(losses, capsys, monkeypatch):
    monkeypatch.setattr("sweep.fit_command.MAX_LINES", 13)
    good = [pl.DataFrame({"k": [k] * 7, "x": X, "y": (40 + k) * X**-0.08}) for k in range(15)]
    bad = [pl.DataFrame({"k": [k], "x": [1e18], "y": [2.0]}) for k in (15, 16)]
    pl.concat([*good, *bad]).write_csv("many.csv")
    words = ("--x", "x", "--y", "y", "--by", "k", "--family", "power", "--draws", "20")
    code, out, _ = run(capsys, "fit", "many.csv", *words)
    assert code == 1
    assert "  14: power, 7 points, tested on 3: RMSLE" in out
    assert "  16: refused, 1 point; one point (x = 1e+18); a curve needs" in out
    pl.concat([pl.DataFrame({"k": [k], "x": [1e18], "y": [2.0]}) for k in range(14)]).write_csv("none.csv")
    code, _, err = run(capsys, "fit", "none.csv", *words)
    assert code == 2
    assert "none of 14 curves could be fitted" in err
    assert "k=13: one point (x = 1e+18)" in err


def test_some_refused_curves_are_told_and_exit_with_1(losses, capsys):
    text = (losses / "losses.csv").read_text() + "x,1e18,3.0\nx,abc,3.0\n"
    (losses / "losses.csv").write_text(text)
    code, out, _ = run(capsys, *FIT)
    assert code == 1
    assert "size=x\n  refused: column 'flops' has 'abc' in row 16" in out
    assert "size=l\n  7 points" in out


def test_a_folder_of_others_is_refused_before_anything_is_read(losses, capsys):
    (losses / "theirs").mkdir()
    (losses / "theirs" / "thesis.tex").write_text("")
    for words in (("fit", "no.csv", "--x", "x", "--y", "y"), FIT2):
        code, _, err = run(capsys, *words, "--out", "theirs")
        assert code == 2
        assert "is not replaced" in err
    assert [p.name for p in (losses / "theirs").iterdir()] == ["thesis.tex"]


def test_a_mixture_is_called_one_and_what_bands_are_made_of_is_told(losses, capsys):
    y = 1.7 + 2 * (X / X[0]) ** -0.3 * np.exp(0.002 * np.random.default_rng(0).standard_normal(7))
    pl.DataFrame({"flops": X, "loss": y}).write_csv("floor.csv")
    words = ("fit", "floor.csv", "--x", "flops", "--y", "loss", "--draws", "20")
    code, out, _ = run(capsys, *words, "--predict", "1e22")
    assert code == 0
    assert "the curve is a mixture" in out
    assert re.search(r"within the points \w+ \d+ %, \w+ \d+ %", out)
    within = next(line for line in out.splitlines() if "within the points" in line)
    assert "last value" not in within
    assert "bands beyond the points: the fit's own at the largest x" in out
    code, out, _ = run(capsys, *words, "--family", "bnsl1", "--predict", "1e20")
    assert "mixture" not in out
    assert "bands beyond" not in out  # nothing lies beyond


def test_what_cannot_be_told_is_one_line_and_flat_values_have_no_parameters(losses, capsys):
    x = np.geomspace(1e18, 1e21, 14)
    y = 1.7 + 2 * (x / x[0]) ** -0.3 * np.exp(0.002 * np.random.default_rng(0).standard_normal(14))
    pl.DataFrame({"flops": x, "loss": y}).write_csv("long.csv")
    words = ("--x", "flops", "--y", "loss", "--draws", "20")
    _, out, _ = run(capsys, "fit", "long.csv", *words, "--family", "bnsl2")
    assert out.count("not identified") == 1
    assert re.search(r"not identified by these points: (\w+, ){3,}\w+; do not quote them", out)
    pl.DataFrame({"flops": X, "loss": [2.5] * 7}).write_csv("flat.csv")
    code, out, _ = run(capsys, "fit", "flat.csv", *words, "--predict", "1e22")
    assert code == 0
    assert "flat: all y are 2.5" in out
    assert "alpha" not in out
    assert "at 1e+22: 2.5  95 % (no interval)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "nowhere.csv"], "nowhere.csv: no such file"),
        (["fit", "losses.txt"], "ending must be one of"),
        (["fit", "losses.csv", "--x", "flop"], "no column 'flop'; did you mean 'flops'?"),
        (["fit", "losses.csv", "--x", "size"], "column 'size' has 'l' in row 1"),
        (["fit", "losses.csv", "--by", "model"], "no column 'model'"),
        (["fit", "losses.csv", "--family", "sigmoid"], "there is auto, linear, power"),
        (["fit", "losses.csv", "--loss", "l2"], "there is auto, squared"),
        (["fit", "losses.csv", "--n", "flops"], "'loss' has"),
        (["fit", "losses.csv", "--predict", "1e22,big"], "numbers with commas"),
        (["fit", "losses.csv", "--predict", "0"], "positive numbers"),
        (["fit", "losses.csv", "--holdout-largest", "-1"], "a number such as 2"),
        (["fit", "losses.csv", "--holdout-largest", "6"], "with the 6 largest held out, 1 would be left"),
        (["fit", "losses.csv", "--holdout-largest", "1", "--train-where", "a==1"], "not allowed with"),
        (["fit", "losses.csv", "--train-where", "size=s"], "two signs, size==s"),
        (["fit", "losses.csv", "--train-where", "import os"], "is not a comparison"),
        (["fit", "losses.csv", "--out", "."], "is not replaced"),
        (["fit", "losses.csv", "--out", "losses.csv"], "is a file"),
        (["fit", "losses.csv", "--out", "losses.csv/out"], "cannot be written"),
        (["fit2", "losses.csv", "--n-col", "flops", "--d-col", "tokens", "--loss-col", "loss"], "no column 'tokens'"),
        (["fit2", "losses.csv", "--n-col", "flops", "--loss-col", "loss"], "--d-col --c-col is required"),
        (
            ["fit2", "losses.csv", "--n-col", "loss", "--d-col", "flops", "--loss-col", "loss", "--optimal", "x"],
            "numbers",
        ),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_bad_input_exits_with_2_and_says_what_would_be_right(losses, capsys, words, message):
    if words[0] == "fit":
        defaults = (("--x", "flops"), ("--y", "loss"), ("--family", "power"), ("--draws", "20"))
        words = [*words, *(word for pair in defaults if pair[0] not in words for word in pair)]
    before = sorted(p.name for p in losses.iterdir())
    code, out, err = run(capsys, *words)
    assert code == 2, out
    assert message in err
    assert "Traceback" not in err
    assert sorted(p.name for p in losses.iterdir()) == before


def test_a_surface_is_told_with_its_best_split(losses, capsys):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e11, 5)))
    y = 1.8 + 480 * n**-0.35 + 2000 * d**-0.37
    pl.DataFrame({"N": n, "D": d, "C": 6 * n * d, "L": y}).write_csv("surface.csv")
    words = ("fit2", "surface.csv", "--n-col", "N", "--loss-col", "L", "--draws", "20", "--optimal", "1e21")
    code, out, _ = run(capsys, *words, "--d-col", "D", "--out", "out")
    assert code == 0
    assert "additive_power: E + A / x1^alpha + B / x2^beta" in out
    assert "N grows as C^0.5139" in out  # 0.37 / (0.35 + 0.37)
    assert {p.name for p in (losses / "out").iterdir()} == {
        "parameters.csv", "parameters.parquet", "surfaces.csv", "tests.csv", "optimal.csv", "fit.json", "plot.png",
        "plot.svg", "plot.pdf",
    }  # fmt: skip
    code, held, _ = run(capsys, *words, "--d-col", "D", "--holdout-largest", "1", "--holdout-of", "C")
    assert code == 0
    assert "held out 1 point: RMSLE" in held
    assert "nearest point" in held
    assert "inside the intervals: 50 %:" in held
    code, by_flops, _ = run(capsys, *words, "--c-col", "C")
    assert code == 0
    assert by_flops.split("best split")[1] == out.split("best split")[1].split("\n\nwritten")[0] + "\n"


def test_fitting_imports_neither_torch_nor_ray(losses):
    code = (
        "import sys; from sweep.cli import main; "
        f"assert main({list(FIT)!r}) == 0; "
        "assert not {'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=losses, check=True, capture_output=True)
