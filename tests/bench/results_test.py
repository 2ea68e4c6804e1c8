"""The results file, its validator, what a run that continues keeps, and what a report makes of it."""
import copy
import os
import unittest
import xml.etree.ElementTree
from dataclasses import replace

from support import TINY, TINY_CAUSAL, BenchTest, fakes

from attention import protocol, report, results, svg

RULES = protocol.Protocol(warmups=1, samples=4, min_samples=2, sustained_seconds=0.02)


class WithResults(BenchTest):
    def store(self, machine, path=None, rules=RULES, **changes):
        environment = {**machine.environment(), **changes}
        return results.Store(path or self.path("r.json"), environment=environment, protocol=rules.as_dict(),
                             dry=machine.dry, command=["bench"], started="2026-01-01T00:00:00+00:00")

    def filled(self, *names, shape=TINY):
        """A store with the records of these fakes."""
        machine, fake = fakes()
        store = self.store(machine)
        chosen = [fake[name] for name in names]
        store.add(protocol.Measurement(machine, RULES, shape, chosen).run())
        return store


class Validator(WithResults):
    def setUp(self):
        super().setUp()
        self.document = self.filled("fast", "slow", "refuses", shape=TINY_CAUSAL).document

    def test_what_a_run_writes_is_valid(self):
        self.assertEqual(results.problems(self.document), [])
        self.assertEqual(results.read(self.path("r.json")), self.document)

    def test_mutations_are_found_and_named(self):
        def at(document, *keys):
            for key in keys:
                document = document[key]
            return document
        burst = ("records", 0, "times", "kernel", "burst")
        mutations = {
            "version 2; this": lambda d: d.update(schema_version=2),
            "schema is missing": lambda d: d.pop("schema"),
            "unknown field": lambda d: d.update(extra=1),
            "dry": lambda d: d.update(dry="no"),
            "driver is missing": lambda d: d["environment"].pop("driver"),
            "records without the session": lambda d: d.update(sessions=[]),
            "sessions[0].started": lambda d: d["sessions"][0].update(started=None),
            "status": lambda d: d["records"][0].update(status="fine"),
            "if and only if": lambda d: d["records"][0].update(times={}),
            "without a reason": lambda d: d["records"][2].update(reason=None),
            "q_len": lambda d: d["records"][0]["shape"].update(q_len=1.5),
            "causal": lambda d: d["records"][0]["shape"].pop("causal"),
            "unknown phase": lambda d: d["records"][0]["times"].update(lunch={}),
            "unknown regime": lambda d: at(d, *burst[:-1]).update(lazy=at(d, *burst)),
            "p10 <= median": lambda d: at(d, *burst).update(p10_ms=9e9),
            "0 samples": lambda d: at(d, *burst).update(samples=0),
            "samples: True": lambda d: at(d, *burst).update(samples=True),
            "tflops is missing": lambda d: at(d, *burst).pop("tflops"),
            "cosine": lambda d: at(d, "records", 0, "accuracy", "normal").update(cosine="good"),
            "there twice": lambda d: d["records"].append(copy.deepcopy(d["records"][0])),
        }
        for words, mutate in mutations.items():
            mutant = copy.deepcopy(self.document)
            mutate(mutant)
            found = "; ".join(results.problems(mutant))
            self.assertIn(words, found)
        self.assertTrue(results.problems([]))
        self.assertEqual(results.problems(self.document), [])   # mutants were copies

    def test_broken_files_are_named(self):
        path = self.path("broken.json")
        for text, words in (("{", "not JSON"), ("{}", "missing")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            with self.assertRaisesRegex(ValueError, f"broken.json: .*{words}"):
                results.read(path)


class Continuing(WithResults):
    def test_finished_results_are_kept(self):
        before = self.filled("slow").document["records"]
        machine, fake = fakes()
        store = self.store(machine)
        self.assertEqual(store.document["records"], before)
        self.assertTrue(store.finished(TINY, fake["slow"], False))
        self.assertFalse(store.finished(TINY_CAUSAL, fake["slow"], False))
        self.assertFalse(store.finished(TINY, fake["fast"], False))
        self.assertEqual(len(store.document["sessions"]), 2)

    def test_failures_are_kept_unless_they_are_to_be_tried_again(self):
        machine, fake = fakes()
        store = self.store(machine)
        many = replace(RULES, samples=100)
        store.add(protocol.Measurement(machine, many, TINY, [fake["breaks"]]).run())
        self.assertTrue(store.finished(TINY, fake["breaks"], False))
        self.assertFalse(store.finished(TINY, fake["breaks"], True))

    def test_results_of_another_version_of_a_contestant_are_measured_again(self):
        self.filled("slow")
        machine, fake = fakes()
        store = self.store(machine)
        fake["slow"].versions = lambda: {"fake": "2"}
        self.assertFalse(store.finished(TINY, fake["slow"], False))
        store.add(protocol.Measurement(machine, RULES, TINY, [fake["slow"]]).run())
        self.assertEqual(len(store.document["records"]), 1)   # replaced, not added
        self.assertEqual(store.document["records"][0]["versions"], {"fake": "2"})

    def test_results_of_another_machine_or_protocol_are_put_aside(self):
        for changes in ({"driver": "2"}, {"device": "another"}):
            self.filled("slow")
            machine, _ = fakes()
            store = self.store(machine, **changes)
            self.assertEqual(store.document["records"], [])
            self.assertIn("environment", store.notes[0])
        self.filled("slow")
        store = self.store(machine, rules=replace(RULES, samples=5))
        self.assertEqual(store.document["records"], [])
        self.assertIn("protocol", store.notes[0])
        for name in ("r.json.old", "r.json.old2", "r.json.old3"):
            self.assertTrue(os.path.exists(self.path(name)))
        self.assertEqual(results.read(self.path("r.json.old"))["records"][0]["contestant"], "fake slow")

    def test_files_are_replaced_where_they_are_with_the_permissions_of_the_umask(self):
        os.symlink("there", self.path("link"))
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        for text in ("first", "second"):
            results.write_text(self.path("link"), text)
            self.assertTrue(os.path.islink(self.path("link")))
            with open(self.path("there"), encoding="utf-8") as file:
                self.assertEqual(file.read(), text)
        self.assertEqual(os.stat(self.path("there")).st_mode & 0o777, 0o640)
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path("link")))), ["link", "there"])

    def test_deep_json_is_refused(self):
        with open(self.path("deep"), "w", encoding="utf-8") as file:
            file.write("[" * 1_000_000)
        with self.assertRaisesRegex(ValueError, "not JSON"):
            results.read(self.path("deep"))

    def test_a_write_that_fails_leaves_the_old_file(self):
        store = self.filled("slow")
        before = self.json(store.path)
        store.document["records"][0]["times"]["kernel"]["burst"]["median_ms"] = float("nan")   # no JSON
        with self.assertRaises(ValueError):
            store.save()
        self.assertEqual(self.json(store.path), before)
        self.assertEqual(os.listdir(self.directory), ["r.json"])


