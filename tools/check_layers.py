#!/usr/bin/env python3
"""Checks the layering: which directory may include what (LAYERS below is the rule book).

Reads every .h and .cpp of the tree and reports, as file:line, each include that its layer may not have,
each include that names no file of the project, each public or template-visible header that reaches LLVM
through others, and each cycle of includes.

    tools/check_layers.py [ROOT]        check a tree (default: the one this script lies in)
    tools/check_layers.py --self-test   check that the checker finds planted breaches

Exit code: 0 clean, 1 findings.
"""
import argparse
import os
import re
import sys
import tempfile
from dataclasses import dataclass, field

THIRD_PARTY = ("llvm", "llvm-c", "fmt", "toml++", "nlohmann", "yaml-cpp", "CLI", "catch2", "nanobind")
PUBLIC = "generator/include/sagegen/"


@dataclass(frozen=True)
class Layer:
    name: str
    paths: tuple          # files (or directories, with a final /) that belong to it; the longest match wins
    layers: tuple = ()    # layers it may include besides itself
    libraries: tuple = ()  # third-party libraries it may include
    never_reaches: tuple = ()  # libraries or layers that must not be reached through any chain of includes


LAYERS = (
    Layer("error", ("generator/include/sagegen/error.h",)),
    Layer("vocabulary", tuple(PUBLIC + name for name in (
        "artifact.h", "family.h", "fields.h", "kernel.h", "params.h", "set.h", "target.h", "types.h"))
          + ("generator/vocabulary/",),
          layers=("error",), libraries=("fmt", "toml++"), never_reaches=("llvm",)),
    Layer("line info", ("generator/include/sagegen/line_info.h",), never_reaches=("llvm",)),
    Layer("emit interface", ("generator/include/sagegen/emit.h",),
          layers=("error", "vocabulary", "line info"), never_reaches=("llvm",)),
    Layer("dsl", ("generator/include/sagegen/dsl/",), layers=("error", "vocabulary", "line info"),
          never_reaches=("llvm",)),
    Layer("dsl implementation", ("generator/dsl/",), layers=("error", "vocabulary", "line info", "dsl"),
          libraries=("fmt", "llvm")),
    Layer("codegen", ("generator/codegen/",),
          layers=("error", "vocabulary", "line info", "dsl", "dsl implementation"), libraries=("fmt", "llvm")),
    # The rooms: the name of a file says what it may see.
    Layer("families", ("templates/*/spec.h", "templates/*/params.h", "templates/*/family.cpp",
                       "templates/*/describe.h", "templates/*/describe.cpp",
                       "templates/*/mods/*.h", "templates/*/mods/*.def",
                       "templates/shared/quantization.h", "templates/shared/quantization.cpp",
                       "templates/shared/kv_format.h", "templates/shared/kv_format.cpp",
                       "templates/builtin_families.cpp", "templates/rooms.def"),
          layers=("error", "vocabulary"), libraries=("fmt",), never_reaches=("llvm", "dsl")),
    Layer("templates", ("templates/",),
          layers=("error", "vocabulary", "dsl", "emit interface", "line info", "families"),
          libraries=("fmt",), never_reaches=("llvm",)),
    Layer("plans", ("templates/*/plan.h", "templates/*/plan.cpp", "templates/*/plan_*.h",
                    "templates/*/plan_*.cpp", "templates/include/"),
          layers=("error", "vocabulary", "families", "driver seam", "runtime headers"),
          libraries=("fmt",), never_reaches=("llvm", "dsl")),
    Layer("emit", ("generator/emit/",),
          layers=("error", "vocabulary", "emit interface", "line info", "dsl", "codegen"),
          libraries=("fmt",)),
    Layer("driver seam", ("runtime/include/sagegen/runtime/driver_api.h",
                          "runtime/include/sagegen/runtime/emulator.h",
                          "runtime/include/sagegen/runtime/error.h"),
          layers=("error",), never_reaches=("vocabulary", "llvm")),
    Layer("emulator", ("runtime/emulator/",), layers=("error", "driver seam"), libraries=("fmt",),
          never_reaches=("vocabulary", "llvm")),
    Layer("runtime", ("runtime/",), layers=("error", "vocabulary", "driver seam"),
          libraries=("fmt", "nlohmann"), never_reaches=("llvm", "dsl", "codegen")),
    Layer("C API", ("runtime/capi/",),
          layers=("error", "vocabulary", "families", "plans", "driver seam", "runtime", "runtime headers"),
          libraries=("fmt",), never_reaches=("llvm", "dsl", "codegen")),
    Layer("Python module", ("runtime/python/",),
          layers=("error", "vocabulary", "families", "plans", "driver seam", "runtime", "runtime headers", "emit interface",
                  "line info"),
          libraries=("fmt", "nanobind"), never_reaches=("llvm", "dsl", "codegen")),
    Layer("reference", ("tools/reference/",), libraries=("fmt", "nlohmann")),
    Layer("KV maps", ("tools/kv/",), layers=("error", "vocabulary", "families", "reference"),
          libraries=("fmt", "nlohmann", "yaml-cpp"), never_reaches=("llvm", "dsl")),
    Layer("model", ("tools/model/",), never_reaches=("llvm", "vocabulary")),
    # Builds parts of templates into kernels that say what they see.
    Layer("pictures", ("tools/pictures/",),
          layers=("error", "vocabulary", "emit interface", "dsl", "families", "templates", "driver seam",
                  "runtime headers", "model"),
          libraries=("fmt",), never_reaches=("llvm",)),
    Layer("KV planner", ("tools/kv/planner/",),
          layers=("error", "vocabulary", "families", "reference", "KV maps", "pictures"),
          libraries=("fmt", "nlohmann"), never_reaches=("llvm", "dsl")),
    Layer("tools", ("tools/",),
          layers=("error", "vocabulary", "emit interface", "line info", "families", "plans", "driver seam",
                  "runtime headers", "reference", "model", "pictures", "KV maps", "KV planner"),
          libraries=("fmt", "nlohmann", "CLI"), never_reaches=("llvm",)),
    Layer("runtime headers", ("runtime/include/",), layers=("error", "vocabulary", "driver seam"),
          never_reaches=("llvm",)),
)
# The runtime's own sources see its public headers.
EXTRA = {"runtime": ("runtime headers",)}
ROOTS = ("generator", "templates", "runtime", "tools")
INCLUDE_PATHS = ("", "generator/include/", "runtime/include/", "templates/include/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


@dataclass
class Tree:
    root: str
    includes: dict = field(default_factory=dict)   # file -> [(line, "<" or '"', text)]

    def read(self):
        for top in ROOTS:
            for directory, _, names in os.walk(os.path.join(self.root, top)):
                for name in names:
                    if name.endswith((".h", ".cpp", ".def")):
                        path = os.path.relpath(os.path.join(directory, name), self.root)
                        self.includes[path] = self.read_file(path)
        return self

    def read_file(self, path):
        found = []
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                match = INCLUDE.match(line)
                if match:
                    found.append((number, match.group(1), match.group(2)))
        return found

    def resolve(self, text):
        for prefix in INCLUDE_PATHS:
            if prefix + text in self.includes:
                return prefix + text
        return None


def layer_of(path):
    best, length = None, -1
    for layer in LAYERS:
        for pattern in layer.paths:
            if "*" in pattern:   # any one name
                size = len(pattern)
                hit = re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]+"), path) is not None
            elif pattern.endswith("/"):
                hit, size = path.startswith(pattern), len(pattern)
            else:
                hit, size = path == pattern, len(pattern) + 100
            if hit and size > length:
                best, length = layer, size
    return best


