"""The binary interface of libsagegen.so against the committed list, tests/install/abi.txt: symbols with their versions,
signatures, values of enums, and where each field of each struct lies.

    abi_test.py SOURCE_DIR LIBRARY CC READELF             compare
    abi_test.py SOURCE_DIR LIBRARY CC READELF --update    write down what was appended

What keeps compiled programs running is written down: new functions, structs, enums and values, and fields at the end of a
struct that begins with struct_size. Anything else is refused, unless SAGEGEN_ABI_VERSION of sagegen.h was raised."""
import copy
import os
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE, LIBRARY, CC, READELF = sys.argv[1:5]
LIST = os.path.join(SOURCE, "tests", "install", "abi.txt")
HEADER = os.path.join(SOURCE, "runtime", "include", "sagegen", "sagegen.h")
FIRST_SIZES = os.path.join(SOURCE, "runtime", "capi", "structs.h")
UPDATE = "tests/install/abi_test.py SOURCE_DIR LIBRARY CC READELF --update"
HEAD = """\
# The binary interface of libsagegen.so; tests/install/abi_test.py compares the library with it and writes it (--update).
# field: offset, bytes, type, name. first: bytes of the struct in the first version, which callers may always give.
"""


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def squeezed(text):
    return re.sub(r"\s+", " ", text).strip()


def unnamed(parameter):
    """A parameter or field without its name: (type, name)."""
    match = re.fullmatch(r"(.*?[\s*])(\w+)", squeezed(parameter))
    return (match[1].strip(), match[2]) if match else (squeezed(parameter), "")


