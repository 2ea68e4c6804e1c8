"""What `--help` says of every command: it fits a terminal, its examples can be run, its exit codes are documented."""
import json
import os
import re
import shlex
import unittest

from support import (FWD, OK, SOURCE, USAGE, CliTest, has_generator, has_ptxas, npy, safetensors, sagegen, waves)

COLUMNS = 80
CAUSAL = FWD.replace("_f32x2", "_f32x2_causal")
SCALE = """.version 7.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .u32 n)
{
  ret;
}
"""


def commands():
    return re.findall(r"^  ([a-z]+) ", sagegen("--help").out.split("Subcommands:")[1].split("\n\n")[0], re.MULTILINE)


def examples(command):
    """Command lines, joined where a backslash ends them, without what is said beside them."""
    text = sagegen(*command, "--help").out.split("Examples:\n")[1].replace(" \\\n      ", " ")
    for line in re.findall(r"^  ((?:source <\()?sagegen .*)$", text, re.MULTILINE):
        yield re.split(r"  +", line)[0]


class Width(CliTest):
    def test_every_help_fits(self):
        for command in ([], *([name] for name in commands())):
            for line in self.expect(OK, *command, "--help").out.split("\n"):
                self.assertLessEqual(len(line), COLUMNS, f"{command}: {line}")
                self.assertEqual(line, line.rstrip(), command)

    def test_usage_in_errors_fits(self):
        for command in ([], *([name] for name in commands())):
            for line in self.expect(USAGE, *command, "--frobnicate").err.split("\n"):
                self.assertLessEqual(len(line), COLUMNS, f"{command}: {line}")
        for line in self.expect(USAGE, "frobnicate").err.split("\n"):
            self.assertLessEqual(len(line), COLUMNS, line)

    def test_long_lists_of_options_have_headings(self):
        for command in commands():
            text = self.expect(OK, command, "--help").out
            groups = re.findall(r"^([A-Z][\w ]+):\n((?:  .*\n)+)", text.split("Examples:")[0], re.MULTILINE)
            for heading, lines in groups:
                self.assertLessEqual(len(re.findall(r"^  -", lines, re.MULTILINE)), 16 if command != "tune" else 99, (command, heading))
        text = self.expect(OK, "run", "--help").out
        for heading in ("Kernel", "Inputs", "Masks and biases", "Judging", "Emulator"):
            self.assertIn(f"\n\n{heading}:\n  -", text)


class Examples(CliTest):
    def setUp(self):
        super().setUp()
        tensors = {name: ("F16", [1, 2, 9, 64], waves(2 * 9 * 64, step)) for name, step in (("q", 7), ("k", 11), ("v", 13))}
        layers = {f"{layer}.{name}": tensor for layer in ("layer0", "layer1") for name, tensor in tensors.items()}
        files = {"qkv.safetensors": safetensors({**tensors, **layers}), "layers.safetensors": safetensors(layers), "mine.toml": b'[[attention]]\ntargets = "sm_89"\nhead_dim = 64\n',
                 "my_kernels.toml": b'[[attention]]\ntargets = "sm_89"\n', "scale.ptx": SCALE.encode(),
                 "copy.ptx": SCALE.replace(", .param .u32 n", "").encode(), "x.npy": npy([64, 128], waves(8192, 5)), "ref.npy": npy([64, 128], waves(8192, 5)),
                 "map.yaml": b"0:\n  nbits_key: 8\n  nbits_value: 4\n", "hf_quant_config.json": b'{"quantization": {"kv_cache_quant_algo": "FP8"}}',
                 "launch.toml": b'ptx = "scale.ptx"\nblock = 32\narg = ["u64=0", "u64=0", "u32=0"]\n',
                 "tuned.txt": sagegen("cache", "export", "--cache", self.path("none"), "--out", "/dev/stdout").out.encode()}
        for name in "qkv":
            files[f"{name}.npy"] = npy([1, 2, 9, 64], tensors[name][2])
        for name, content in files.items():
            with open(self.path(name), "wb") as file:
                file.write(content)

    @unittest.skipUnless(has_generator(), "the embedded set has not all of these kernels")
    def test_they_run(self):
        """All but those that need a GPU, a repository, ptxas or many seconds: unit_cli parses these, too."""
        count = 0
        elsewhere = re.compile(r"^sagegen (tune|generate|bundle|compare)|^source <|cuda:0|/mnt/|--schedules|--target all|--mode 16bit|--gpu|--pick")
        for command in commands():
            for line in examples([command]):
                count += 1
                words = [(CAUSAL if "causal" in line else FWD) if word == "KEY" else word for word in shlex.split(line.split(" | ")[0], comments=False)]
                if elsewhere.search(line):
                    continue
                with self.subTest(line=line):
                    needs = "--model" in line or "--schedules" in line or "--svg" in line
                    if needs and not has_ptxas():
                        continue
                    if words[1] == "run":   # so that it is soon done
                        words += ["--judge-rows", "8"]
                    result = sagegen(*words[1:], cwd=self.directory)
                    self.assertIn(result.code, (0, 1) if words[1] == "emu" else (0,), f"{line}\n{result.err}")
        self.assertGreaterEqual(count, 2 * len(commands()))

    def test_every_command_has_two(self):
        for command in commands():
            self.assertGreaterEqual(len(list(examples([command]))), 2, command)


class ExitCodes(CliTest):
    def test_they_are_documented(self):
        text = self.expect(OK, "--help").out.split("Exit codes:\n")[1]
        said = re.findall(r"^ {2,4}(\d+)  (.*)$", text, re.MULTILINE)
        self.assertEqual([int(code) for code, _ in said], [0, 1, 2, 3, 4, 5, 6, 70, 71, 130])
        with open(os.path.join(SOURCE, "docs", "reference.md"), encoding="utf-8") as file:
            section = file.read().split("### Exit codes\n")[1].split("\n#")[0]
        self.assertEqual(re.findall(r"^\| (\d+) \| (.*?) \|", section, re.MULTILINE), said)

    def test_an_error_says_its_own(self):
        report = json.loads(self.expect(USAGE, "run", "--json", "--device", "toaster").out)
        self.assertEqual(report["error"]["exit_code"], USAGE)


if __name__ == "__main__":
    unittest.main()
