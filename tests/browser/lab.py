"""A real JupyterLab on the loopback address and a notebook in it, driven by menus, clicks, drags.

Nothing is written into the repository.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from browsing import LOOPBACK, ROOT, Watched


def free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return s.getsockname()[1]


#: Settings of the lab: all cells are in the page, and no news are fetched.
SETTINGS = {
    "notebook-extension/tracker": dict(windowingMode="none"),
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
}


def surroundings(settings: Path) -> dict:
    "Environment of a lab that reads and writes nothing of the person who runs the tests."
    return dict(
        os.environ,
        JUPYTER_CONFIG_DIR=str(settings / "config"),
        JUPYTER_DATA_DIR=str(settings / "data"),
        JUPYTER_RUNTIME_DIR=str(settings / "runtime"),
        JUPYTERLAB_SETTINGS_DIR=str(settings / "lab"),
        JUPYTERLAB_WORKSPACES_DIR=str(settings / "workspaces"),
        IPYTHONDIR=str(settings / "ipython"),
        JUPYTER_PREFER_ENV_PATH="1",
        CRYOFORMER_TUTORIAL_SIZE="small",
        OMP_NUM_THREADS="1",
    )


class Lab:
    "A JupyterLab server over a folder, with settings of its own."

    def __init__(self, folder: Path, settings: Path):
        self.folder, port = folder, free_port()
        self.address = f"http://{LOOPBACK}:{port}"
        for name, value in SETTINGS.items():
            path = settings / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        options = [
            "--no-browser",
            f"--ServerApp.ip={LOOPBACK}",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            "--ServerApp.allow_root=True",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.collaborative=False",
            "--LabApp.extension_manager=readonly",
            "--ServerApp.disable_check_xsrf=True",
        ]
        self.log = open(settings / "jupyter.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=surroundings(settings),
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        if not self.answers():
            self.stop()
            said = (settings / "jupyter.log").read_text()[-3000:]
            raise AssertionError(f"JupyterLab did not start:\n{said}")

    def answers(self, seconds: float = 60.0) -> bool:
        "Whether it answers before the time is over."
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("status")
                return True
            except OSError:
                time.sleep(0.25)
        return False

    def ask(self, what: str, method: str = "GET") -> bytes:
        "Call its interface."
        request = urllib.request.Request(f"{self.address}/api/{what}", method=method)
        return urllib.request.urlopen(request, timeout=20).read()

    def stop(self):
        "Kernels first, so that none outlives the server."
        try:
            for kernel in json.loads(self.ask("kernels")):
                self.ask(f"kernels/{kernel['id']}", "DELETE")
        except OSError:
            pass
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


CELLS = """() => {
    const cells = jupyterapp.shell.currentWidget.content.widgets;
    return cells.filter((w) => w.model.type === 'code').map((w) => ({
        source: w.model.sharedModel.getSource(),
        state: w.model.executionState || '',
        count: w.model.executionCount,
        outputs: w.model.outputs.toJSON(),
    }));
}"""
READY = """() => {
    const shown = window.jupyterapp && jupyterapp.shell.currentWidget;
    return shown && shown.sessionContext && shown.content.widgets.length;
}"""
EXECUTE = """async ([code, seconds]) => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel, out = [];
    const future = kernel.requestExecute({ code, store_history: false });
    future.onIOPub = ({ content }) => {
        if (content.text) out.push(content.text);
        if (content.ename) out.push(content.ename + ': ' + content.evalue);
        if (content.traceback) out.push(content.traceback.join('\\n'));
    };
    const late = (_, no) => setTimeout(() => no(new Error('no answer')), 1000 * seconds);
    await Promise.race([future.done, new Promise(late)]);
    return out.join('');
}"""
FIGURES = """async () => {
    const all = [...document.querySelectorAll('.jp-OutputArea .js-plotly-plot')];
    const soon = () => new Promise((done) => setTimeout(done, 50));
    let bare = 0;
    for (const figure of all) {
        figure.scrollIntoView({ block: 'center' });
        let ok = false;
        for (let k = 0; k < 100 && !ok; k++) {
            ok = !!figure.querySelector('.main-svg');
            if (!ok) await soon();
        }
        bare += !ok;
    }
    return [all.length, bare];
}"""


class Notebook:
    "One notebook in a browser tab."

    def __init__(self, browser, lab: Lab, name: str):
        self.watched = Watched(browser, 1400, 1000)
        self.page, self.name, self.lab = self.watched.page, name, lab
        self.page.goto(f"{lab.address}/lab/tree/{name}?reset", wait_until="load")
        self.page.wait_for_function(READY, timeout=90_000)
        session = "jupyterapp.shell.currentWidget.sessionContext"
        self.page.evaluate(f"() => {session}.ready")
        self.page.evaluate(f"() => {session}.session.kernel.info")

    def menu(self, *labels: str):
        "Click through a menu of the menu bar."
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{labels[0]}')")
        for label in labels[1:]:
            self.page.click(f".lm-Menu-itemLabel:text-is('{label}')")

    def run_all(self):
        self.menu("Run", "Run All Cells")

    def cells(self) -> list:
        return self.page.evaluate(CELLS)

    def busy(self) -> bool:
        "Whether a cell is still to run; a cell that failed stops the rest."
        if self.errors():
            return False
        cells = [c for c in self.cells() if c["source"].strip()]
        return any(c["count"] is None or c["state"] == "running" for c in cells)

    def wait(self, seconds: float = 240):
        end = time.monotonic() + seconds
        while self.busy():
            assert time.monotonic() < end, f"{self.name} still runs after {seconds:.0f} s"
            self.page.wait_for_timeout(500)

    def errors(self) -> list:
        return [
            f"{c['source'][:80]!r}: {o['ename']}: {o['evalue']}"
            for c in self.cells()
            for o in c["outputs"]
            if o["output_type"] == "error"
        ]

    def run(self, code: str, seconds: float = 60) -> str:
        "What the kernel prints for `code`, sent beside the notebook."
        return self.page.evaluate(EXECUTE, [code, seconds])

    def figures(self) -> tuple:
        "Numbers of plotly figures and of those without a drawing; each is scrolled into view."
        return tuple(self.page.evaluate(FIGURES))

    def close(self):
        "Close the tab, then its kernel, if any: the page may show a dialog and know of none."
        self.page.close()
        for session in json.loads(self.lab.ask("sessions")):
            if session["path"] == self.name:
                self.lab.ask(f"sessions/{session['id']}", "DELETE")


def code_cell(source: str, name: str) -> dict:
    "A cell that has not run."
    empty = dict(metadata={}, outputs=[], execution_count=None)
    return dict(cell_type="code", id=name, source=source, **empty)


def with_solutions(path: Path, out: Path) -> None:
    "A copy of a tutorial in which each check is made with a wrong answer and with its solution."
    nb, cells, check = json.loads(path.read_text(encoding="utf-8")), [], None
    name = None  # of the answer
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell = dict(cell, outputs=[], execution_count=None)
            name = (re.findall(r"^(\w+) = \.\.\.", source, flags=re.M) or [None])[-1] or name
            if re.search(r"^check\(", source, flags=re.M):
                check = source
        cells.append(cell)
        if cell["cell_type"] == "markdown" and source.startswith("<details>"):
            solution = re.search(r"^```python\n(.*?)^```", source, flags=re.M | re.S)[1]
            failed = f"# failed\n{name} = 'a wrong answer'\n{check}"
            cells.append(code_cell(failed, f"failed-{len(cells)}"))
            cells.append(code_cell(solution, f"solution-{len(cells)}"))
            cells.append(code_cell(f"# solved\n{check}", f"solution-{len(cells)}"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dict(nb, cells=cells)), encoding="utf-8")


def working_copy(folder: Path) -> Path:
    "The notebooks, tutorials with their solutions among them, where a test may write."
    for path in sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb")):
        with_solutions(path, folder / "tutorials" / path.name)
    shutil.copytree(ROOT / "nbs" / "images", folder / "images")
    return folder
