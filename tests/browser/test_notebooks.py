"""Every tutorial in a real JupyterLab: Run All, figures drawn, no other host, solutions checked."""

import pytest
from browsing import ROOT
from lab import Notebook

TUTORIALS = sorted(p.name for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def outcome(notebook: Notebook) -> dict:
    "What is seen of a notebook that has run."
    cells = notebook.cells()
    outputs = [(c["source"], o) for c in cells for o in c["outputs"]]
    kinds = [o.get("data", {}) for _, o in outputs]

    def verdicts(mark: str) -> list:
        found = [o.get("data", {}) for source, o in outputs if source.startswith(mark)]
        return ["".join(data.get("text/plain", "")) for data in found]

    figures, bare = notebook.figures()
    return dict(
        errors=notebook.errors(),
        solved=verdicts("# solved"),
        failed=verdicts("# failed"),
        foreign=list(notebook.watched.foreign),
        stored=sum(any(k.startswith("application/vnd.plotly") for k in data) for data in kinds),
        figures=figures,
        bare=bare,
        unfinished=[c["source"][:60] for c in cells if c["source"].strip() and c["count"] is None],
    )


@pytest.fixture(scope="module")
def runs(chromium, lab):
    "The outcome of each tutorial, two at a time, one for each core."
    waiting, active, done = list(TUTORIALS), {}, {}
    while waiting or active:
        while waiting and len(active) < 2:
            notebook = Notebook(chromium, lab, f"tutorials/{waiting.pop(0)}")
            notebook.run_all()
            active[notebook] = 0
        for notebook in list(active):
            notebook.page.wait_for_timeout(400)
            active[notebook] += 1
            if not notebook.busy() or active[notebook] > 400:
                done[notebook.name.split("/")[-1]] = outcome(notebook)
                notebook.close()
                del active[notebook]
    return done


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs_in_jupyterlab(runs, name):
    run = runs[name]
    assert not run["errors"]
    assert not run["unfinished"]
    assert not run["foreign"], "a request left the machine"


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_draws_its_figures(runs, name):
    run = runs[name]
    assert run["stored"] > 0
    assert run["figures"] >= run["stored"]
    assert not run["bare"]


@pytest.mark.parametrize("name", TUTORIALS)
def test_solutions_pass_their_checks_and_wrong_answers_do_not(runs, name):
    solved, failed = runs[name]["solved"], runs[name]["failed"]
    assert len(solved) == len(failed) >= 7
    assert [v for v in solved if not v.startswith("Right")] == []
    assert [v for v in failed if not v.startswith("Not yet")] == []