def library_of(text):
    head = text.split("/")[0]
    return head if head in THIRD_PARTY else None


def check_direct(tree):
    for path, includes in sorted(tree.includes.items()):
        layer = layer_of(path)
        allowed = (layer.name,) + layer.layers + EXTRA.get(layer.name, ())
        for line, kind, text in includes:
            library = library_of(text)
            if library is not None:
                if library.replace("llvm-c", "llvm") not in layer.libraries:
                    yield f"{path}:{line}: {layer.name} may not include {library} ({text})"
                continue
            target = tree.resolve(text)
            if target is None:
                if kind == '"':
                    yield (f"{path}:{line}: \"{text}\" names no file of the project; write paths from the "
                           "root, public headers as sagegen/...")
                continue
            other = layer_of(target)
            if other.name not in allowed:
                yield f"{path}:{line}: {layer.name} may not include {other.name} ({text})"


def check_reach(tree):
    """Forbidden libraries and layers behind chains of includes, with the chain."""
    for path in sorted(tree.includes):
        forbidden = layer_of(path).never_reaches
        if not forbidden:
            continue
        pending, seen = [(path, (path,))], {path}
        while pending:
            current, chain = pending.pop()
            for _, _, text in tree.includes[current]:
                library, target = library_of(text), tree.resolve(text)
                name = library or (target and layer_of(target).name)
                if name in forbidden and len(chain) > 1:
                    yield f"{path}:1: reaches {name} ({text}) through {' -> '.join(chain[1:])}"
                elif target and target not in seen:
                    seen.add(target)
                    pending.append((target, chain + (target,)))