def declared(text):
    """Functions, structs, enums and other types in the text of the header, as {kind: {name: ...}}."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    text = text.replace('extern "C" {', "")
    found = {"struct": {}, "enum": {}, "function": {}, "callback": {}}
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.DOTALL):
        fields = []
        for statement in filter(None, map(squeezed, body.split(";"))):
            first, *more = statement.split(",")
            kind, member = unnamed(first)
            fields += [(kind, each.strip()) for each in (member, *more)]
        found["struct"][name] = fields
    for body, name in re.findall(r"typedef enum \w+ \{(.*?)\} (\w+);", text, flags=re.DOTALL):
        found["enum"][name] = re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|$)", squeezed(body))
    for result, name, parameters in re.findall(r"typedef ([^;{}]*?)\(\*(\w+)\)\(([^;]*?)\);", text):
        found["callback"][name] = squeezed(f"{result}({', '.join(unnamed(p)[0] for p in parameters.split(','))})")
    rest = re.sub(r"typedef [^;{}]*(\{.*?\}[^;]*)?;", "", text, flags=re.DOTALL)
    for result, name, parameters in re.findall(r"([\w\s*]+?)\b(sagegen_\w+)\(([^)]*)\);", rest):
        found["function"][name] = squeezed(f"{squeezed(result)}({', '.join(unnamed(p)[0] for p in parameters.split(','))})")
    return found


def measured(found):
    """What the compiler says of offsets, sizes and values: {expression: number}."""
    wanted = ["SAGEGEN_ABI_VERSION"] + [value for values in found["enum"].values() for value in values]
    for name, fields in found["struct"].items():
        wanted.append(f"sizeof({name})")
        for _, field in fields:
            wanted += [f"offsetof({name}, {field})", f"sizeof((({name}*)0)->{field})"]
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "layout")
        with open(program + ".c", "w", encoding="utf-8") as file:
            file.write('#include <stdio.h>\n#include "sagegen/sagegen.h"\nint main(void) {\n')
            file.writelines(f'  printf("%lld\\n", (long long)({each}));\n' for each in wanted)
            file.write("  return 0;\n}\n")
        output(CC, "-I", os.path.dirname(os.path.dirname(HEADER)), program + ".c", "-o", program)
        return dict(zip(wanted, map(int, output(program).split())))


def built():
    """The interface as it is: {(kind, name): text or list of field lines}."""
    with open(HEADER, encoding="utf-8") as file:
        found = declared(file.read())
    numbers = measured(found)
    facts = {("abi", "version"): str(numbers["SAGEGEN_ABI_VERSION"])}
    facts["abi", "soname"] = re.search(r"\(SONAME\).*\[(.*)\]", output(READELF, "-dW", LIBRARY))[1]
    rows = [line.split() for line in output(READELF, "--dyn-syms", "-W", LIBRARY).splitlines()]
    for symbol in sorted(row[7] for row in rows if len(row) >= 8 and row[4] in ("GLOBAL", "WEAK")
                         and row[6] not in ("UND", "ABS")):
        name, _, version = symbol.partition("@@")
        facts["symbol", name] = version or "without a version"
    for kind in ("function", "callback"):
        facts.update({(kind, name): signature for name, signature in found[kind].items()})
    for name, values in found["enum"].items():
        facts.update({("value", f"{name} {value}"): str(numbers[value]) for value in values})
    with open(FIRST_SIZES, encoding="utf-8") as file:
        firsts = dict(re.findall(r"SAGEGEN_STRUCT\((\w+), (\d+)\);", file.read()))
    for name, fields in found["struct"].items():
        lines = [f"{numbers[f'offsetof({name}, {field})']} {numbers[f'sizeof((({name}*)0)->{field})']} {kind} {field}"
                 for kind, field in fields]
        first = f" first {firsts[name]}" if name in firsts else ""
        facts["struct", name] = [f"{numbers[f'sizeof({name})']}{first}", *lines]
    return facts


def written(facts):
    text = HEAD
    for (kind, name), value in facts.items():
        head, *fields = value if isinstance(value, list) else [value]
        text += f"{kind} {name}: {head}\n" + "".join(f"  field {field}\n" for field in fields)
    return text


def read(text):
    facts, last = {}, None
    for line in text.splitlines():
        if line.startswith("  field "):
            facts[last].append(line.removeprefix("  field "))
        elif line and not line.startswith("#"):
            name, value = line.split(": ", 1)
            last = tuple(name.split(" ", 1))
            facts[last] = [value] if last[0] == "struct" else value
    return facts


def grows(struct):
    return len(struct) > 1 and struct[1].endswith(" size_t struct_size")


def changes(old, new):
    """Sentences: (what compiled programs do not notice, what breaks them)."""
    appended, broken = [], []
    for key in {**old, **new}:
        before, after, name = old.get(key), new.get(key), " ".join(key)
        if before == after:
            continue
        if before is None:
            appended.append(f"{name} is new")
        elif after is None:
            broken.append(f"{name} is gone")
        elif key[0] != "struct":
            broken.append(f"{name} was {before} and is {after}")
        elif not grows(before):
            broken.append(f"{name} changes, which has no struct_size and is frozen")
        elif before[0].partition(" first ")[2] != after[0].partition(" first ")[2]:
            broken.append(f"{name}: the size of the first version changes; it is what the oldest programs give")
        elif after[1:len(before)] != before[1:]:
            lost = next(b for b, a in zip(before[1:], [*after[1:], *[None] * len(before)]) if a != b)
            broken.append(f"{name}: the field at \"{lost}\" moves, changes or is gone; append at the end")
        elif int(after[len(before)].split()[0]) < int(before[0].split()[0]) if len(after) > len(before) else True:
            broken.append(f"{name}: a new field lies where older programs have padding, or the size changes without one")
        else:
            appended.append(f"{name} has new fields at its end")
    return appended, broken


def faults(facts):
    """What is wrong whatever the list says."""
    sentences = []
    symbols = {name for kind, name in facts if kind == "symbol"}
    functions = {name for kind, name in facts if kind == "function"}
    for name in sorted(symbols ^ functions):
        sentences.append(f"{name} is " + ("exported and not declared" if name in symbols else
                                          "declared and not exported: name it in runtime/capi/exports.map"))
    abi = facts["abi", "version"]
    if facts["abi", "soname"] != f"libsagegen.so.{abi}":
        sentences.append(f"the SONAME is {facts['abi', 'soname']}, and SAGEGEN_ABI_VERSION {abi}")
    for (kind, name), value in facts.items():
        if kind == "symbol" and not re.fullmatch(rf"SAGEGEN_{abi}\.\d+", value):
            sentences.append(f"{name} is of version {value}; it should be SAGEGEN_{abi}.N")
        if kind == "struct" and grows(value):
            if " first " not in value[0]:
                sentences.append(f"{name} has no SAGEGEN_STRUCT in runtime/capi/structs.h")
            if sum(int(field.split()[1]) for field in value[1:]) != int(value[0].split()[0]):
                sentences.append(f"{name} has padding, in which a later field would be no part of an older struct_size")
    return sentences


def verdict(old, new):
    """Empty, or why the interface is not the listed one and what to do."""
    wrong = faults(new)
    if wrong:
        return "\n  ".join(["the interface is wrong in itself:", *wrong])
    appended, broken = changes(old, new)
    raised = old.get(("abi", "version")) not in (None, new["abi", "version"])
    if broken and not raised:
        return "\n  ".join(["programs that are compiled already would break:", *broken,
                            "Undo that, or raise SAGEGEN_ABI_VERSION in sagegen.h and begin exports.map anew, then run " + UPDATE])
    if appended or broken:
        return "\n  ".join(["the list is behind, and compiled programs notice nothing:" if not raised else
                            "SAGEGEN_ABI_VERSION was raised:", *appended, *broken, "If that is meant, run " + UPDATE])
    return ""


# A small interface, which the judge is shown with changes.
EXAMPLE = """\
abi version: 1
abi soname: libsagegen.so.1
symbol sagegen_go: SAGEGEN_1.0
symbol sagegen_stop: SAGEGEN_1.0
function sagegen_go: int(const sagegen_road*)
function sagegen_stop: void(void)
value sagegen_light RED: 0
struct sagegen_road: 24 first 16
  field 0 8 size_t struct_size
  field 8 8 int64_t length
  field 16 8 int64_t width
