"""The live page holds what the library computes, asks for nothing else, and can be used by keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from homotopy_deq.certification import ABSTAIN, Converged, Smoother, Smoothing
from homotopy_deq.cli.resolve import pass_of
from homotopy_deq.cli.trained import Trained
from homotopy_deq.data import load
from homotopy_deq.page import Certificate, Page, describe, embedded, noisy, render
from homotopy_deq.training import CHECKPOINT, load_checkpoint, save_checkpoint
from tests.test_cli import done, refused

SIGMA, N, IMAGES = 0.25, 64, 3
SOLVERS = ["picard", "newton-krylov", "rk4", "continuation"]
HOSTILE = '</script><img src=x onerror="document.title=1">&<!--'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DEQ that contracts, so that every solver finds its equilibria; one epoch on 200 images."""
    folder = tmp_path_factory.mktemp("runs") / "deq"
    flags = ["--limit", 200, "--hidden", 4, "--head", 8, "--contraction", 0.9, "--epochs", 1]
    done("train", "--model", "deq", "--out", folder, *flags, "--noise", SIGMA, "--cpu")
    return folder


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    """Its page."""
    flags = [word for name in SOLVERS for word in ("--solver", name)]
    flags += ["--images", IMAGES, "--n", N, "--policy", "converged"]
    told = done("show", run, *flags, "--cpu")
    assert "page.html" in told
    return run / "page.html"


@pytest.fixture(scope="module")
def data(file: Path) -> dict[str, Any]:
    return embedded(file.read_text())


def picture(**changes: Any) -> Any:
    """Describe a random image under no solver."""
    return replace(describe({}, torch.rand(1, 4, 4), 0, 0), **changes)


def page(classes: tuple[str, ...], *pictures: Any, **told: str) -> Page:
    return Page("runs/x", "deq", "digits", classes, "anderson", 0.5, "0", told, pictures)


def test_what_the_page_says_of_solvers_is_what_solves_give(run: Path, data: dict[str, Any]) -> None:
    trained, images = Trained.of(run), load("digits", limit=200)
    for shown in data["pictures"]:
        pixels = images.test_images[shown["index"], None].float() / 255
        assert shown["label"] == int(images.test_labels[shown["index"]])
        assert [way["solver"] for way in shown["ways"]] == SOLVERS
        for way in shown["ways"]:
            model = pass_of(trained.settings, way["solver"]).put(trained.model)
            with torch.no_grad():
                output = model.solve(pixels)
                found = float(model.residual(output)[0])
            solved = output.solution
            assert way["evaluations"] == way["evals"][-1] == int(solved.evals[0])
            assert way["prediction"] == int(output.logits.argmax())
            assert way["succeeded"] == bool(solved.converged[0])
            # 1e-5: six digits are written. Of a residual near the tolerance single precision has
            # fewer digits: 6e-8 of an entry, of a difference that is 1e-4 of it.
            assert way["residual"] == pytest.approx(found, rel=2e-3)
            assert len(way["points"]) == len(way["evals"]) == len(way["residuals"])


def test_solvers_end_at_the_equilibrium_and_the_branch_leads_there(data: dict[str, Any]) -> None:
    for shown in data["pictures"]:
        goal, start = shown["equilibrium"]["point"], shown["ways"][0]["points"][0]
        reach = sum((a - b) ** 2 for a, b in zip(goal, start, strict=True)) ** 0.5
        ends = [way["points"][-1] for way in shown["ways"] if way["solver"] != "rk4"]
        branch = shown["branch"]
        assert branch["status"] == "CONVERGED" and branch["lam"][0] == 0 and branch["lam"][-1] == 1
        for end in [*ends, branch["points"][-1]]:
            assert sum((a - b) ** 2 for a, b in zip(end, goal, strict=True)) ** 0.5 < 0.01 * reach
        assert shown["equilibrium"]["residual"] <= 1e-4
        assert [way["lam"][-1:] for way in shown["ways"]] == [[], [], [], [1]]


def test_votes_and_radius_are_those_of_certify(run: Path, file: Path, data: dict[str, Any]) -> None:
    out = run / "certified"
    flags = ["--n", N, "--limit", IMAGES, "--policy", "converged", "--cpu"]
    done("certify", run, "--out", out, *flags)
    rows = map(json.loads, (out / "certificates.jsonl").read_text().splitlines())
    right = {row["index"]: row for row in rows}
    for shown in data["pictures"]:
        (found,), row = shown["certificates"], right[shown["index"]]
        votes = found["votes"]
        assert (votes["sigma"], votes["n"], found["alpha"]) == (SIGMA, N, 1e-3)
        assert found["radius"] == row["radius"] and votes["selected"] == row["selected"]
        assert (ABSTAIN if found["prediction"] is None else found["prediction"]) == row[
            "prediction"
        ]
        assert votes["counts"][votes["selected"]] == row["votes"]
        assert sum(votes["counts"]) + votes["undecided"] == N


