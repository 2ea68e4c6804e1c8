#!/usr/bin/env python3
"""Runs checked attention on given inputs for every target and mode, and prints one table.

  tools/accuracy_table.py --sagegen build/bin/sagegen --input FILE [--prefix NAME ...]
  tools/accuracy_table.py --sagegen build/bin/sagegen --dist outlier k_bias -- --q-len 1024

A target runs on the first GPU that can take its PTX, else in the emulator; the column `device` says
which. `model` is the error of the number formats alone (double precision in everything else), `emit`
the time to make the PTX of all kernels of the row. Arguments behind `--` go to `sagegen run`. Exit
status 1 if any run misses a bound (of the whole, or of a single row) or the emulator has findings.
"""
import argparse
import json
import subprocess
import sys


def call(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"{' '.join(command)}\nfailed with exit status {done.returncode}:\n{done.stderr}")


def modes_of(target):
    """(label, options of `sagegen run`) of the modes that a target offers."""
    fp16 = ('int8-fp16', ['--mode', 'int8-fp16'])
    fp16_plain = ('int8-fp16, K not smoothed', ['--mode', 'int8-fp16', '--smoothing', 'none'])
    fp8 = ('int8-fp8', ['--mode', 'int8-fp8'])
    fp8_plain = ('int8-fp8, K not smoothed', ['--mode', 'int8-fp8', '--smoothing', 'none'])
    int4 = 'int4-fp8' if target['has_fp8_mma'] else 'int4-fp16'
    return (([fp8, fp8_plain, fp16] if target['has_fp8_mma'] else [fp16, fp16_plain]) +
            ([(int4, ['--mode', int4])] if target['has_s4_mma'] else []))


def device_for(target, gpus):
    wanted = int(''.join(c for c in target['target'] if c.isdigit()))
    for gpu in gpus:
        major, minor = gpu['compute_capability'].split('.')
        if wanted <= int(major) * 10 + int(minor):
            return gpu['device']
    return 'emulator'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--sagegen', required=True, help='the binary')
    parser.add_argument('--input', help='safetensors file with q, k, v')
    parser.add_argument('--prefix', nargs='*', default=[''], help='prefixes of the tensors in it')
    parser.add_argument('--dist', nargs='*', default=[], help='generated inputs, too')
    parser.add_argument('--markdown', action='store_true', help='a Markdown table')
    parser.add_argument('rest', nargs='*', help='further options of `sagegen run`, behind --')
    arguments = parser.parse_args()

    sagegen = arguments.sagegen
    _, targets = call([sagegen, 'targets', '--json'])
    _, devices = call([sagegen, 'devices', '--json'])
    gpus = [d for d in devices['devices'] if d['device'].startswith('cuda')]
    if not gpus:
        print(f"no GPU ({devices.get('why_no_cuda', 'none found')}): running in the emulator", file=sys.stderr)

    inputs = []
    if arguments.input:
        for prefix in arguments.prefix:
            inputs.append((prefix or arguments.input,
                           ['--input', arguments.input] + (['--prefix', prefix] if prefix else [])))
    inputs += [(name, ['--dist', name]) for name in arguments.dist]

    header = ['target', 'mode', 'inputs', 'cosine similarity', 'relative L1', 'of model', 'RMSE', 'emit', 'device']
    widths = [7, 26, 8, 17, 11, 9, 9, 8, 15]
    failed = []

    def number(value, form):
        return '-' if value is None else form.format(value)   # a kernel was stopped

    def show(cells):
        if arguments.markdown:
            print('| ' + ' | '.join(cells) + ' |', flush=True)
        else:
            print('  '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip(), flush=True)

    show(header)
    show(['---'] * len(header) if arguments.markdown else ['-' * width for width in widths])
    for target in targets['targets']:
        for label, options in modes_of(target):
            for name, source in inputs:
                status, run = call([sagegen, 'run', '--json', '--target', target['target'],
                                    '--device', device_for(target, gpus)] + source + options + arguments.rest)
                if status or not run['passed'] or run['findings']:
                    failed.append(f"{target['target']} {label} {name}")
                cosine = run['cosine_similarity']
                show([target['target'], label, name, number(cosine and 100 * cosine, '{:.4f} %'),
                      number(run['relative_l1'], '{:.5f}'), number(run['model']['relative_l1'], '{:.5f}'),
                      number(run['rmse'], '{:.6f}'), f"{run['emit_ms']:.0f} ms", run['device']])
    for row in failed:
        print(f'a bound missed or findings: {row}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
