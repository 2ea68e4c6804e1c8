"""What the tests of `sagegen run` share: a small problem, tensors, and runs of them."""
from support import OK, CliTest, has_generator, safetensors, waves

GENERATOR = has_generator()
SMALL = ("--device", "emulator", "--heads", 2, "--q-len", 70, "--kv-len", 65, "--head-dim", 64)
METRICS = ("cosine_similarity", "relative_l1", "rmse", "max_abs")


def qkv(channels=64, tokens=9, dtype="F16"):
    count = 2 * tokens * channels
    return {name: (dtype, [1, 2, tokens, channels], waves(count, step))
            for name, step in (("q", 37), ("k", 91), ("v", 53))}


class RunTest(CliTest):
    def run_json(self, *arguments, code=OK):
        return self.expect_json(code, "run", *arguments)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def run_file(self, tensors, *arguments):
        return ("run", "--device", "emulator", "--input", self.write("in.safetensors", safetensors(tensors)),
                *arguments)
