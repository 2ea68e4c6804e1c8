"""What takes part: a Contestant prepares Calls, and a Call is what is timed.

A file in contestants/ (or in a directory given with --contestants) defines one or more subclasses of
Contestant; each is found at run time and asked for its variants. A contestant that cannot take part says
why, in words that end up in the results.
"""
import hashlib
import importlib.util
import inspect
import os
import sys

PHASES = ("kernel", "quantization", "end_to_end")


class Unsupported(Exception):
    """This contestant does not do this shape; the text is the reason."""


def version_of(module):
    """What a module says of its version, or a digest of its file."""
    path = getattr(module, "__file__", None)
    if getattr(module, "__version__", None) or not path or not os.path.isfile(path):
        return str(getattr(module, "__version__", "unknown"))
    with open(path, "rb") as file:
        return f"{os.path.basename(path)} sha256:{hashlib.sha256(file.read()).hexdigest()[:16]}"


class Call:
    """One problem on one set of inputs. Methods enqueue work on the platform's current stream and return.

    A contestant that does not quantize leaves quantize None: its end-to-end time is that of its kernel. One
    whose kernel cannot be called alone leaves attend None.
    """
    quantize = None     # BF16 inputs to what attend reads
    attend = None       # the attention kernel alone
    end_to_end = None   # BF16 inputs to BF16 output; None: attend does that

    def output(self):
        """The BF16 (or better) output of the last call, [batch, head, token, channel]."""
        raise NotImplementedError

    def close(self):
        """Frees what Python does not."""

    def phases(self):
        functions = {"kernel": self.attend, "quantization": self.quantize, "end_to_end": self.end_to_end}
        return {phase: functions[phase] for phase in PHASES if functions[phase] is not None}

    def whole(self):
        return self.end_to_end or self.attend


class Contestant:
    name = ""
    precision = ""      # of the two products, "INT8 + FP8"
    notes = ""          # what a reader of its figures has to know
    patience_s = 90.0   # of one step (preparation, a sample) before it counts as hung

    def __init__(self, platform, options):
        self.platform = platform
        self.options = options

    @classmethod
    def variants(cls, platform, options):
        """The contestants that this class stands for; one unless there are several kernels."""
        return [cls(platform, options)]

    def unavailable(self):
        """None, or why it cannot run here."""
        return None

    def versions(self):
        """What identifies its code: results of another version are measured again."""
        return {}

    def supports(self, shape):
        """None, or why not this shape."""
        return None

    def prepare(self, shape, inputs):
        """A Call that is ready to be timed. Raises Unsupported."""
        raise NotImplementedError


def _load(path):
    name = "attention_contestant_" + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def discover(directories, platform, options):
    """(contestants, {name: why not}) of all files of the directories, in order of file name."""
    found, unavailable = [], {}
    for directory in directories:
        if not os.path.isdir(directory):
            raise ValueError(f"--contestants {directory}: there is no such directory")
        for entry in sorted(os.listdir(directory)):
            if not entry.endswith(".py") or entry.startswith("_"):
                continue
            module = _load(os.path.join(directory, entry))
            for cls in vars(module).values():
                if not (inspect.isclass(cls) and issubclass(cls, Contestant)
                        and cls.__module__ == module.__name__ and cls.name):
                    continue
                _add(cls, platform, options, found, unavailable)
    names = [contestant.name for contestant in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two contestants are called {', '.join(twice)}; names must differ")
    return found, unavailable


def _add(cls, platform, options, found, unavailable):
    try:
        for contestant in cls.variants(platform, options):
            why = contestant.unavailable()
            if why:
                unavailable[contestant.name] = why
            else:
                found.append(contestant)
    except Exception as error:   # a broken peer must not keep the others from running
        unavailable[cls.name] = f"{type(error).__name__}: {error}"
