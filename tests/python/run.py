"""Runs pytest on the tests of this folder with the package of a build, or says what is missing and ends with 77.
Usage: run.py FOLDER_OF_THE_PACKAGE TESTS [arguments of pytest]"""
import importlib.util
import os
import sys

missing = [name for name in ("numpy", "pytest") if importlib.util.find_spec(name) is None]
if missing:
    print(f"skipped: {sys.executable} has no {', '.join(missing)}; tools/install_python_env.sh installs what these tests need")
    sys.exit(77)
package, tests = sys.argv[1:3]
environment = {**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"}
arguments = ["-q", "-rs", "-p", "no:cacheprovider", "--show-capture=no", "--durations=5", *sys.argv[3:], tests]
os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments], environment)
