"""The pages of this repository say what is there: links, paths, commands, options, keys, sets, JSON fields, options
of CMake, variables of the environment."""
import glob
import json
import os
import re
import subprocess
import tempfile
import tomllib
import unittest

TOOL = os.environ.get("SAGEGEN_TOOL", "sagegen")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REFERENCE = "docs/reference.md"


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def tracked(extensions, below=""):
    found = []
    for folder, names, files in os.walk(os.path.join(ROOT, below)):
        names[:] = [name for name in names if not name.startswith((".", "build"))]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files if name.endswith(extensions)]
    return sorted(found)


def sagegen(*arguments):
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


class Page:
    """A page of Markdown, taken apart: prose, spans of code in it, blocks of code."""

    def __init__(self, path, text=None):
        self.path, self.text = path, read(path) if text is None else text
        self.fences, prose, open_fence = [], [], None
        for line in self.text.split("\n"):
            if line.startswith("```"):
                if open_fence is None:
                    open_fence = (line[3:].strip(), [])
                else:
                    self.fences.append((open_fence[0], "\n".join(open_fence[1]) + "\n"))
                    open_fence = None
            elif open_fence is not None:
                open_fence[1].append(line)
            else:
                prose.append(line)
        self.indented = [line.strip() for line in prose if line.startswith("    ")]
        self.prose = "\n".join(line for line in prose if not line.startswith("    "))
        self.spans = re.findall(r"`([^`\n]+)`", self.prose)
        self.commands = self.spans + self.indented + [line for language, text in self.fences
                                                      if language in ("", "sh") for line in text.split("\n")]

    def section(self, heading):
        """What follows a heading up to the next one of its level or above."""
        level = heading.split(" ")[0]
        rest = self.text.split(f"\n{heading}\n", 1)[1]
        return Page(self.path, re.split(rf"\n#{{1,{len(level)}}} ", rest)[0])


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links(page):
    """(target, what is wrong with it) of each relative link that leads nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        full = os.path.normpath(os.path.join(os.path.dirname(page.path), path)) if path else page.path
        if path and not os.path.exists(os.path.join(ROOT, full)):
            yield target, "there is no such file"
        elif anchor and anchor not in anchors(page.text if full == page.path else read(full)):
            yield target, "that page has no such heading"


TOP = {name for name in os.listdir(ROOT) if not name.startswith("build")} | {".ci"}
# Where measurements on a GPU go, of which there are none yet.
TO_BE_MADE = {"tests/hardware/recorded/", "tools/bench/results/micro_DEVICE_DATE.json"}
LOOKS_LIKE_PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)*/?")


def missing_paths(page):
    """Spans of code, and first words of commands, that look like a path of this repository and are none."""
    for text in page.spans + [line.split(" ")[0] for line in page.indented if line]:
        if not LOOKS_LIKE_PATH.fullmatch(text):
            continue
        of_root = text.split("/")[0] in TOP and "/" in text
        of_page = re.fullmatch(r"[A-Z][\w-]*\.(md|json|txt)", text)
        if not of_root and not of_page:
            continue
        places = [ROOT, os.path.join(ROOT, os.path.dirname(page.path))]
        if text not in TO_BE_MADE and not any(glob.glob(os.path.join(place, text)) for place in places):
            yield text


def foreign_excerpts(page):
    """Parts of blocks of code, "```cpp of=PATH", that are not in that file as they stand, but for white space.
    A line "// ..." is between two parts."""
    for language, text in page.fences:
        shown = re.fullmatch(r"\w+ of=(\S+)", language)
        for part in text.split("// ...\n") if shown else ():
            if not part.strip() or "".join(part.split()) not in "".join(read(shown[1]).split()):
                yield f"{shown[1]}: {part.strip().split(chr(10))[0]}"


def asked_options(page):
    """(command, its options) wherever the page shows one."""
    for text in page.commands:
        asked = re.match(r"(?:\S*/)?sagegen ([a-z][a-z-]*)\b([^|;]*)", re.split(r"\s#\s", text)[0])
        if asked:
            yield asked[1], re.findall(r"(?<![\w-])--[a-z][a-z-]*", asked[2])


def keys(page):
    own = re.findall(r'\.word = "(\w+)"', page.text)   # families that the page itself makes
    for key in re.findall(r"\bsage_[a-z0-9_]+__sm[0-9]+[af]?\b", page.text):
        if key.split("_")[1] not in own:
            yield key


def words(page):
    """Names in spans of code."""
    return {word for span in page.spans for word in re.findall(r"\w+", span)}


def fields_of(text, struct):
    """Names that fields() of a struct in C++ gives its members."""
    body = re.search(rf"^struct {struct} \{{$(.*?)^\}};$", text, re.MULTILINE | re.DOTALL)[1]
    return set(re.findall(r'param_field\("(\w+)"', body))


def names_in(value, of_users=()):
    """Names of all fields of a JSON value, but not what is in fields of these names."""
    if isinstance(value, dict):
        return set(value).union(*(names_in(part, of_users) for name, part in value.items() if name not in of_users))
    if isinstance(value, list):
        return set().union(*(names_in(part, of_users) for part in value))
    return set()


class Pages(unittest.TestCase):
    pages = [Page(path) for path in tracked((".md",))]

    def each(self, find, pages=None):
        found = [f"{page.path}: {finding}" for page in pages or self.pages for finding in find(page)]
        self.assertEqual(found, [])

    def test_every_page_is_read(self):
        paths = {page.path for page in self.pages}
        self.assertTrue({"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", REFERENCE} <= paths)

    def test_every_page_is_linked_from_the_readme(self):
        named = Page("README.md").spans
        pages = {"CONTRIBUTING.md", "CHANGELOG.md", *glob.glob("docs/*.md", root_dir=ROOT)}
        self.assertEqual(pages - set(named), set())

    def test_links_lead_somewhere(self):
        self.each(links)

    def test_paths_exist(self):
        self.each(missing_paths)

    def test_excerpts_are_of_their_files(self):
        self.each(foreign_excerpts)
        self.assertGreater(sum(" of=" in language for page in self.pages for language, _ in page.fences), 2)

    def test_commands_and_their_options_exist(self):
        helps = {"": sagegen("--help")[1]}
        known = set(re.findall(r"^  ([a-z]+) ", helps[""].split("Subcommands:")[1], re.MULTILINE))
        self.assertGreater(len(known), 5)

        def unknown(page):
            for command, options in asked_options(page):
                if command not in known:
                    yield f"sagegen {command}"
                    continue
                if command not in helps:
                    helps[command] = sagegen(command, "--help")[1]
                for option in options:
                    if not re.search(rf"{option}\b(?!-)", helps[command]):
                        yield f"sagegen {command} {option}"
        self.each(unknown)

    def test_keys_parse_and_are_of_valid_kernels(self):
        seen = {}

        def refused(page):
            for key in keys(page):
                if key not in seen:
                    seen[key] = sagegen("inspect", key)
                if seen[key][0] != 0:
                    yield f"{key}: {seen[key][2]}"
        self.each(refused)
        self.assertGreater(len(seen), 8)

    def test_keys_of_former_versions_do_not_parse(self):
        former = re.findall(r"`(sage_[a-z0-9]+(?:_[a-z0-9]+)*_sm[0-9]+)`", read("CHANGELOG.md"))
        self.assertGreater(len(former), 3)
        for key in former:
            self.assertEqual(sagegen("inspect", key)[0], 3, key)

    def test_toml_is_read(self):
        launches = sagegen("emu", "--help")[1]
        sets = 0
        with tempfile.TemporaryDirectory() as folder:
            for page in self.pages:
                for language, text in page.fences:
                    if language != "toml":
                        continue
                    content = tomllib.loads(text)
                    if "[[" not in text:   # a launch of `sagegen emu`
                        for name in content:
                            self.assertTrue(name == "ptx" or f"--{name} " in launches, f"{page.path}: {name}")
                        continue
                    file = os.path.join(folder, "set.toml")
                    with open(file, "w", encoding="utf-8") as out:
                        out.write(text)
                    code, out, err = sagegen("list", "--set", file, "--json")
                    self.assertEqual(code, 0, f"{page.path}: {err}")
                    self.assertGreater(len(json.loads(out)["kernels"]), 1)
                    sets += 1
        self.assertGreater(sets, 0)


class Reference(unittest.TestCase):
    page = Page(REFERENCE)

    def test_option_texts_are_of_kernels(self):
        """The same fields and values as a set: the tool reads these."""
        texts = self.page.section("## Option texts").indented
        self.assertGreater(len(texts), 1)
        for text in texts:
            table = ['targets = "sm_89"']
            for option in text.split():
                name, _, value = option.partition("=")
                value = value or "true"
                quoted = value if re.fullmatch(r"\d+|true|false", value) else f'"{value}"'
                table.append(f"{'schedules' if name == 'schedule' else name} = {quoted}")
            with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
                file.write("\n".join(["[[attention]]", *table]) + "\n")
                file.flush()
                code, _, err = sagegen("list", "--set", file.name)
            self.assertEqual(code, 0, f"{text}: {err}")

    def test_fields_of_families_are_in_the_tables(self):
        families = set()
        for key in keys(self.page.section("## Keys")):
            report = json.loads(sagegen("inspect", "--json", key)[1])
            families.add(report["family"])
            heading = f"### `sage_{key.split('_')[1]}`: {report['family']}"
            named = words(self.page.section(heading))
            self.assertEqual((set(report["what"]) | set(report["how"])) - named, set(), heading)
        listed = json.loads(sagegen("list", "--json")[1])["kernels"]
        self.assertEqual({kernel["family"] for kernel in listed} - families, set())

    def test_masks_and_biases_are_in_the_tables(self):
        """Each mod with its arguments and its option, and the figures of tests/golden."""
        mods = re.findall(r"^SAGEGEN_MOD\((\w+)\)", read("templates/attention/mods/mods.def"), re.MULTILINE)
        self.assertGreater(len(mods), 5)
        shared = fields_of(read("templates/attention/mods/call.h"), "ScoreTensor")
        section = self.page.section("## Masks and biases")
        rows = {name: rest for name, rest in re.findall(r"^\| `(\w+)` \| (.* \| `--.*)$", section.text, re.MULTILINE)}
        self.assertEqual(list(rows), mods, "in the order of mods.def")
        options = sagegen("run", "--help")[1]
        for mod in mods:
            header = read(f"templates/attention/mods/{mod}.h")
            fields = shared if "using Arguments = ScoreTensor;" in header else fields_of(header, "Arguments")
            self.assertEqual(set(re.findall(rf"`{mod}\.(\w+)`", rows[mod])), fields, mod)
            self.assertIn(f"`--{mod} ", rows[mod])
            self.assertRegex(options, rf"--{mod}\b")

    def test_figures_of_masks_and_biases_are_those_of_the_test(self):
        measured = read("tests/golden/assembly_test.cpp")
        without = [float(x) for x in re.search(r'\{"none", ([\d.]+), ([\d.]+)\}', measured).groups()]
        section = self.page.section("### What they add").text
        for x in without:
            self.assertIn(f"{x:.2f} at head_dim", section)
        expected = []
        for mod, *slots in re.findall(r'\{"(\w+)", ([\d.]+), ([\d.]+)\}', measured.split("kMeasuredMods[]")[1]):
            if mod == "none":
                continue
            cells = [f"`{mod}`"]
            for x, base in zip(slots, without):
                cells += [x, f"{float(x) - base:+.2f}".replace("-", "\N{MINUS SIGN}")]
            expected.append(f"| {' | '.join(cells)} |")
        self.assertGreater(len(expected), 4)
        self.assertEqual(re.findall(r"^\| `.*$", section, re.MULTILINE), expected)

    def test_json_fields_are_named(self):
        """All that a command prints is in its section. What is under a name of the user's is no field."""
        general = {"schema", "schema_version"}
        key = next(keys(self.page))
        with tempfile.TemporaryDirectory() as folder:
            ptx = os.path.join(folder, "k.ptx")
            with open(ptx, "w", encoding="utf-8") as file:
                file.write(".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x) { ret; }\n")
            set_file = os.path.join(folder, "set.toml")
            with open(set_file, "w", encoding="utf-8") as file:
                file.write('[[attention]]\ntargets = "sm_80"\nhead_dim = 64\n')
            finding = r"A finding has"
            small = ["--device", "emulator", "--q-len", "40", "--heads", "1"]
            cases = [("targets", [], ()), ("list", [], ()), ("devices", [], ()), ("env", [], ("variables",)), ("kv show", ["0-3:K8V4,4:fp8"], ("counts",)),
                     ("kv plan", [os.path.join(ROOT, "tests/data/minilm_layers.safetensors"), "--queries", "4", "--per-head", "--out", os.path.join(folder, "map.yaml")], ("errors",)),
                     ("run", [*small, "--head-dim", "64", "--judge-rows", "8"], ()),
                     ("run", [*small, "--set", set_file], ()),
                     ("compare", [*small[2:], "--only", "qk=s8"], ("what", "how", "predicted_tops")),
                     ("emu", [ptx, "--block", "32", "--arg", "x:f32[4]=1", "--expect", "x=2"], ())]
            if json.loads(sagegen("env", "--json")[1])["generator"].startswith("LLVM"):
                cases += [("emit", [key, "--out", folder], ()), ("trace", [key], ()),
                          ("trace", [key, "--out", folder], ()),
                          ("kv emit", ["0:KV4", "--target", "sm_89", "--out", folder, "--bundle", os.path.join(folder, "kv.bundle")], ()),
                          ("kv check", ["0:KV4", "--head-dim", "64", "--kv-heads", "1", "--context", "20"], ()),
                          ("kv bench", ["0:KV4", "--head-dim", "64", "--kv-heads", "1", "--context", "20", "--batch", "1", "--device", "emulator"], ())]
            cases += [("inspect", [key], ("what", "how", "description"))]
            if sagegen("inspect", "--model", key)[0] == 0:   # with the generator and ptxas
                cases += [("kv predict", ["0:KV4", "--gpu", "A100"], ()),
                          ("inspect", ["--model", key], ("what", "how")),
                          ("compare", [*small[2:], "--only", "qk=s8", "--pick", "--max-l1", "1"],
                           ("what", "how", "predicted_tops")),
                          ("compare", [*small, "--only", "smoothing=qk qk=s8", "--pick", "--max-l1", "0"],
                           ("what", "how", "predicted_tops"))]
            self.assertIn(finding, self.page.text)
            for command, arguments, of_users in cases:
                out = sagegen(*command.split(), "--json", *arguments)[1]
                report = json.loads(out)
                section = words(self.page.section(f"### `sagegen {command} --json`"))
                self.assertEqual(names_in(report, of_users) - section - general, set(), f"{command} {arguments}")
        manifest = json.loads(read("generated/manifest.json"))
        self.assertEqual(names_in(manifest) - words(self.page.section("### `generated/manifest.json`")), set())

    def test_options_of_cmake_are_named(self):
        found = set()
        for path in ["CMakeLists.txt", *tracked((".cmake",), "cmake"), *tracked(("CMakeLists.txt",), "tests"),
                     *tracked(("CMakeLists.txt",), "tools")]:
            found |= set(re.findall(r"^\s*(?:option|find_program|find_library|find_path)\((SAGEGEN_\w+)", read(path),
                                    re.MULTILINE))
            found |= set(re.findall(r"set\((SAGEGEN_\w+)[^)]* CACHE ", read(path)))
        self.assertIn("SAGEGEN_SANITIZE", found)
        section = set(re.findall(r"SAGEGEN_\w+", self.page.section("### Options").text))
        self.assertEqual(section, found)

    def test_presets_and_components_are_named(self):
        presets = json.loads(read("CMakePresets.json"))["configurePresets"]
        named = words(self.page.section("## CMake"))
        for preset in presets:
            if not preset.get("hidden"):
                self.assertIn(f"`{preset['name']}`", self.page.text)
        for line in re.findall(r"SAGEGEN_COMPONENTS ([a-z ]+)\)", read("cmake/SagegenInstall.cmake")):
            self.assertEqual(set(line.split()) - named, set())

    def test_variables_of_the_environment_are_named(self):
        section = self.page.section("## Environment variables").text
        for path in tracked((".cpp", ".h"), "runtime") + tracked((".cpp", ".h"), "tools") + tracked((".cpp",), "generator"):
            for name in re.findall(r'getenv\("(\w+)"\)', read(path)):
                self.assertIn(f"`{name}`", section, path)
        for name in json.loads(sagegen("env", "--json")[1])["variables"]:
            self.assertIn(f"`{name}`", section)


