"""What the loader reads in every program and library, built and installed, and what libsagegen.so exports and needs.
Usage: binaries_test.py SOURCE_DIR BUILD_DIR CMAKE READELF WORK [sanitized]"""
import os
import platform
import re
import shutil
import subprocess
import sys
import unittest

SOURCE, BUILD, CMAKE, READELF, WORK = sys.argv[1:6]
SANITIZED, RELEASE = "sanitized" in sys.argv[6:], "release" in sys.argv[6:]
# What the unwinder of g++ 12 asks for, where the C library is not newer than that of Debian 12.
NEWEST_GLIBC, DEBIAN_12_GLIBC = (2, 35), (2, 36)
PORTABLE = os.path.join(SOURCE, "tools", "portable_library.sh")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def elf_files(folder):
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            with open(full, "rb") as file:
                magic = file.read(18)
            if magic[:4] == b"\x7fELF" and magic[16] in (2, 3):   # programs and shared libraries
                yield full


def search_paths(dynamic):
    """The elements of RPATH and RUNPATH in the text of `readelf -d`."""
    return [element for paths in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic) for element in paths.split(":")]


class Binaries(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(WORK, ignore_errors=True)
        output(CMAKE, "--install", BUILD, "--prefix", WORK)

    def test_the_reader_sees_an_empty_element(self):
        self.assertEqual(search_paths(" 0x1d (RUNPATH)  Library runpath: [/usr/lib/llvm-22/lib:]"),
                         ["/usr/lib/llvm-22/lib", ""])

    def test_libraries_are_never_searched_in_the_working_directory(self):
        files = [*elf_files(os.path.join(BUILD, "bin")), *elf_files(os.path.join(BUILD, "runtime")), *elf_files(WORK)]
        self.assertIn(os.path.join(WORK, "bin", "sagegen"), files)
        for file in files:
            for element in search_paths(output(READELF, "-dW", file)):
                self.assertRegex(element, r"^(/|\$ORIGIN)", f"{file} searches libraries in '{element}'")

    def test_installed_programs_find_their_libraries(self):
        for file in elf_files(os.path.join(WORK, "bin")):
            self.assertNotIn("not found", output("ldd", file))
            output(file, "--version")

    @staticmethod
    def library():
        return next(file for file in elf_files(WORK) if os.path.basename(file).startswith("libsagegen.so"))

    @classmethod
    def symbols(cls):
        rows = [line.split() for line in output(READELF, "--dyn-syms", "-W", cls.library()).splitlines()]
        return [row for row in rows if len(row) >= 8 and row[0][:-1].isdigit()]

    def test_the_shared_library_exports_its_header(self):
        with open(os.path.join(SOURCE, "runtime", "include", "sagegen", "sagegen.h"), encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
        declared = set(re.findall(r"\b(sagegen_\w+)\(", text))
        self.assertGreater(len(declared), 15)
        exported = {row[7].split("@")[0] for row in self.symbols() if row[4] in ("GLOBAL", "WEAK")
                    and row[6] not in ("UND", "ABS")}   # ABS: the name of a version
        self.assertEqual(exported, declared)

    @unittest.skipIf(SANITIZED, "a sanitizer's runtime needs what it needs")
    def test_the_shared_library_asks_for_no_new_c_library(self):
        needed = {row[7].split("@")[0]: row[7].split("@")[1] for row in self.symbols()
                  if row[6] == "UND" and "@GLIBC_" in row[7]}
        self.assertIn("dlopen", needed)
        self.assertNotIn("arc4random", needed)
        if self.host_glibc() > DEBIAN_12_GLIBC:
            self.skipTest("a newer C library gives newer versions to old functions")
        for name, version in needed.items():
            self.assertLessEqual(self.numbers(version.removeprefix("GLIBC_")), NEWEST_GLIBC, name)
        if self.host_glibc() == DEBIAN_12_GLIBC:
            self.assertEqual(max(self.numbers(version.removeprefix("GLIBC_")) for version in needed.values()), NEWEST_GLIBC,
                             "NEWEST_GLIBC and the pages that name it say more than is asked for")

    def test_the_pages_say_which_c_library_is_needed(self):
        with open(PORTABLE, encoding="utf-8") as file:
            portable = re.search(r"^glibc=([\d.]+)$", file.read(), flags=re.MULTILINE)[1]
        for page in ("README.md", os.path.join("docs", "reference.md")):
            with open(os.path.join(SOURCE, page), encoding="utf-8") as file:
                said = re.findall(r"glibc (\d\.\d+)", file.read())
            self.assertEqual([self.numbers(version) for version in said], [NEWEST_GLIBC, self.numbers(portable)], page)

    @staticmethod
    def numbers(version):
        return tuple(map(int, version.split(".")))

    @classmethod
    def host_glibc(cls):
        return cls.numbers(platform.libc_ver()[1])

    @unittest.skipIf(SANITIZED, "a sanitizer's runtime needs what it needs")
    def test_the_shared_library_needs_the_c_library_alone(self):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output(READELF, "-dW", self.library()))
        self.assertIn("libc.so.6", needed)
        for name in needed:
            self.assertRegex(name, r"^(lib(c|m|dl|pthread)\.so\.\d|ld-linux.*)$")

    @unittest.skipUnless(RELEASE, "only the release build is carried to other machines")
    def test_the_shared_library_stays_small(self):
        # What strip leaves: the sections that are loaded.
        sections = [re.match(r"\s*\[ *\d+\] (\S+)\s+(\S+)\s+\S+ \S+ (\S+) \S+ +(\w*) ", line)
                    for line in output(READELF, "-SW", self.library()).splitlines()]
        loaded = sum(int(match[3], 16) for match in sections if match and "A" in match[4] and match[2] != "NOBITS")
        self.assertGreater(loaded, 1_000_000)
        self.assertLess(loaded, 4_000_000, "with all kernels of generated/")

    @unittest.skipIf(SANITIZED, "a sanitizer's build takes the shared C++ library")
    def test_the_shared_library_carries_nothing_that_is_never_called(self):
        # runtime/capi has what stands in for these: libzstd's readers of old formats, the C++ library's demangler.
        functions = set(re.findall(r" FUNC .* (\w+)$", output(READELF, "-sW", self.library()), flags=re.MULTILINE))
        self.assertIn("sagegen_version", functions)
        self.assertEqual([name for name in functions if re.match(r"(FSE|HUF)v0\d_|d_print", name)], [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
