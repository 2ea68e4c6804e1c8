#!/usr/bin/env python3
"""sagegen-micro as a person calls it. Usage: micro_cli_test.py PATH-TO-SAGEGEN-MICRO"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
TABLE = pathlib.Path(__file__).resolve().parents[2] / 'tools' / 'bench' / 'micro_table.py'


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120)


class MicroCli(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_list_and_ptx_agree(self) -> None:
        names = [line.split()[0] for line in call('list').stdout.splitlines()]
        self.assertIn('rate_ex2', names)
        self.assertEqual(call('ptx', '--out', str(self.folder / 'ptx')).returncode, 0)
        files = {path.stem: path.read_text() for path in (self.folder / 'ptx').glob('*.ptx')}
        for name in names:
            kernels = [text for stem, text in files.items() if stem.startswith(name)]
            self.assertTrue(kernels, name)
        for name, text in files.items():
            self.assertIn('.target sm_90a', text, name)

    def test_a_dry_run_writes_its_report(self) -> None:
        out = self.folder / 'report.json'
        run = call('run', '--device', 'emulator:sm_90', '--out', str(out), '--only', 'rate_lop3',
                   '--only', 'wgmma_s8_n128_1wg', f'--cubin={self.folder}/')
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn('the result is right', run.stdout)
        self.assertIn('not executed', run.stdout)
        report = json.loads(out.read_text())
        self.assertTrue(report['dry'])
        self.assertEqual(report['command'], 'run --device emulator:sm_90 --out report.json --only rate_lop3 '
                         f'--only wgmma_s8_n128_1wg --cubin={self.folder.name}')
        self.assertEqual(report['driver'], '')
        self.assertFalse(list(self.folder.glob('.*')))

    def test_a_full_disk_is_noticed(self) -> None:
        for arguments in (['list'], ['--help']):
            with open('/dev/full', 'wb') as full:
                run = subprocess.run([PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE)
            self.assertEqual(run.returncode, 1)
            self.assertTrue(run.stderr.startswith(b'sagegen-micro: '), run.stderr)

    def test_a_report_that_is_none_is_left_alone(self) -> None:
        out = self.folder / 'report.json'
        for text, why in ((b'{"benchmarks":' + b'[' * 10_000_000, 'is not a report'), (b'text', 'is not a report')):
            out.write_bytes(text)
            run = call('run', '--device', 'emulator:sm_90', '--out', str(out), '--only', 'rate_lop3')
            self.assertEqual(run.returncode, 1)
            self.assertIn(why, run.stderr)
            self.assertEqual(out.read_bytes(), text)

    def table(self, report: dict, *arguments: str) -> subprocess.CompletedProcess:
        path = self.folder / 'report.json'
        path.write_text(json.dumps(report))
        return subprocess.run([sys.executable, str(TABLE), str(path), *arguments], capture_output=True, text=True)

    def test_a_report_becomes_a_table(self) -> None:
        series = {'label': 'rate', 'unit': 'lanes', 'median': 15.987, 'p10': 15.9, 'p90': 16.0, 'samples': 9}
        report = {'schema': 1, 'dry': False, 'device': 'D', 'driver_version': 13000, 'date': 'T', 'command': 'run',
                  'benchmarks': {
                      'a': {'status': 'finished', 'results': [series],
                            'assumed': {'value': 16.0, 'unit': 'lanes', 'source': 'S'}},
                      'b': {'status': 'failed', 'reason': 'the results are wrong'},
                      'c': {'status': 'started'}}}
        shown = self.table(report)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn('| `a` | 16 lanes | rate: 15.99 [15.9, 16] lanes |', shown.stdout)
        self.assertIn('| `b` |  | failed: the results are wrong |', shown.stdout)
        self.assertIn('| `c` |  | started: the run was cut off |', shown.stdout)
        refused = self.table({**report, 'dry': True})
        self.assertEqual((refused.returncode, refused.stdout), (2, ''))
        self.assertIn('DRY RUN', self.table({**report, 'dry': True}, '--allow-dry').stdout)
        self.assertEqual(self.table({**report, 'schema': 2}).returncode, 2)

    def test_bad_requests(self) -> None:
        out = ['--out', str(self.folder / 'report.json')]
        for arguments, text in (
                ([], 'subcommand'),
                (['run', '--device', 'emulator:sm_90'], '--out'),
                (['run', '--device', 'gpu', *out], 'emulator:sm_90'),
                (['run', '--device', 'emulator:sm_90', *out, '--only', 'rate'], "named 'rate'"),
                (['run', '--device', 'emulator:sm_90', *out, '--cubin', '/nowhere'], '/nowhere'),
                (['run', '--device', 'emulator:sm_90', *out, '--seconds-load', '99'], '99'),
                (['run', '--device', 'emulator:sm_90', *out, '--seconds-load', 'nan'], 'nan is no time'),
                (['run', '--device', 'emulator:sm_90', '--out', '/nowhere/report.json'], '/nowhere')):
            with self.subTest(arguments=arguments):
                run = call(*arguments)
                self.assertNotEqual(run.returncode, 0)
                self.assertIn(text, run.stdout + run.stderr)
        self.assertFalse((self.folder / 'report.json').exists())


if __name__ == '__main__':
    unittest.main()