class Reports(WithResults):
    def test_dry_results_are_refused_unless_asked_for_and_then_stamped(self):
        document = self.filled("fast", "slow").document
        with self.assertRaisesRegex(report.DryResults, "made up"):
            report.Report(document)
        shown = report.Report(document, allow_dry=True)
        self.assertIn("DRY RUN", shown.markdown())
        for text in shown.plots("burst").values():
            self.assertIn("DRY RUN", text)
        document["dry"] = False
        measured = report.Report(document)
        self.assertNotIn("DRY RUN", measured.markdown())
        for text in measured.plots("burst").values():
            self.assertNotIn("DRY RUN", text)

    def test_the_tables_hold_the_recorded_figures(self):
        document = self.filled("fast", "slow").document
        slow = document["records"][1]
        slow["times"]["kernel"]["burst"]["tflops"] = 612.4
        slow["times"]["kernel"]["burst"]["clock_unstable"] = True
        text = report.Report(document, allow_dry=True).markdown()
        kernel = text.split("## Kernel alone, burst\n")[1].split("##")[0]
        self.assertRegex(kernel, r"\| `d8_full_b1h2_s6` \| [^|]+ \| 612† \|")
        end_to_end = text.split("## End to end from BF16 to BF16, burst\n")[1].split("##")[0]
        self.assertRegex(end_to_end, r"\| [^|]+ \| 612† \|")   # it does not quantize
        quantization = text.split("## Quantization alone, ms\n")[1].split("##")[0]
        self.assertRegex(quantization, r"\| 0.25 \|  \|")

    def test_wrong_output_is_marked_and_not_plotted(self):
        document = self.filled("fast", "wrong output").document
        shown = report.Report(document, allow_dry=True)
        self.assertIn("‡", shown.markdown())
        self.assertIn("Failed or wrong", shown.markdown())
        plot = shown.plots("burst")["d8_full_burst.svg"]
        self.assertIn("fake fast", plot)
        self.assertNotIn("fake with wrong output", plot)

    def test_reasons_are_told(self):
        document = self.filled("refuses", "slow", shape=TINY_CAUSAL).document
        document["unavailable"] = {"somebody": "is not installed"}
        text = report.Report(document, allow_dry=True).markdown()
        self.assertIn("| – |", text)
        self.assertIn("- somebody: is not installed", text)