def test_the_page_asks_no_network_for_anything(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, which nobody loads
    assert not re.search(r"https?:|//[a-z0-9]+\.|@import|url\((?!#)|fetch\(|XMLHttp|import\(", text)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "default-src 'none'" in text


def test_text_of_the_data_is_never_read_as_html() -> None:
    text = render(page((HOSTILE, "{{SCRIPT}}"), picture(), paths=HOSTILE))
    assert HOSTILE not in text and text.count("</script>") == render(page(("a",))).count(
        "</script>"
    )
    assert embedded(text)["classes"] == [HOSTILE, "{{SCRIPT}}"]
    named = render(replace(page(("a",)), dataset=HOSTILE))
    assert HOSTILE not in named and "&lt;/script&gt;" in named


def test_a_model_without_an_equilibrium_or_a_certificate_says_so(tmp_path: Path) -> None:
    flags = ["--limit", 100, "--hidden", 4, "--head", 8, "--epochs", 1, "--solver", "euler"]
    done("train", "--no-rest-point", "--out", tmp_path / "flow", *flags, "--cpu")
    done("show", tmp_path / "flow", "--images", 1, "--n", 64, "--policy", "verified", "--cpu")
    data = embedded((tmp_path / "flow" / "page.html").read_text())
    assert "no equilibrium" in data["told"]["residuals"]
    assert "finds equilibria" in data["told"]["certificates"] and "0.25" in data["told"]["noise"]
    (shown,) = data["pictures"]
    assert shown["branch"] is None and shown["equilibrium"] is None and not shown["certificates"]
    assert [way["solver"] for way in shown["ways"]] == ["dopri5", "rk4", "euler"]


def test_a_stack_has_no_path_and_shows_what_is_proved_without_noise(tmp_path: Path) -> None:
    flags = ["--kernel", 0, "--features", 8, "--limit", 200, "--epochs", 1]
    done("train", "--model", "sll", "--out", tmp_path, *flags, "--cpu")
    done("show", tmp_path, "--images", 1, "--n", 16, "--cpu")
    done("certify", tmp_path, "--method", "lipschitz", "--limit", 1, "--cpu")
    data = embedded((tmp_path / "page.html").read_text())
    assert "no one path" in data["told"]["paths"] and data["pictures"][0]["ways"] == []
    proved, *_ = data["pictures"][0]["certificates"]
    (right,) = (tmp_path / "certify-lipschitz" / "certificates.jsonl").read_text().splitlines()
    assert proved["radius"] == pytest.approx(json.loads(right)["radius"], rel=1e-9)
    assert proved["alpha"] is None and proved["votes"] is None


class Half(torch.nn.Module):
    """Two classes, each as probable under noise about an image of pixels 1/2."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        above = (images - 0.5).flatten(1).sum(1)
        return torch.stack((above, -above), 1)


def test_an_abstention_claims_nothing() -> None:
    smoother = Smoother(Half().eval(), Converged(), Smoothing(SIGMA, n=N))
    found = noisy(smoother, torch.full((1, 8, 8), 0.5), 0, 0)
    assert (found.prediction, found.radius) == (None, 0.0)
    assert found.votes is not None and sum(found.votes.counts) == N


def test_what_cannot_be_shown_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    assert "There is no checkpoint" in refused("show", tmp_path / "none")
    assert "is a folder" in refused("show", run, "--out", tmp_path)
    (tmp_path / "file").touch()
    assert "is a file" in refused("show", run, "--out", tmp_path / "file" / "page.html")
    assert "wishful" in refused("show", run, "--policy", "wishful", "--cpu")
    assert "would abstain" in refused("show", run, "--n", 2, "--cpu")
    stored = load_checkpoint(run / CHECKPOINT)
    about = stored.meta["about"]
    spec = {**about["spec"], "of_a_later_version": 1}
    later = replace(stored, meta={**stored.meta, "about": {**about, "spec": spec}})
    save_checkpoint(tmp_path / "later" / CHECKPOINT, later)
    assert "does not know" in refused("show", tmp_path / "later")


def dom(file: Path, tail: str, folder: Path) -> str:
    """Return the page as a browser has it once its script has run, or skip without a browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += [f"--user-data-dir={folder}", "--virtual-time-budget=2000", "--dump-dom"]
    words = [CHROMIUM, *flags, f"file://{file}{tail}"]
    made = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_a_browser_draws_the_image_that_is_asked_for(
    file: Path, data: dict[str, Any], tmp_path: Path
) -> None:
    text = dom(file, "#image=3&hide=picard", tmp_path)
    shown = data["pictures"][2]
    assert f"Image 3 of 3: number {shown['index']} of the test set" in text
    assert text.count("<svg") == 3 + len(SOLVERS)  # and a line beside each solver's name
    drawn = [text.count(f'class="way c{k}"') for k in range(len(SOLVERS))]
    (certificate,) = shown["certificates"]
    told = f"{certificate['radius']:.4f}" if certificate["radius"] else "Abstains"
    assert told in text and drawn == [1, 3, 3, 3]  # beside its name, and in two plots


def test_arrow_keys_go_to_the_next_image_and_labels_stay_text(tmp_path: Path) -> None:
    certificate = Certificate(None, 0.0, "l2", 1e-3, "a classifier", None)
    some = [picture(label=0, certificates=(certificate,)), picture(label=1), picture(label=0)]
    text = render(page((HOSTILE, "second"), *some, paths=HOSTILE))
    # The page's own policy would refuse another script.
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    key = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})"
    keys = f"<script>for (let k = 0; k < 4; k++) document.body.dispatchEvent({key});</script>"
    (tmp_path / "keys.html").write_text(free.replace("</body>", f"{keys}</body>"))
    found = dom(tmp_path / "keys.html", "#image=1", tmp_path / "profile")
    assert "Image 2 of 3" in found and "class second." in found  # 1 and four on, of three
    assert '<img src="x"' not in found and "&lt;/script&gt;&lt;img" in found
    (tmp_path / "plain.html").write_text(text)
    plain = dom(tmp_path / "plain.html", "#image=1", tmp_path / "other")
    assert "Abstains" in plain and "<title>deq on digits</title>" in plain
