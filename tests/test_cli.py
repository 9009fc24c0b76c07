from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from homotopy_deq import ODE, SHINE, Adjoint, Anderson, ImplicitLayer, Phantom, Reversible, Unroll
from homotopy_deq.cli import COMMANDS, app, load_model, names
from homotopy_deq.cli.resolve import model_class, pass_of, resolve
from homotopy_deq.cli.trained import Trained
from homotopy_deq.data import load
from homotopy_deq.training import CHECKPOINT, load_checkpoint
from solvers import DOPRI5, EULER, RK4, Flow, PeacemanRachford, RungeKutta, Then

SMALL = ["--limit", "700", "--hidden", "16", "--groups", "4", "--epochs", "3", "--cpu"]


def call(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def done(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_size_that_a_model_has_not_is_said_to_change_nothing(tmp_path: Path) -> None:
    sizes = ["--kernel", 0, "--features", 8, "--hidden", 4]
    told = done("train", "--model", "sll", "--out", tmp_path, *sizes, *SMALL[:2], "--epochs", 1)
    assert "got it for sll, where it changes nothing" in " ".join(told.split())


def refused(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def by_name(name: str) -> Any:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    return command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rest-point HomoODE trained by the command line; seconds."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "homoode"
    assert "test accuracy" in done("train", "--out", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HomoODE as published, whose flow has no rest point."""
    folder = tmp_path_factory.mktemp("runs") / "published"
    flags = ["--no-rest-point", "--limit", 100, "--hidden", 4, "--head", 8, "--epochs", 1]
    done("train", "--out", folder, *flags, "--solver", "euler")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_flags(name: str) -> None:
    told = done(*name.split(), "--help")
    command = by_name(name)
    flags = {flag for each in command.params for flag in each.opts if flag.startswith("--")}
    assert not {flag for flag in flags if flag not in told} and f"{name} [OPTIONS]" in told


def test_train_alone_is_a_rest_point_homoode_on_the_digits(run: Path) -> None:
    spec = load_checkpoint(run / CHECKPOINT).meta["about"]["spec"]
    assert (spec["model"], spec["dataset"], spec["rest_point"]) == ("homoode", "digits", True)
    assert {path.name for path in run.iterdir()} >= {CHECKPOINT, "metrics.jsonl", "tensorboard"}


def test_evaluate_compares_forward_passes_of_the_same_weights(run: Path, tmp_path: Path) -> None:
    passes = ["dopri5", "anderson", "continuation", "rk4+anderson"]
    flags = [word for name in passes for word in ("--solver", name)]
    output = done("evaluate", run, *flags, "--limit", 100, "--json", tmp_path / "found.json")
    assert all(name in output for name in passes)
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    assert list(found) == passes
    assert found["anderson"]["converged"] == 1.0
    assert found["anderson"]["residual_worst"] <= 1.01e-4  # the tolerance, and rounding
    assert found["rk4+anderson"]["residual_worst"] <= 1.01e-4
    # 100 images: two of them apart at most, as the weights had three epochs.
    assert abs(found["dopri5"]["accuracy"] - found["anderson"]["accuracy"]) <= 0.02 + 1e-6


def test_evaluate_alone_repeats_the_figure_of_the_training(run: Path, tmp_path: Path) -> None:
    done("evaluate", run / CHECKPOINT, "--json", tmp_path / "found.json")
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"].values()
    test = load_checkpoint(run / CHECKPOINT).meta["test"]
    assert found["accuracy"] == test["accuracy"]
    assert found["residual_median"] == pytest.approx(test["residual_median"], rel=1e-4)


def test_evaluate_tells_how_many_samples_did_not_converge(run: Path) -> None:
    output = done("evaluate", run, "--solver", "picard", "--max-steps", 1, "--limit", 20)
    assert "20 of 20 samples did not converge" in output


def test_a_flow_without_a_rest_point_has_no_equilibrium_to_solve_for(published: Path) -> None:
    assert "rest_point" in refused("evaluate", published, "--solver", "anderson")
    assert "rk4" in done("evaluate", published, "--solver", "rk4", "--limit", 20)
    assert "no equilibrium" in done("plot", published, "--samples", 2, "--solver", "euler")


def test_predict_names_class_and_probability(run: Path, tmp_path: Path) -> None:
    images = load("digits").test_images[:12]
    files = [tmp_path / f"{k}.png" for k in range(12)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[0].numpy()).save(file)
    rows = json.loads(done("predict", run, *files, "--json", "--top", 2, "--cpu"))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    model = load_model(run)
    with torch.no_grad():
        chance, best = model(images.float() / 255).softmax(1).topk(2)
    for row, values, places in zip(rows, chance.tolist(), best.tolist(), strict=True):
        assert [each["class"] for each in row["classes"]] == [str(k) for k in places]
        assert [each["probability"] for each in row["classes"]] == pytest.approx(values, rel=1e-4)
    assert "probability" in done("predict", run, files[0], "--solver", "anderson")


def test_plot_writes_png_files(run: Path, tmp_path: Path) -> None:
    flags = ["--solver", "rk4", "--solver", "anderson", "--samples", 2, "--batch", 8]
    done("plot", run, *flags, "--out", tmp_path)
    written = {path.name: path.read_bytes()[1:4] for path in tmp_path.iterdir()}
    assert written == {f"{name}.png": b"PNG" for name in ("paths", "residuals", "training")}


def test_info_lists_what_is_valid_and_what_a_checkpoint_holds(run: Path) -> None:
    listed = done("info")
    assert all(name in listed for name in ("newton-krylov", "dopri5", "fashion-mnist", "phantom"))
    assert "epoch 3 of 3 done" in done("info", run)


def test_resume_takes_the_settings_from_the_run(run: Path) -> None:
    before = (run / CHECKPOINT).read_bytes()
    done("train", "--out", run, "--resume")
    done("train", "--out", run, "--resume", *SMALL)
    assert (run / CHECKPOINT).read_bytes() == before
    output = refused("train", "--out", run, "--resume", "--lr", 0.5, "--hidden", 16)
    assert "--lr: the run has 0.003, got 0.5" in output and "--hidden" not in output
    assert "--overwrite" in refused("train", "--out", run)


def test_resume_with_more_epochs_says_what_the_learning_rate_does(tmp_path: Path) -> None:
    done("train", "--out", tmp_path, "--limit", 100, "--hidden", 4, "--epochs", 1, "--cpu")
    told = done("train", "--out", tmp_path, "--resume", "--epochs", 2, "--cpu")
    assert "starts again at 0.003" in told and "not that of one run of 2 epochs" in told
    assert "epoch 2 of 2 done" in done("info", tmp_path)
    assert "--epochs: the run has 2" in refused(
        "train", "--out", tmp_path, "--resume", "--epochs", 1
    )


def test_a_run_remembers_where_its_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    for part in ("train", "test"):
        for name in "ab":
            (images / part / name).mkdir(parents=True)
            for k in range(10):
                noise = torch.randint(256, (8, 8), dtype=torch.uint8)
                Image.fromarray(noise.numpy()).save(images / part / name / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "imagefolder", "--hidden", 4, "--head", 8, "--epochs", 1, "--cpu"]
    done("train", "--out", "run", "--data", "images", "--batch", 4, *flags)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run, found = tmp_path / "run", tmp_path / "found.json"
    assert "read from" in done("info", run)
    done("evaluate", run, "--cpu", "--json", found)
    assert json.loads(found.read_text())["data"]["test images"] == 20
    done("plot", run, "--kind", "paths", "--samples", 2, "--solver", "rk4")
    moved = images.rename(tmp_path / "moved")
    assert "no image folder in data" in refused("evaluate", run)
    done("train", "--resume", "--out", run, "--data", moved, "--epochs", 2)
    done("evaluate", run, "--cpu")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "resnet"], "Valid: homoode, deq, neural-ode"),
        (["--model", "homode"], "Did you mean 'homoode'?"),
        (["--model", "DEQ"], "Did you mean 'deq'?"),
        (["--dataset", "imagenet"], "Valid: digits, mnist"),
        (["--solver", "andersen"], "Did you mean 'anderson'?"),
        (["--solver", "RK4"], "Did you mean 'rk4'?"),
        (["--solver", "anderson, rk4"], "each by itself (--solver anderson --solver rk4)"),
        (["--gradient", "magic"], "Valid: implicit, phantom, jfb, unroll, reversible, shine, adj"),
        (["--gradient", "implicit"], "unroll, adjoint, reversible do"),
        (["--gradient", "shine"], "unroll, adjoint, reversible do"),
        (["--gradient", "adjoint:3"], "a number is of phantom (phantom:5"),
        (["--gradient", "unroll:few"], "a number is of phantom (phantom:5"),
        (["--gradient", "reversible", "--solver", "dopri5"], "RungeKutta(RK4)"),
        (["--gradient", "shine", "--solver", "anderson"], "Broyden() ends with"),
        (["--gradient", "reversible", "--solver", "anderson"], "Picard(damping=...)"),
        (["--solver", "robust", "--max-steps", "9"], "a step of robust is a whole solve"),
        (["--solver", "rk4+davidenko", "--max-steps", "9"], "a step of davidenko is a whole way"),
        (["--test-limit", "0"], "--test-limit"),
        (["--backward-rtol", "1e-3"], "of the implicit gradient"),
        (["--epochs", "0"], "epochs must be at least 1; got 0"),
        (["--solver", "rk4", "--horizon", "-1"], "--horizon must be above 0; got -1"),
        (["--precision", "fp8"], "precision must be 'no' or 'bf16'"),
        (["--no-rest-point", "--residual-penalty", "1"], "no residual to penalise"),
        (["--no-rest-point", "--solver", "anderson"], "rest_point=True"),
        (["--model", "deq", "--no-rest-point"], "is of homoode; got it for deq"),
        (["--contraction", "1.5"], "contraction must be in (0, 1); got 1.5"),
        (["--contraction", "0.9", "--no-rest-point"], "contraction is of f"),
        (
            ["--contraction", "0.9", "--model", "monotone"],
            "is of homoode, deq; got it for monotone",
        ),
        (["--monotonicity", "0.5"], "is of monotone; got it for homoode"),
        (["--kernel", "0"], "needs a contraction"),
        (["--kernel", "2", "--model", "monotone"], "kernel must be odd"),
        (["--solver", "peaceman-rachford"], "--model monotone or lben, or --contraction"),
        (["--solver", "rk4+forward-backward"], "--model monotone or lben, or --contraction"),
        (["--dataset", "cifar10", "--data", "nowhere"], "no CIFAR-10 in nowhere"),
        (["--resume"], "to resume from"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    flags: list[str], told: str, tmp_path: Path
) -> None:
    assert told in refused("train", "--out", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "monotone", "--kernel", 0, "--monotonicity", 0.5],
        ["--model", "monotone", "--hidden", 4],
        ["--model", "deq", "--contraction", 0.9, "--kernel", 0, "--hidden", 32],
        ["--model", "homoode", "--contraction", 0.9, "--kernel", 0],
    ],
    ids=["monotone dense", "monotone", "deq", "homoode"],
)
def test_models_whose_votes_can_be_verified_go_through_every_command(
    flags: list[object], tmp_path: Path
) -> None:
    folder, out = tmp_path / "run", tmp_path / "plots"
    done("train", "--out", folder, *flags, "--limit", 200, "--epochs", 1, "--cpu")
    done("train", "--out", folder, "--resume", *flags)
    assert "the run has" in refused("train", "--out", folder, "--resume", "--kernel", 5)
    model = load_model(folder)
    assert model.verifiable and model.bounds().monotonicity > 0
    passes = ["anderson", "peaceman-rachford", "rk4+douglas-rachford"]
    solvers = [word for name in passes for word in ("--solver", name)]
    done("evaluate", folder, *solvers, "--limit", 20, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    assert all(each["residual_worst"] <= 1.01e-4 for each in found.values())
    assert len({each["accuracy"] for each in found.values()}) == 1
    image = tmp_path / "image.png"
    Image.fromarray(load("digits").test_images[0, 0].numpy()).save(image)
    assert len(json.loads(done("predict", folder, image, "--json", "--cpu"))) == 1
    done("plot", folder, "--samples", 2, "--batch", 4, "--solver", "anderson", "--out", out)
    assert (out / "paths.png").exists()


def test_step_size_reaches_the_splittings() -> None:
    model = model_class("monotone")((1, 8, 8), 10, hidden=4)
    for name in names.SPLITTINGS:
        solver = names.Pass(name, step_size=0.5).put(model).layer.solver
        assert solver.step_size == 0.5  # type: ignore[attr-defined]


def test_a_splitting_by_name_is_accelerated_where_the_models_own_is() -> None:
    monotone = model_class("monotone")((1, 8, 8), 10, hidden=4)
    contractive = model_class("deq")((1, 8, 8), 10, hidden=4, contraction=0.9)
    for model, accelerated in ((monotone, True), (contractive, False)):
        solver = names.Pass("peaceman-rachford").put(model).layer.solver
        assert isinstance(solver, PeacemanRachford)
        assert (solver.accelerated is not None) == accelerated
    assert resolve({"model": "monotone"}).forward.step_size == 0.5


def test_a_run_of_before_a_choice_existed_still_loads(run: Path) -> None:
    checkpoint = load_checkpoint(run / CHECKPOINT)
    spec = checkpoint.meta["about"]["spec"]
    for name in ("contraction", "monotonicity", "kernel"):
        del spec[name]
    for name in ("contraction", "kernel"):
        del checkpoint.meta["about"]["model"]["config"][name]
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(Trained.from_checkpoint(checkpoint).model(image), load_model(run)(image))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for command in ("evaluate", "plot", "info"):
        assert "There is no checkpoint" in refused(command, tmp_path)


def test_bf16_asks_for_no_more_than_it_can_resolve() -> None:
    found = resolve({"model": "deq", "precision": "bf16"})
    assert found.forward.rtol == found.backward.rtol == 1e-2
    assert resolve({"model": "deq", "precision": "bf16", "rtol": 0.1}).forward.rtol == 0.1
    assert resolve({"precision": "bf16"}).forward.rtol is None  # a flow has no such tolerance


def test_the_solver_of_the_training_keeps_its_settings_unless_others_are_given() -> None:
    settings = {"rtol": 0.1, "max_steps": 7, "horizon": 2.0}
    found = resolve({"model": "deq", "solver": "anderson", **settings})
    assert (
        pass_of(found, "anderson", rtol=None)
        == pass_of(found)
        == names.Pass("anderson", **settings)
    )  # type: ignore[arg-type]
    assert pass_of(found, "anderson", rtol=1e-3).rtol == 1e-3
    assert pass_of(found, "anderson", rtol=1e-3).max_steps == 7
    assert pass_of(found, "broyden") == names.Pass("broyden")


def test_other_solvers_of_a_run_in_bf16_ask_for_no_more_than_it_can_resolve() -> None:
    found = resolve({"precision": "bf16"})
    assert pass_of(found, "anderson").rtol == pass_of(found, "rk4+anderson").rtol == 1e-2
    assert pass_of(found, "anderson", rtol=0.1).rtol == 0.1
    assert pass_of(found, "dopri5").rtol is None
    assert pass_of(resolve({}), "anderson").rtol is None


def test_every_name_makes_the_solver_that_it_names() -> None:
    model = model_class("homoode")((1, 8, 8), 10, hidden=4, contraction=0.9)
    for name, kind in names.SOLVERS.items():
        assert type(names.Pass(name, rtol=1e-3).put(model).layer.solver) is kind
    pairs = {name: pair for name, pair in names.TABLEAUS.items() if pair.error}
    for method in names.METHODS:
        solver = names.Pass(method, rtol=1e-4).put(model).layer.solver
        if method in pairs:
            assert solver == RungeKutta(pairs[method], rtol=1e-4)
        else:
            assert isinstance(solver, ODE) and solver.method == method
    assert names.Pass("dopri5").put(model, "adjoint").layer.solver == ODE("dopri5")
    assert isinstance(names.Pass("anderson+continuation").put(model).layer.solver, Then)


RULES: list[tuple[str, str, Any]] = [
    ("picard", "reversible", Reversible()),
    ("rk4", "reversible", Reversible()),
    ("broyden", "shine", SHINE()),
    ("anderson", "jfb", Phantom()),
    ("anderson", "phantom:5", Phantom(5)),
    ("anderson", "unroll:8", Unroll(checkpoint=8)),
    ("rk4", "unroll:8", Unroll(checkpoint=8)),
    ("dopri5", "unroll:8", Unroll(checkpoint=8)),
    ("dopri5", "adjoint", Adjoint()),
]


@pytest.mark.parametrize(("solver", "name", "rule"), RULES)
def test_every_gradient_by_name_fits_the_solver_that_is_named_with_it(
    solver: str, name: str, rule: Any
) -> None:
    model = model_class("homoode")((1, 8, 8), 10, hidden=4, groups=2, horizon=1.0).train()
    few = {"max_steps": 4} if solver == "picard" else {}  # float32 leads no more steps back
    path = names.Pass(solver, step_size=0.25 if solver == "rk4" else None, **few).put(model, name)
    path.layer.on_failure = "ignore"
    path(torch.rand(2, 1, 8, 8)).sum().backward()
    assert path.layer.gradient == rule
    assert all(p.grad is not None for p in model.task_parameters())
    for other in ("dopri5", "anderson"):  # evaluated by another pass, which it need not fit
        names.Pass(other).put(path).eval().solve(torch.rand(1, 1, 8, 8))


def test_methods_joined_by_a_plus_follow_the_flow_to_rest() -> None:
    model = model_class("homoode")((1, 8, 8), 10, hidden=4)
    path = names.Pass("dopri5+anderson", rtol=1e-6, max_steps=7)
    limits = {"rtol": 1e-6, "max_steps": 7}
    layer = path.put(model).layer
    assert layer.solver == Then(Flow(DOPRI5, **limits), Anderson(**limits)) and path.at_root
    assert isinstance(layer, ImplicitLayer)
    assert names.Pass("anderson+rk4").put(model).layer.solver == Then(Anderson(), Flow(RK4, h=1.0))
    long = names.Pass("euler+anderson", step_size=1.5).put(model).layer.solver
    assert long == Then(Flow(EULER, h=1.5, max_step=1.5), Anderson())
    with pytest.warns(UserWarning, match="No flow to rest is followed by heun3; bosh3"):
        old = names.Pass("heun3+anderson").put(model).layer.solver  # of a run before
    assert old == Then(Flow(), Anderson())


def test_diagnose_writes_its_plot_and_the_figures_that_it_shows(run: Path, tmp_path: Path) -> None:
    told = done("diagnose", run, "--samples", 4, "--json", tmp_path / "d.json", "--cpu")
    figures = json.loads((tmp_path / "d.json").read_text())
    assert figures["samples"] == 4 and figures["map"]["row-wise"] is True
    assert "growth of J^T" in told and (run / "plots" / "diagnosis.png").exists()
    assert all(advice[:20] in told for advice in figures["advice"])


def test_a_flow_without_a_rest_point_is_not_diagnosed(published: Path) -> None:
    assert "no rest point" in " ".join(refused("diagnose", published, "--cpu").split())
