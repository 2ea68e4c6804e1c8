"""Examples and the blocks of docs/python.md run as they stand."""
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def run(*command, **options):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_look(tmp_path):
    picture = tmp_path / "errors.png"
    told = run(os.path.join(ROOT, "examples", "python", "first_look.py"), "--tokens", "64", "--plot", str(picture))
    assert "mma.sync" in told and "out-of-bounds in line 12: ld.global.u32" in told
    assert len(re.findall(r"relative L1 +0\.\d+", told)) >= 4
    assert picture.exists() or "no matplotlib" in told


def test_blocks_of_the_page():
    """One after the other, in one program, where the package and PyTorch are there."""
    with open(os.path.join(ROOT, "docs", "python.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```python\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    pytest.importorskip("torch", reason="the page has PyTorch")
    import sagegen
    if not sagegen.info().generator:
        pytest.skip("the page emits")
    run("-c", "\n".join(blocks))
