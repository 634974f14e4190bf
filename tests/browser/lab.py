"""A real JupyterLab on the loopback address, and a notebook in it, driven as a person would: menus, clicks, drags. Nothing is written into the repository."""

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


class Lab:
    "A JupyterLab server over a folder, with settings of its own."

    def __init__(self, folder: Path, settings: Path):
        self.folder, port = folder, free_port()
        for name, value in {
            "notebook-extension/tracker": dict(windowingMode="none"),
            "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
        }.items():
            path = settings / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        env = dict(
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
            env=env,
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.address = f"http://{LOOPBACK}:{port}"
        for _ in range(240):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.address}/api/status", timeout=5).read()
                return
            except OSError:
                time.sleep(0.25)
        self.stop()
        raise AssertionError(
            f"JupyterLab did not start:\n{(settings / 'jupyter.log').read_text()[-3000:]}"
        )

    def stop(self):
        "Kernels first, so that none outlives the server."
        try:
            for kernel in json.load(
                urllib.request.urlopen(f"{self.address}/api/kernels", timeout=5)
            ):
                urllib.request.urlopen(
                    urllib.request.Request(
                        f"{self.address}/api/kernels/{kernel['id']}", method="DELETE"
                    ),
                    timeout=20,
                )
        except OSError:
            pass
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


CELLS = """() => jupyterapp.shell.currentWidget.content.widgets.filter((w) => w.model.type === 'code').map((w) => ({
    source: w.model.sharedModel.getSource(), state: w.model.executionState || '', count: w.model.executionCount,
    outputs: w.model.outputs.toJSON() }))"""


class Notebook:
    "One notebook in a browser tab."

    def __init__(self, browser, lab: Lab, name: str):
        self.watched = Watched(browser, 1400, 1000)
        self.page, self.name = self.watched.page, name
        self.page.goto(f"{lab.address}/lab/tree/{name}?reset", wait_until="load")
        self.page.wait_for_function(
            "() => window.jupyterapp && jupyterapp.shell.currentWidget && jupyterapp.shell.currentWidget.sessionContext && jupyterapp.shell.currentWidget.content.widgets.length",
            timeout=90_000,
        )
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.ready")
        self.page.evaluate(
            "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.info"
        )

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
        cells = [c for c in self.cells() if c["source"].strip()]
        return not any(o["output_type"] == "error" for c in cells for o in c["outputs"]) and any(
            c["count"] is None or c["state"] == "running" for c in cells
        )

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
        return self.page.evaluate(
            """async ([code, seconds]) => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel, out = [];
            const future = kernel.requestExecute({ code, store_history: false });
            future.onIOPub = (m) => { if (m.content.text) out.push(m.content.text); if (m.content.ename) out.push(m.content.ename + ': ' + m.content.evalue + '\\n' + m.content.traceback.join('\\n')); };
            await Promise.race([future.done, new Promise((_, no) => setTimeout(() => no(new Error('the kernel did not answer')), 1000 * seconds))]);
            return out.join('');
        }""",
            [code, seconds],
        )

    def figures(self) -> tuple:
        "Number of plotly figures on the page, and of those without a drawing; each is scrolled into view."
        return tuple(
            self.page.evaluate("""async () => {
            const all = [...document.querySelectorAll('.jp-OutputArea .js-plotly-plot')]; let bare = 0;
            for (const f of all) { f.scrollIntoView({ block: 'center' }); let ok = false;
                for (let k = 0; k < 100 && !(ok = !!f.querySelector('.main-svg')); k++) await new Promise((done) => setTimeout(done, 50));
                bare += !ok; }
            return [all.length, bare]; }""")
        )

    def close(self):
        "Shut the kernel down and close the tab."
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()


def with_solutions(path: Path, out: Path) -> int:
    "A copy of a tutorial in which each solution is executed, and its check made again, after the exercise; their number."
    nb, cells, check, count = json.loads(path.read_text(encoding="utf-8")), [], None, 0
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        cells.append(
            dict(cell, outputs=[], execution_count=None) if cell["cell_type"] == "code" else cell
        )
        if cell["cell_type"] == "code" and re.search(r"^check\(", source, flags=re.M):
            check = source
        if cell["cell_type"] == "markdown" and source.startswith("<details>"):
            code = re.search(r"^```python\n(.*?)^```", source, flags=re.M | re.S)[1]
            for part in (code, f"# solved\n{check}"):
                cells.append(
                    dict(
                        cell_type="code",
                        id=f"solution-{len(cells)}",
                        metadata={},
                        source=part,
                        outputs=[],
                        execution_count=None,
                    )
                )
            count += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dict(nb, cells=cells)), encoding="utf-8")
    return count


def working_copy(folder: Path) -> Path:
    "The notebooks, tutorials with their solutions among them, where a test may write."
    for path in sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb")):
        with_solutions(path, folder / "tutorials" / path.name)
    for name in ("images",):
        if (ROOT / "nbs" / name).is_dir():
            shutil.copytree(ROOT / "nbs" / name, folder / name)
    return folder
