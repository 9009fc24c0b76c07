"""The newcomer's page runs as it stands, and its seconds are those that were measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from experiments.first_hour import Config, main, steps
from experiments.results import ROOT
from experiments.tables.__main__ import BEGIN, END
from experiments.tables.training import first_hour

PAGE = ROOT / "docs" / "first-hour.md"
TINY = f"""# A page

```sh
make demo                # installs
{sys.executable} -c "open('left', 'w').write('42')"   # what a command leaves is there for a block
```

## Then

```python
from dataclasses import dataclass
from pathlib import Path

import torch

@dataclass
class Read:
    text: str

read = Read(Path("left").read_text())
assert torch.initial_seed() == 0  # the seed that the result is written with
```

```text
not run
```

## At last

```python
assert read == Read("42")
```

```sh
homotopy-deq info        # our own program need not be installed
torchrun train.py        # the script of another page is there
```
"""


def test_a_page_runs_in_its_order_and_its_seconds_make_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.tables.markdown.RESULTS", tmp_path)
    assert first_hour() == ""
    (page := tmp_path / "page.md").write_text(TINY)
    (script := tmp_path / "script.md").write_text(
        "```python\nimport torch.distributed as dist\n\ndist.init_process_group('gloo')\n```\n"
    )
    torch.manual_seed(1)
    main(Config(page, script), tmp_path)
    rows = json.loads((tmp_path / "first_hour.json").read_text())["result"]["steps"]
    assert [row["under"] for row in rows] == ["", "Then", "At last", "At last", "At last"]
    said = ["the block of Python"] * 2 + ["homotopy-deq info", "torchrun train.py"]
    assert [row["what"] for row in rows[1:]] == said
    assert all(row["seconds"] >= 0.01 for row in rows if "Python" not in row["what"])  # a process
    assert "| At last | `homotopy-deq info` | " in first_hour()


@pytest.mark.parametrize(
    ("step", "ends"),
    [
        ("```sh\nhomotopy-deq evaluate no-such-run\n```\n", SystemExit),
        ("```python\nassert 1 == 2\n```\n", AssertionError),
    ],
)
def test_a_step_that_fails_ends_it_and_nothing_is_written(
    step: str, ends: type[BaseException], tmp_path: Path
) -> None:
    here = Path.cwd()
    (page := tmp_path / "page.md").write_text(step)
    with pytest.raises(ends):
        main(Config(page), tmp_path / "results")
    assert not (tmp_path / "results").exists() and Path.cwd() == here


def test_the_page_of_the_first_hour_has_its_steps_and_no_seconds_of_its_own() -> None:
    found = list(steps(PAGE.read_text()))
    commands = [step.code.split()[:2] for step in found if step.language == "sh"]
    assert len(found) - len(commands) >= 3
    assert {program for program, _ in commands} == {"homotopy-deq", "torchrun"}
    assert {"train", "evaluate", "show", "certify"} <= {name for _, name in commands}
    head, _, rest = PAGE.read_text().partition(BEGIN)
    assert re.findall(r"\b\d+ s\b", head + rest.partition(END)[2]) == []