def check_cycles(tree):
    """Cycles of files, and cycles of layers by the includes that are there."""
    files = {path: {t for _, _, text in includes if (t := tree.resolve(text))}
             for path, includes in tree.includes.items()}
    layers = {}
    for path, targets in files.items():
        own = layer_of(path).name
        layers.setdefault(own, set()).update(layer_of(t).name for t in targets)
        layers[own].discard(own)
    for what, graph in (("files", files), ("layers", layers)):
        cycle = find_cycle(graph)
        if cycle:
            yield f"{cycle[0]}:1: cycle of {what}: {' -> '.join(cycle)}"


def find_cycle(graph):
    state = {}

    def visit(node, stack):
        state[node] = "open"
        for target in sorted(graph.get(node, ())):
            if state.get(target) == "open":
                return stack[stack.index(target):] + [target]
            if target not in state:
                cycle = visit(target, stack + [target])
                if cycle:
                    return cycle
        state[node] = "done"
        return None

    for node in sorted(graph):
        if node not in state:
            cycle = visit(node, [node])
            if cycle:
                return cycle
    return None


def check(root):
    tree = Tree(root).read()
    if not tree.includes:
        return [f"{root}: no sources found"]
    strays = [path for path in tree.includes if layer_of(path) is None]
    if strays:
        return [f"{path}:1: belongs to no layer; add it to LAYERS" for path in sorted(strays)]
    return [*check_direct(tree), *check_reach(tree), *check_cycles(tree)]


# ---- self-test: a small clean tree, and breaches planted into it one at a time -------------------------

