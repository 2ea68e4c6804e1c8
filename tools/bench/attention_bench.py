#!/usr/bin/env python3
"""Attention benchmark: sagegen's kernels and their peers on one GPU, speed and accuracy.

    tools/bench/attention_bench.py run --out results.json --budget 540    on a GPU, within nine minutes
    tools/bench/attention_bench.py run --out dry.json --dry               anywhere; durations are made up
    tools/bench/attention_bench.py report results.json --out DIR          Markdown and SVG
    tools/bench/attention_bench.py check results.json                     is it a valid results file?

A run that was cut off, or whose budget ended, continues when it is started again with the same file. If a
contestant takes the device down with it or hangs, a new process goes on; one that did so twice is left out.
Exit code: 0 done, 1 something failed or is wrong, 2 usage, 3 no device, 4 the budget ended before the list.
"""
import argparse
import os
import sys
from dataclasses import replace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from attention import contestant, platform, protocol, report, results, shapes, watch   # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DONE, WRONG, USAGE, NO_DEVICE, UNFINISHED = range(5)
MAX_LOSSES = 2


def find_library():
    """libsagegen.so beside this script (a carried copy), or in the usual build directories."""
    root = os.path.dirname(os.path.dirname(HERE))
    for directory in (HERE, f"{root}/build/runtime", f"{root}/build/static-llvm/runtime",
                      f"{root}/build/runtime-only/runtime"):
        path = os.path.join(directory, "libsagegen.so")
        if os.path.exists(path):
            return path
    return None


def parser():
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and write a results file", allow_abbrev=False)
    run.add_argument("--out", required=True, metavar="FILE", help="results; continued if it exists")
    run.add_argument("--dry", nargs="?", const="sm_89", metavar="PROFILE",
                     help="no GPU, no PyTorch: made-up durations, tiny shapes, sagegen on the emulator")
    run.add_argument("--device", type=int, default=0, metavar="N", help="CUDA device (default 0)")
    run.add_argument("--budget", type=float, metavar="SECONDS", help="start no shape that would end later")
    run.add_argument("--quick", action="store_true", help="four shapes instead of the grid")
    run.add_argument("--only", action="append", default=[], metavar="WORDS",
                     help="contestants whose name contains this (repeatable)")
    run.add_argument("--shapes", metavar="WORDS",
                     help="shapes whose name contains this, for example d128_causal")
    run.add_argument("--samples", type=int, metavar="N", help="rounds of a burst measurement")
    run.add_argument("--sustained", type=float, metavar="SECONDS", help="0: no sustained measurements")
    run.add_argument("--retry-failed", action="store_true", help="measure again what failed")
    run.add_argument("--contestants", action="append", default=[], metavar="DIR", help="more contestants")
    run.add_argument("--sagegen", dest="sagegen_library", default=find_library(), metavar="PATH",
                     help="libsagegen.so")
    run.add_argument("--ptx", dest="ptx_directory", metavar="DIR", help="more kernels of sagegen, <key>.ptx")
    run.add_argument("--all-families", action="store_true", help="sagegen's kernels of lower targets, too")
    run.add_argument("--triton-tutorial", metavar="PATH", help="Triton's tutorial 06-fused-attention.py")
    run.add_argument("--flash-attention3", metavar="DIR", help="where flash_attn_interface is")
    run.add_argument("--sage-attention", metavar="DIR", help="where the package sageattention is")
    show = commands.add_parser("report", help="Markdown and SVG from a results file")
    show.add_argument("results")
    show.add_argument("--out", required=True, metavar="DIR")
    show.add_argument("--allow-dry", action="store_true", help="show a dry run, stamped as such")
    commands.add_parser("check", help="validate a results file").add_argument("results")
    return main


def open_platform(arguments):
    if arguments.dry:
        return platform.DryPlatform(arguments.dry)
    try:
        from attention.platform_torch import TorchPlatform
    except ImportError as error:
        raise RuntimeError(f"PyTorch is needed to measure ({error}); --dry needs none") from error
    return TorchPlatform(arguments.device)


def chosen_protocol(arguments):
    full = protocol.BUDGETED if arguments.budget else protocol.Protocol()
    chosen = protocol.DRY if arguments.dry else full
    if arguments.samples is not None:
        chosen = replace(chosen, samples=arguments.samples,
                         min_samples=min(chosen.min_samples, arguments.samples))
    if arguments.sustained is not None:
        chosen = replace(chosen, sustained_seconds=arguments.sustained)
    return chosen


def chosen_shapes(arguments):
    every = shapes.dry() if arguments.dry else shapes.quick() if arguments.quick else shapes.grid()
    found = [shape for shape in every if not arguments.shapes or arguments.shapes in shape.name]
    if not found:
        raise ValueError(f"--shapes {arguments.shapes}: none of {', '.join(shape.name for shape in every)}")
    return found


