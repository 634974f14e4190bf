"""What a person sees of an `InputError`."""

import pytest

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell

from cryoformer_nb.show import molecule


def test_a_notebook_shows_one_line(capsys, monkeypatch):
    "No traceback for what the user can put right; all of it for a mistake of ours."
    monkeypatch.setattr(molecule, "copy_of_3dmol", lambda: None)
    shell = InteractiveShell()
    shell.run_cell("from cryoformer_nb.show.molecule import script\nscript(None)")
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("InputError: 3Dmol.js: expected a copy")
    shell.run_cell("1 / 0")
    assert "Traceback" in capsys.readouterr().out