CLEAN = {
    "generator/include/sagegen/error.h": "#include <string>\n",
    "generator/include/sagegen/kernel.h": "#include <string>\n",
    "generator/include/sagegen/emit.h": '#include "sagegen/kernel.h"\n',
    "generator/vocabulary/kernel.cpp": '#include <fmt/format.h>\n#include "sagegen/kernel.h"\n',
    "generator/include/sagegen/dsl/value.h": "#include <cstdint>\n",
    "generator/dsl/impl.h": '#include "llvm/IR/IRBuilder.h"\n#include "sagegen/dsl/value.h"\n',
    "generator/dsl/value.cpp": '#include "generator/dsl/impl.h"\n',
    "generator/codegen/codegen.h": '#include "sagegen/dsl/value.h"\n',
    "generator/emit/emit.cpp": '#include "sagegen/emit.h"\n#include "generator/codegen/codegen.h"\n'
                               '#include "sagegen/kernel.h"\n',
    "templates/attention/spec.h": '#include "sagegen/kernel.h"\n',
    "templates/attention/plan.h": '#include "templates/attention/spec.h"\n#include "sagegen/runtime/device.h"\n',
    "templates/attention/block.h": '#include "sagegen/dsl/value.h"\n',
    "runtime/include/sagegen/runtime/driver_api.h": "#include <memory>\n",
    "runtime/include/sagegen/runtime/device.h": '#include "sagegen/runtime/driver_api.h"\n',
    "runtime/driver/device.cpp": '#include "sagegen/runtime/device.h"\n#include "sagegen/kernel.h"\n',
    "runtime/emulator/ptx/module.h": '#include "sagegen/runtime/driver_api.h"\n',
    "tools/reference/reference.h": "#include <vector>\n",
    "tools/model/prediction.h": "#include <vector>\n",
    "tools/pictures/pictures.h": "#include <string>\n",
    "tools/sagegen/main.cpp": '#include <CLI/CLI.hpp>\n#include "sagegen/emit.h"\n'
                              '#include "tools/reference/reference.h"\n#include "sagegen/runtime/device.h"\n',
}
# (what is planted, where, the line that is added, what the report must contain)
BREACHES = (
    ("LLVM in the vocabulary", "generator/vocabulary/kernel.cpp", '#include "llvm/IR/Module.h"',
     "generator/vocabulary/kernel.cpp:3: vocabulary may not include llvm"),
    ("vocabulary includes dsl", "generator/vocabulary/kernel.cpp", '#include "sagegen/dsl/value.h"', "vocabulary may not include dsl"),
    ("LLVM in a dsl header", "generator/include/sagegen/dsl/value.h", "#include <llvm/IR/Value.h>",
     "dsl may not include llvm"),
    ("LLVM in a template", "templates/attention/block.h", '#include "llvm/IR/Module.h"', "templates may not include llvm"),
    ("dsl implementation in a template", "templates/attention/block.h", '#include "generator/dsl/impl.h"',
     "templates may not include dsl implementation"),
    ("LLVM behind a public header", "generator/include/sagegen/dsl/value.h", '#include "generator/dsl/impl.h"',
     "templates/attention/block.h:1: reaches llvm"),
    ("dsl in a family", "templates/attention/spec.h", '#include "sagegen/dsl/value.h"',
     "families may not include dsl"),
    ("a plan in a template", "templates/attention/block.h", '#include "templates/attention/plan.h"',
     "templates may not include plans"),
    ("dsl in a plan", "templates/attention/plan.h", '#include "sagegen/dsl/value.h"', "plans may not include dsl"),
    ("a room in the runtime", "runtime/driver/device.cpp", '#include "templates/attention/spec.h"',
     "runtime may not include families"),
    ("a room in the vocabulary", "generator/vocabulary/kernel.cpp", '#include "templates/attention/spec.h"',
     "vocabulary may not include families"),
    ("codegen in the runtime", "runtime/driver/device.cpp", '#include "generator/codegen/codegen.h"',
     "runtime may not include codegen"),
    ("generator's entry in the runtime", "runtime/driver/device.cpp", '#include "sagegen/emit.h"',
     "runtime may not include emit interface"),
    ("emulator internals in the runtime", "runtime/driver/device.cpp", '#include "runtime/emulator/ptx/module.h"',
     "runtime may not include emulator"),
    ("vocabulary in the emulator", "runtime/emulator/ptx/module.h", '#include "sagegen/kernel.h"',
     "emulator may not include vocabulary"),
    ("vocabulary behind the driver seam", "runtime/include/sagegen/runtime/driver_api.h", '#include "sagegen/kernel.h"',
     "runtime/emulator/ptx/module.h:1: reaches vocabulary"),
    ("runtime header in the emulator", "runtime/emulator/ptx/module.h", '#include "sagegen/runtime/device.h"',
     "emulator may not include runtime headers"),
    ("generator in the reference", "tools/reference/reference.h", '#include "sagegen/kernel.h"',
     "reference may not include vocabulary"),
    ("vocabulary in the model", "tools/model/prediction.h", '#include "sagegen/kernel.h"',
     "model may not include vocabulary"),
    ("LLVM in a picture", "tools/pictures/pictures.h", '#include "llvm/IR/Module.h"', "pictures may not include llvm"),
    ("internals in a tool", "tools/sagegen/main.cpp", '#include "sagegen/dsl/value.h"', "tools may not include dsl"),
    ("relative include", "runtime/driver/device.cpp", '#include "in_context.h"', "names no file of the project"),
    ("cycle of files", "generator/include/sagegen/error.h", '#include "sagegen/kernel.h"', "error may not include vocabulary"),
    ("cycle of headers", "generator/include/sagegen/kernel.h", '#include "sagegen/kernel.h"', "cycle of files"),
    ("layers that need each other", "generator/include/sagegen/dsl/value.h", '#include "generator/codegen/codegen.h"',
     "cycle of layers"),
    ("file without a layer", "generator/stray.cpp", "#include <string>", "belongs to no layer"),
)


def write_tree(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def self_test():
    failures = []
    with tempfile.TemporaryDirectory() as root:
        write_tree(root, CLEAN)
        failures += [f"clean tree: {finding}" for finding in check(root)]
    for what, path, line, expected in BREACHES:
        with tempfile.TemporaryDirectory() as root:
            write_tree(root, {**CLEAN, path: CLEAN.get(path, "") + line + "\n"})
            findings = check(root)
            if not any(expected in finding for finding in findings):
                failures.append(f"{what}: expected \"{expected}\", got {findings}")
    for failure in failures:
        print(failure)
    print(f"self-test: {len(BREACHES)} breaches planted, {len(failures)} failures")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    findings = check(os.path.normpath(arguments.root))
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} breaches of the layering; the rules are LAYERS in tools/check_layers.py")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
