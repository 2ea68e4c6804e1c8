#!/usr/bin/env python3
"""Configures the project with CMAKE_UNITY_BUILD=ON and looks for joined files: unity_build_test.py CMAKE SOURCE BUILD COMPILER"""
import os
import shutil
import subprocess
import sys

cmake, source, build, compiler = sys.argv[1:]
shutil.rmtree(build, ignore_errors=True)
done = subprocess.run(
    [cmake, "-S", source, "-B", build, "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_CXX_COMPILER=" + compiler],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if done.returncode != 0:
    sys.exit(f"configuring with CMAKE_UNITY_BUILD=ON fails:\n{done.stdout}")
joined = []
for folder, _, names in os.walk(build):
    for path in (os.path.join(folder, name) for name in names if name.startswith("unity_")):
        with open(path, encoding="utf-8") as text:
            if text.read().count("#include") > 1:
                joined.append(path)
shutil.rmtree(build)
if joined:
    sys.exit("files are joined, so anonymous namespaces clash; give the target sagegen_compile_options() "
             "or UNITY_BUILD OFF:\n  " + "\n  ".join(sorted(joined)))
