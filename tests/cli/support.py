"""What the tests of the command-line tool share: running it, and writing small tensor files."""
import json
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import unittest

OK, CHECK_FAILED, USAGE, SPEC, CODEGEN, DRIVER, FILE, MACHINE = 0, 1, 2, 3, 4, 5, 6, 71
TOOL = os.environ.get("SAGEGEN_TOOL", "sagegen")
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FWD = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"
QUANTQ = "sage_quantrows_d64_f16_s8_r8_g32_fold__sm89"
# Before a command: permissions of files and folders do not bind root, as whom CI runs, but for these capabilities.
BOUND_BY_PERMISSIONS = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
FULL_DISK = {resource.RLIMIT_FSIZE: 1000}   # limits of a process that can write so many bytes to a file


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")

    def json(self):
        return json.loads(self.out)


def sagegen(*arguments, cwd=None, limits=None, pass_fds=(), before=()):
    """limits: {resource.RLIMIT_...: value}; before: a command that runs the tool"""
    def limit():
        for which, value in limits.items():
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))
    command = [*before, TOOL, *map(str, arguments)]
    return Result(subprocess.run(command, capture_output=True, cwd=cwd, timeout=300, check=False, pass_fds=pass_fds,
                                 preexec_fn=limit if limits else None))


def has_generator():
    return sagegen("env", "--json").json()["generator"].startswith("LLVM")


def has_ptxas():
    """Without the generator nothing is assembled, so that it does not matter."""
    return has_generator() and sagegen("inspect", "--model", FWD).code == OK


def is_sanitized():
    """Sanitizers need address space that a limit takes away from them."""
    return bool(os.environ.get("SAGEGEN_SANITIZED"))


def fake_program(path, calls, body):
    """A script in bash that notes its name and arguments in the file `calls` first."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!{shutil.which("bash")}\necho "{os.path.basename(path)} $*" >>{calls}\n{body}\n')
    os.chmod(path, 0o755)


class CliTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def expect(self, code, *arguments, **process):
        """Runs the tool and checks its exit code; returns the result."""
        result = sagegen(*arguments, **process)
        self.assertEqual(result.code, code, f"{arguments}\nstdout: {result.out}\nstderr: {result.err}")
        return result

    def expect_error(self, code, kind, parts, *arguments, **process):
        """The tool must fail with this code and one readable block on stderr that holds all parts."""
        result = self.expect(code, *arguments, **process)
        self.assertIn(f"sagegen: {kind}\n  ", result.err)
        for part in parts:
            self.assertIn(part, result.err, arguments)
        return result

    def expect_json(self, code, command, *arguments):
        result = self.expect(code, command, "--json", *arguments)
        report = result.json()
        self.assertEqual(report["schema"], f"sagegen.{command}")
        self.assertEqual(report["schema_version"], 1)
        return report


LETTERS = {"F16": "e", "F32": "f", "I64": "q"}


def safetensors(tensors, truncate=0):
    """tensors: {name: (dtype, shape, values)}; dtype F16, F32 or I64."""
    header, body = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        data = struct.pack(f"<{len(values)}{LETTERS[dtype]}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + body
    return whole[:len(whole) - truncate]


def npy(shape, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(
        f"<{len(values)}f", *values)


def waves(count, step):
    """Deterministic values within (-2, 2)."""
    return [((i * step) % 997) / 250.0 - 2.0 for i in range(count)]