class Checks(unittest.TestCase):
    """The checks above see what is wrong."""

    def test_planted_mistakes_are_found(self):
        page = Page("docs/planted.md", "\n".join([
            "# Planted", "", "[a](missing.md) [b](architecture.md#no-such-heading) [c](#planted) [d](https://x.y/z)",
            "`tools/no_such.py` `tools/check_layers.py` `templates/*/spec.h` `Missing.md` `a/b`", "",
            "    build/bin/sagegen emitt --target all   # text", "    tools/nothing.sh", "",
            "`sagegen emit --no-such` sage_fwd_d64__sm89", "```cpp of=templates/rooms.def", "no_such_line", "```",
            "```cpp of=templates/rooms.def", "SAGEGEN_ROOM( attention )", "// ...",
            "SAGEGEN_ROOM(quantize_rows)", "```", ""]))
        self.assertEqual([target for target, _ in links(page)], ["missing.md", "architecture.md#no-such-heading"])
        self.assertEqual(list(missing_paths(page)), ["tools/no_such.py", "Missing.md", "tools/nothing.sh"])
        self.assertEqual(list(asked_options(page)), [("emit", ["--no-such"]), ("emitt", ["--target"])])
        self.assertEqual(list(keys(page)), ["sage_fwd_d64__sm89"])
        self.assertEqual(list(foreign_excerpts(page)), ["templates/rooms.def: no_such_line"])


if __name__ == "__main__":
    unittest.main()