class Plots(unittest.TestCase):
    def test_is_well_formed_and_places_points_by_value(self):
        text = svg.line_plot({"a & b": [(1024, 100.0), (4096, 200.0)], "c": [(1024, 400.0), (2048, 300.0)]},
                             title="t < u", subtitle="s", x_label="x", y_label="y")
        root = xml.etree.ElementTree.fromstring(text)
        space = "{http://www.w3.org/2000/svg}"
        lines = [[tuple(map(float, point.split(","))) for point in line.get("points").split()]
                 for line in root.findall(f"{space}polyline")]
        (x0, y0), (x1, y1) = lines[0]
        (x2, y2), (x3, y3) = lines[1]
        self.assertLess(x0, x3)                                  # 1k, 2k, 4k in equal steps
        self.assertAlmostEqual(x3 - x0, x1 - x3, delta=0.2)
        self.assertEqual(x0, x2)
        # From 100 to 400 it is three times as far as from 100 to 200.
        self.assertAlmostEqual((y0 - y2) / (y0 - y1), 3.0, delta=0.01)
        words = [element.text for element in root.iter(f"{space}text")]
        for expected in ("a & b", "c", "t < u", "1k", "2k", "4k", "500"):
            self.assertIn(expected, words)

    def test_labels_do_not_overlap(self):
        series = {f"contestant {i}": [(1024, 500.0 + i / 100), (2048, 500.0 + i / 100)] for i in range(12)}
        text = svg.line_plot(series, title="", subtitle="", x_label="", y_label="")
        root = xml.etree.ElementTree.fromstring(text)
        ys = sorted(float(element.get("y")) for element in root.iter()
                    if (element.text or "").startswith("contestant"))
        self.assertEqual(len(ys), 12)
        self.assertGreaterEqual(min(b - a for a, b in zip(ys, ys[1:])), svg.LABEL_HEIGHT - 0.11)
        self.assertLess(ys[-1], svg.HEIGHT)

    def test_scales_end_at_round_numbers(self):
        self.assertEqual([svg.nice_ceiling(v) for v in (0.9, 1, 101, 230, 251, 999, 0)],
                         [1, 1, 200, 250, 500, 1000, 1])


if __name__ == "__main__":
    unittest.main()
