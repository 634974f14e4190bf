"""Every tutorial in a real JupyterLab: Run All, no error, figures drawn, no request to another host, and the solutions pass their checks."""

import pytest
from browsing import ROOT
from lab import Notebook

TUTORIALS = sorted(p.name for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def outcome(notebook: Notebook) -> dict:
    cells = notebook.cells()
    plain = [
        "".join(o.get("data", {}).get("text/plain", ""))
        for c in cells
        if c["source"].startswith("# solved")
        for o in c["outputs"]
    ]
    drawn = sum(
        any(m.startswith("application/vnd.plotly") for m in o.get("data", {}))
        for c in cells
        for o in c["outputs"]
    )
    figures, bare = notebook.figures()
    return dict(
        errors=notebook.errors(),
        verdicts=plain,
        foreign=list(notebook.watched.foreign),
        stored=drawn,
        figures=figures,
        bare=bare,
        unfinished=[c["source"][:60] for c in cells if c["source"].strip() and c["count"] is None],
    )


@pytest.fixture(scope="module")
def runs(chromium, lab):
    "The outcome of each tutorial, two at a time, one for each core."
    waiting, active, done = list(TUTORIALS), [], {}
    while waiting or active:
        while waiting and len(active) < 2:
            notebook = Notebook(chromium, lab, f"tutorials/{waiting.pop(0)}")
            notebook.run_all()
            active.append([notebook, 0])
        for item in list(active):
            item[1] += 1
            item[0].page.wait_for_timeout(400)
            if not item[0].busy() or item[1] > 400:
                notebook = item[0]
                done[notebook.name.split("/")[-1]] = outcome(notebook)
                notebook.close()
                active.remove(item)
    return done


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs_in_jupyterlab(runs, name):
    run = runs[name]
    assert not run["errors"] and not run["unfinished"], run
    assert not run["foreign"], "a request left the machine"
    assert run["stored"] > 0 and run["figures"] >= run["stored"] and not run["bare"], run


@pytest.mark.parametrize("name", TUTORIALS)
def test_solutions_pass_their_checks(runs, name):
    verdicts = runs[name]["verdicts"]
    assert len(verdicts) >= 3 and all(v.startswith("Right") for v in verdicts), verdicts