def chosen_contestants(arguments, machine):
    found, unavailable = contestant.discover(
        [os.path.join(HERE, "attention", "contestants"), *arguments.contestants], machine, vars(arguments))
    names = [*(one.name for one in found), *unavailable]
    for words in arguments.only:
        if not any(words in name for name in names):
            raise ValueError(f"--only {words}: none of {', '.join(names)}")
    if arguments.only:
        found = [one for one in found if any(words in one.name for words in arguments.only)]
    if not found:
        why = "\n".join(f"  {name}: {reason}" for name, reason in unavailable.items())
        raise ValueError(f"there is nobody to measure:\n{why}")
    return found, unavailable


def measure(arguments, machine, store, contestants, todo, watched):
    """True if the whole list is done."""
    began, longest = machine.now(), 0.0
    for index, shape in enumerate(todo):
        missing = [one for one in contestants if not store.finished(shape, one, arguments.retry_failed)
                   and store.count(one, protocol.DeviceLost.MARK) < MAX_LOSSES]
        if not missing:
            continue
        spent = machine.now() - began
        if arguments.budget is not None and spent + longest > arguments.budget:
            left = len(todo) - index
            print(f"budget: {spent:.0f} s of {arguments.budget:.0f} s spent, {left} shapes left; "
                  "run the same command again", flush=True)
            return False
        started = machine.now()
        records = protocol.Measurement(machine, chosen_protocol(arguments), shape, missing,
                                       watched).run()
        longest = max(longest, machine.now() - started)
        store.add(records)
        for record in records:
            print(line_of(record), flush=True)
    return True


def line_of(record):
    times = record["times"].get("kernel") or record["times"].get("end_to_end")
    result = f"{times['burst']['tflops']:9.3g} TFLOPS" if times else f"{record['status']}: {record['reason']}"
    wrong = f"  WRONG: {'; '.join(record['suspicions'])}" if record["suspicions"] else ""
    return f"{record['shape']['name']:<32} {record['contestant']:<48} {result}{wrong}"


def go_on(arguments, spent):
    """The same command in a new process, with what is left of the budget; does not return."""
    command = [sys.executable, *(word for word in sys.argv if word != "--retry-failed")]
    if arguments.budget is not None:
        command += ["--budget", f"{max(0.001, arguments.budget - spent):.3f}"]   # the last one counts
    os.execv(sys.executable, command)


def run(arguments):
    if arguments.budget is not None and arguments.budget <= 0:
        raise ValueError(f"--budget {arguments.budget}: a budget is a positive number of seconds")
    todo, rules = chosen_shapes(arguments), chosen_protocol(arguments)
    try:
        machine = open_platform(arguments)
    except RuntimeError as error:
        print(f"attention_bench: {error}", file=sys.stderr)
        return NO_DEVICE
    contestants, unavailable = chosen_contestants(arguments, machine)
    store = results.Store(arguments.out, environment=machine.environment(), protocol=rules.as_dict(),
                          dry=machine.dry, command=["attention_bench.py", *sys.argv[1:]],
                          started=protocol.today())
    for note in store.notes + getattr(machine, "notes", []):
        print(f"note: {note}", flush=True)
    store.document["unavailable"] = unavailable
    print(", ".join(f"{key} {value}" for key, value in machine.environment().items()), flush=True)
    for one in contestants:
        print(f"with {one.name}: " + ", ".join(f"{key} {value}" for key, value in one.versions().items()))
    for name, why in unavailable.items():
        print(f"without {name}: {why}", flush=True)
    began = machine.now()

    def hung(reason):
        print(f"{reason}: a new process goes on", flush=True)
        go_on(arguments, machine.now() - began)
    watched = watch.Watch(arguments.out, hung)
    lost = watched.leftover()
    if lost and not store.notes:   # else it is of another device or protocol, as is what was moved
        store.add([lost])
        print(line_of(lost), flush=True)
    store.save()
    try:
        complete = measure(arguments, machine, store, contestants, todo, watched)
    except protocol.DeviceLost as lost:
        store.add(list(lost.records))
        print(f"the device is lost to this process: {lost}", flush=True)
        complete = None
    finally:
        store.document["sessions"][-1]["ended"] = protocol.today()
        store.save()
    if complete is None:
        go_on(arguments, machine.now() - began)
    records = store.document["records"]
    bad = [record for record in records if record["status"] == "failed" or record["suspicions"]]
    print(f"{len(records)} records in {arguments.out}, {len(bad)} of them failed or wrong"
          + ("; DRY RUN: durations are made up" if machine.dry else ""))
    return UNFINISHED if not complete else WRONG if bad else DONE


def main():
    arguments = parser().parse_args()
    try:
        if arguments.command == "run":
            return run(arguments)
        document = results.read(arguments.results)
        if arguments.command == "check":
            print(f"{arguments.results}: valid, {len(document['records'])} records"
                  + (", of a dry run" if document["dry"] else ""))
            return DONE
        for path in report.Report(document, arguments.allow_dry).write(arguments.out):
            print(path)
        return DONE
    except (ValueError, OSError) as error:
        print(f"attention_bench: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