struct sagegen_point: 16
  field 0 8 int64_t x
  field 8 8 int64_t y
"""
ROAD = ("struct", "sagegen_road")


class Interface(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.facts = built()

    def test_it_is_the_listed_one(self):
        with open(LIST, encoding="utf-8") as file:
            listed = file.read()
        self.assertEqual(verdict(read(listed), self.facts), "")
        self.assertEqual(listed, written(self.facts), "the list says the same in another order or form; run " + UPDATE)

    def test_the_list_can_be_read_back(self):
        self.assertEqual(read(written(self.facts)), self.facts)
        kinds = {kind for kind, _ in self.facts}
        self.assertEqual(kinds, {"abi", "symbol", "function", "callback", "value", "struct"})
        self.assertIn("56 8 int64_t total_kv", self.facts["struct", "sagegen_shape"])
        self.assertEqual(self.facts["function", "sagegen_device_create"], "sagegen_status(const char*, sagegen_device**)")


class Judge(unittest.TestCase):
    def check(self, change, *words):
        old = read(EXAMPLE)
        self.assertEqual(verdict(old, old), "")
        new = copy.deepcopy(old)
        change(new)
        for word in words:
            self.assertIn(word, verdict(old, new))

    def test_what_is_appended_is_to_be_written_down(self):
        def function(facts):
            facts["symbol", "sagegen_more"], facts["function", "sagegen_more"] = "SAGEGEN_1.1", "int(void)"

        def field(facts):
            facts[ROAD] = ["32 first 16", *facts[ROAD][1:], "24 8 int64_t more"]
        for change in (function, field, lambda f: f.update({("value", "sagegen_light GREEN"): "1"})):
            self.check(change, "compiled programs notice nothing", "--update")

    def test_what_breaks_programs_is_refused(self):
        def swapped(facts):
            facts[ROAD][2:] = ["8 8 int64_t width", "16 8 int64_t length"]

        def shorter(facts):
            facts[ROAD] = ["16 first 16", *facts[ROAD][1:3]]

        def frozen(facts):
            facts["struct", "sagegen_point"] = ["24", *facts["struct", "sagegen_point"][1:], "16 8 int64_t z"]

        def gone(facts):
            del facts["symbol", "sagegen_stop"], facts["function", "sagegen_stop"]

        def first(facts):
            facts[ROAD][0] = "24 first 24"
        for change, word in (
                (swapped, 'the field at "8 8 int64_t length" moves'), (shorter, '"16 8 int64_t width" moves, changes or is gone'),
                (frozen, "frozen"), (gone, "symbol sagegen_stop is gone"), (first, "the size of the first version"),
                (lambda f: f.update({("value", "sagegen_light RED"): "1"}), "was 0 and is 1"),
                (lambda f: f.update({("function", "sagegen_stop"): "int(void)"}), "was void(void) and is int(void)"),
                (lambda f: f.update({("symbol", "sagegen_stop"): "SAGEGEN_1.1"}), "was SAGEGEN_1.0 and is SAGEGEN_1.1")):
            self.check(change, "would break", word, "raise SAGEGEN_ABI_VERSION")

    def test_what_is_wrong_in_itself_is_said_first(self):
        def padded(facts):
            facts[ROAD] = ["32 first 16", *facts[ROAD][1:], "24 4 int32_t more"]
        for change, word in (
                (padded, "has padding"), (lambda f: f.pop(("symbol", "sagegen_stop")), "declared and not exported"),
                (lambda f: f.update({("symbol", "helper"): "SAGEGEN_1.0"}), "helper is exported and not declared"),
                (lambda f: f.update({("symbol", "sagegen_stop"): "without a version"}), "should be SAGEGEN_1.N"),
                (lambda f: f[ROAD].__setitem__(0, "24"), "has no SAGEGEN_STRUCT"),
                (lambda f: f.update({("abi", "version"): "2"}), "the SONAME is libsagegen.so.1")):
            self.check(change, "wrong in itself", word)

    def test_a_raised_version_may_change_everything(self):
        def other(facts):
            for name in ("sagegen_go", "sagegen_stop"):
                facts["symbol", name] = "SAGEGEN_2.0"
            facts["abi", "version"], facts["abi", "soname"] = "2", "libsagegen.so.2"
            facts["function", "sagegen_stop"] = "int(void)"
        self.check(other, "SAGEGEN_ABI_VERSION was raised", "--update")


def update():
    new = built()
    old = {}
    if os.path.exists(LIST):
        with open(LIST, encoding="utf-8") as file:
            old = read(file.read())
    why = verdict(old, new)
    if "would break" in why or "wrong in itself" in why:
        print(why, file=sys.stderr)
        return 1
    with open(LIST + ".new", "w", encoding="utf-8") as file:
        file.write(written(new))
    os.replace(LIST + ".new", LIST)
    print(why or "the list is as it was")
    return 0


if __name__ == "__main__":
    if sys.argv[5:] == ["--update"]:
        sys.exit(update())
    unittest.main(argv=sys.argv[:1])
