"""`sagegen tune` and `sagegen cache`: sweeps that stop and go on, candidates that hang or die, and what is kept of it."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
import unittest
from html.parser import HTMLParser

from support import (BOUND_BY_PERMISSIONS, CHECK_FAILED, FILE, FULL_DISK, OK, SPEC, TOOL, USAGE, CliTest, has_generator,
                     has_ptxas, sagegen)

SMALL = ("--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 130, "--heads", 1)
FEW = ("--filter", "q64k64w4s[12]|q128k64w8s2")   # with the default four candidates
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# Appended to a page: what lies where, once the browser has laid it out.
MEASURE = """<pre id="measured"></pre><script>
const result = {outside: [], overlapping: [], bars: []};
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  for (const text of texts) {
    const box = text.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
      result.outside.push(text.textContent);
  }
  for (let i = 0; i < texts.length; ++i) for (let j = 0; j < i; ++j) {
    const a = texts[i].getBoundingClientRect(), b = texts[j].getBoundingClientRect();
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 0.3 * a.height) result.overlapping.push(texts[i].textContent + " | " + texts[j].textContent);
  }
  for (const bar of svg.querySelectorAll("rect")) result.bars.push(bar.getBoundingClientRect().width);
}
document.getElementById("measured").textContent = JSON.stringify(result);
</script>"""
VOID = {"meta", "br", "rect", "line"}


def children_of(pid):
    """As fast as possible: some are to be met before they do anything."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                    parent = file.read().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(name))
    return found


class Page(HTMLParser):
    """Checks that what is opened is closed, and takes the words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags = [], "", []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def resealed(text):
    """An exported text whose sums are right again."""
    head, *entries = text.split("sagegen.tuned\t1\n")
    for index, entry in enumerate(entries):
        body = "sagegen.tuned\t1\n" + entry[:entry.rindex("sum\t")]
        value = 0xcbf29ce484222325
        for byte in body.encode():
            value = (value ^ byte) * 0x100000001b3 % 2**64
        entries[index] = f"{body}sum\t{value:016x}\n"
    return head + "".join(entries)


def outcomes(problem):
    return {line["schedule"]: line["outcome"] for line in problem["schedules"]}


@unittest.skipUnless(has_generator(), "built without the generator")
class Tune(CliTest):
    def setUp(self):
        super().setUp()
        self.cache = ("--cache", self.path("cache"))

    def tune(self, *arguments, code=OK):
        cache = () if "--cache" in arguments else self.cache
        return self.expect_json(code, "tune", *cache, *arguments)

    @staticmethod
    def text(file):
        with open(file, encoding="utf-8") as opened:
            return opened.read()

    def entries(self):
        return self.expect_json(OK, "cache", "list", *self.cache)["entries"]

    def test_a_sweep_checks_counts_and_keeps(self):
        report = self.tune(*SMALL)
        self.assertTrue(report["complete"])
        problem, = report["problems"]
        self.assertEqual(problem["unit"], "instructions")
        self.assertEqual(problem["class"], "h1g1q256k256")
        timed = [line for line in problem["schedules"] if "instructions" in line]
        self.assertEqual(len(timed), len(problem["schedules"]))
        self.assertGreater(len(timed), 20)
        self.assertEqual([line["instructions"] for line in timed], sorted(line["instructions"] for line in timed))
        fastest = timed[0]
        usual = next(line for line in timed if line["schedule"] == problem["default"])
        self.assertLess(fastest["instructions"], 0.98 * usual["instructions"])
        self.assertEqual(problem["winner"], fastest["schedule"])
        entry, = self.entries()
        self.assertEqual(entry["schedule"], problem["winner"])
        self.assertEqual(entry["device"], "emulated sm_89")
        self.assertEqual(entry["unit"], "instructions")
        self.assertEqual(entry["file"], problem["stored"])
        self.assertEqual(self.expect_json(OK, "cache", "verify", *self.cache)["good"], 1)

    def test_a_filter_is_an_experiment(self):
        report = self.tune(*SMALL, *FEW)
        problem, = report["problems"]
        timed = {line["schedule"] for line in problem["schedules"] if "instructions" in line}
        self.assertEqual(timed, {"q128k64w4s2", "q64k64w4s1", "q64k64w4s2", "q128k64w8s2"})
        for line in problem["schedules"]:
            if line["schedule"] not in timed:
                self.assertEqual((line["outcome"], line["reason"]), ("pruned", "not in --filter"))
        self.assertEqual((problem["stored"], self.entries()), (None, []))

    def test_a_second_sweep_repeats_nothing(self):
        first = self.tune(*SMALL)
        before = os.stat(first["problems"][0]["stored"])
        journal = self.path("cache", "sweeps", os.listdir(self.path("cache", "sweeps"))[0])
        lines = self.text(journal)
        measured = self.entries()[0]["measured"]
        time.sleep(1.1)
        second = self.tune(*SMALL)
        self.assertEqual(second["problems"], first["problems"])
        self.assertEqual(os.stat(first["problems"][0]["stored"]).st_mtime_ns, before.st_mtime_ns)
        self.assertEqual(self.text(journal), lines)
        # Where the entry is lost it comes back with the time of the sweep.
        os.remove(first["problems"][0]["stored"])
        self.tune(*SMALL)
        self.assertEqual(self.entries()[0]["measured"], measured)
        self.tune(*SMALL, "--again")
        self.assertGreater(self.entries()[0]["measured"], measured)

    def test_the_last_problem_of_a_class_counts(self):
        self.tune(*SMALL)
        first, = self.entries()
        time.sleep(1.1)
        self.tune("--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 200, "--heads", 1)
        second, = self.entries()
        self.assertIn("q_len 200", second["conditions"])
        self.tune(*SMALL)   # known, and older
        self.assertEqual(self.entries(), [second])
        self.assertNotEqual(first, second)

    def test_again_forgets_all_problems_of_the_command(self):
        shapes = self.path("shapes")
        with open(shapes, "w", encoding="utf-8") as file:
            file.write("heads=1 q_len=20\nheads=2 q_len=20\n")
        base = ("--device", "emulator:sm_89", "--head-dim", 32, "--shapes", shapes)
        self.tune(*base)
        report = self.tune(*base, "--again", "--budget", 0.01)
        self.assertFalse(report["complete"])
        self.assertEqual(len(os.listdir(self.path("cache", "sweeps"))), 1)   # the second has not begun

    def test_causal_problems_see_the_keys_before_the_last_query(self):
        def instructions(kv_len):
            report = self.tune("--device", "emulator:sm_89", "--head-dim", 64, "--causal", "--heads", 1, "--q-len", 1,
                               "--kv-len", kv_len, "--filter", "q64k64w4s2")
            problem, = report["problems"]
            return next(line["instructions"] for line in problem["schedules"] if line["schedule"] == problem["default"])
        self.assertGreater(instructions(1024), 3 * instructions(64))

    def test_tiles_of_block_sparse_masks_are_given(self):
        problem, = self.tune("--device", "emulator:sm_89", "--plan", "head_dim=64 blocksparse=true", "--heads", 1,
                             "--q-len", 130)["problems"]
        self.assertEqual({line["outcome"] for line in problem["schedules"]}, {"passed"})
        self.assertEqual({line["schedule"][:7] for line in problem["schedules"]}, {"q128k64"})

    def test_another_default_is_another_sweep(self):
        few = ("--device", "emulator:sm_89", "--q-len", 20, "--heads", 1, "--filter", "none")
        first, = self.tune(*few, "--plan", "head_dim=64")["problems"]
        other = first["kernel"].replace("q128k64w4s2", "q64k64w2s2")
        second, = self.tune(*few, "--plan", other)["problems"]
        self.assertEqual((first["default"], second["default"]), ("q128k64w4s2", "q64k64w2s2"))

    def test_a_problem_that_is_not_possible_stops_no_other(self):
        shapes = self.path("shapes")
        with open(shapes, "w", encoding="utf-8") as file:
            file.write("heads=1 q_len=20\nheads=70000 q_len=1\nheads=1 q_len=40\n")
        report = self.tune("--device", "emulator:sm_89", "--head-dim", 32, "--filter", "q64k64w4s2", "--shapes",
                           shapes, code=CHECK_FAILED)
        self.assertEqual([("error" in problem, problem["complete"]) for problem in report["problems"]],
                         [(False, True), (True, False), (False, True)], report["problems"][1])
        self.assertIn("heads", report["problems"][1]["error"])

    def test_a_budget_stops_a_sweep_and_the_same_command_goes_on(self):
        whole = self.tune(*SMALL, *FEW, "--cache", self.path("whole"))
        lives = 0
        while True:
            report = self.tune(*SMALL, *FEW, "--budget", 0.05)
            lives += 1
            if report["complete"]:
                break
            self.assertEqual(report["problems"][-1]["stored"], None)
            self.assertGreater(report["problems"][-1]["steps_left"], 0)
            self.assertLess(lives, 100)
        self.assertGreater(lives, 1)
        self.assertEqual([line for line in report["problems"][0]["schedules"]],
                         [line for line in whole["problems"][0]["schedules"]])

    def start(self, *arguments):
        return subprocess.Popen([TOOL, "tune", "--json", *map(str, self.cache + arguments)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)

    def wait_for_lines(self, count):
        folder = self.path("cache", "sweeps")
        for _ in range(3000):
            if os.path.isdir(folder) and os.listdir(folder):
                with open(os.path.join(folder, os.listdir(folder)[0]), encoding="utf-8") as file:
                    lines = file.read().splitlines()
                if len(lines) >= count:
                    return lines
            time.sleep(0.01)
        self.fail("the journal does not grow")

    def test_ctrl_c_ends_in_good_order(self):
        process = self.start(*SMALL)
        self.wait_for_lines(6)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, -signal.SIGINT, err)   # which shells show as 130
        self.assertIn(b'"complete": false', out)
        before = self.wait_for_lines(1)
        self.assertFalse([line for line in before if "\tfaulted\t" in line])
        report = self.tune(*SMALL)
        self.assertTrue(report["complete"])
        after = self.wait_for_lines(1)
        self.assertEqual(after[:len(before)], before)
        checked = [line.split("\t")[1] for line in after if line.startswith("trial\t")]
        self.assertEqual(len(checked), len(set(checked)))

    def test_a_candidate_that_ends_the_process_is_recorded_and_the_sweep_goes_on(self):
        # One that dies between two candidates is replaced, and none is blamed.
        for _ in range(5):
            shutil.rmtree(self.path("cache"), ignore_errors=True)
            process = self.start(*SMALL)
            self.wait_for_lines(8)
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(int(children.stdout), signal.SIGSEGV)
            out, err = process.communicate(timeout=240)
            self.assertEqual(process.returncode, OK, err)
            self.assertIn(b'"complete": true', out)
            faulted = [line for line in self.wait_for_lines(8) if "\tfaulted\t" in line]
            if faulted:
                break
        self.assertEqual(len(faulted), 1)
        self.assertIn("signal 11", faulted[0])

    def test_a_child_that_is_killed_leaves_an_object_all_the_same(self):
        process = self.start(*SMALL)
        self.wait_for_lines(8)
        child, = children_of(process.pid)
        os.kill(child, signal.SIGSTOP)   # as if it hung: it cannot end in good order
        process.send_signal(signal.SIGTERM)
        os.kill(child, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        error = json.loads(out)["error"]
        self.assertEqual((error["kind"], error["exit_code"]), ("interrupted", 130))
        self.assertIn("the same command goes on from here", error["message"])
        self.assertIn(b"sagegen: interrupted\n", err)

    def test_children_that_are_killed_before_they_do_anything_end_it(self):
        for _ in range(20):   # one that has begun with a candidate is this candidate's death
            shutil.rmtree(self.path("cache"), ignore_errors=True)
            process = self.start(*SMALL)
            while process.poll() is None:
                for child in children_of(process.pid):
                    try:
                        os.kill(child, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            out, _ = process.communicate(timeout=60)
            if process.returncode not in (OK, CHECK_FAILED):
                break
        self.assertEqual(process.returncode, 70)
        error = json.loads(out)["error"]
        self.assertEqual((error["kind"], error["exit_code"]), ("internal error", 70))
        self.assertIn("signal 9", error["message"])

    def test_a_hangup_that_is_ignored_is_ignored(self):
        process = subprocess.Popen([TOOL, "tune", "--json", *map(str, self.cache + SMALL + FEW)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.wait_for_lines(1)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, OK, err)
        self.assertTrue(json.loads(out)["complete"])

    def test_filters_that_would_backtrack_for_ever(self):
        for pattern in ("((((.*)*)*)*)*$z", "(((((((.*.*)*.*.*)*.*.*)*)*)*)*)*z", "(.|.)*(.|.)*(.|.)*(.|.)*(.|.)*z"):
            problem, = self.tune(*SMALL, "--filter", pattern)["problems"]
            self.assertEqual({line["outcome"] for line in problem["schedules"]} - {"passed"}, {"pruned"})
        for pattern, why in (("(a)\\1", "back references"), ("(" * 5000, "at most 500 characters"), ("(", "regular expression"), ("(((a{99}){99}){99}){99}", "regular expression")):
            self.expect_error(USAGE, "usage error", ["--filter", why], "tune", *self.cache, *SMALL, "--filter", pattern)

    def test_a_candidate_that_hangs_is_killed(self):
        report = self.tune(*SMALL, *FEW, "--patience", 0.001, code=CHECK_FAILED)
        problem, = report["problems"]
        self.assertEqual(problem["winner"], None)
        usual, = problem["schedules"]
        self.assertEqual((usual["schedule"], usual["outcome"]), (problem["default"], "hung"))
        self.assertIn("0.001 s", usual["reason"])
        self.assertEqual(self.entries(), [])

    def test_a_sample_that_hangs_is_killed_in_whichever_problem(self):
        shapes = self.path("shapes")
        with open(shapes, "w", encoding="utf-8") as file:
            file.write("heads=1 q_len=20\nheads=4 q_len=16000\n")
        report = sagegen("tune", "--json", *self.cache, "--device", "emulator:sm_89", "--head-dim", 64, "--shapes", shapes,
                         "--filter", "q64k64w4s2", "--patience", 4).json()
        first, second = report["problems"]
        self.assertTrue(first["complete"] and second["complete"])
        self.assertNotIn("hung", outcomes(first).values())
        self.assertIn(sorted(set(outcomes(second).values())), (["hung", "passed", "pruned"], ["hung", "pruned"]))

    def test_the_end_of_the_parent_is_that_of_the_child(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
            shutil.rmtree(self.path("cache"), ignore_errors=True)
            process = self.start(*SMALL)
            self.wait_for_lines(8)
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, -number)
            if number != signal.SIGKILL:
                self.assertFalse(json.loads(out)["complete"])
            for _ in range(500):
                if not os.path.exists(f"/proc/{children.stdout.strip()}"):
                    break
                time.sleep(0.01)
            else:
                self.fail("the child lives on")
            lines = self.wait_for_lines(1)
            self.assertFalse([line for line in lines if "\tfaulted\t" in line or "\thung\t" in line])
        self.assertTrue(self.tune(*SMALL)["complete"])

    def test_shapes_plans_and_shards(self):
        shapes = self.path("shapes")
        with open(shapes, "w", encoding="utf-8") as file:
            file.write("# two\nheads=1 q_len=20\n\nbatch=2 heads=2 kv_heads=1 q_len=10 kv_len=70  # long\n")
        base = ("--device", "emulator:sm_89", "--shapes", shapes,
                "--plan", "head_dim=64", "--plan", "head_dim=32 io=bf16 causal=true")
        report = self.tune(*base)
        self.assertEqual([(problem["kernel"].split("_d")[1][:2], problem["class"]) for problem in report["problems"]],
                         [("64", "h1g1q32k32"), ("64", "h4g2q16k128"), ("32", "h1g1q32k32"), ("32", "h4g2q16k128")])
        parts = []
        for part in (1, 2, 3):
            cache = self.path(f"shard{part}")
            parts += self.tune(*base, "--shard", f"{part}/3", "--cache", cache)["problems"]
        self.assertEqual(sorted((problem["kernel"], problem["class"]) for problem in parts),
                         sorted((problem["kernel"], problem["class"]) for problem in report["problems"]))
        merged = ("--cache", self.path("merged"))
        self.expect(OK, "cache", "merge", self.path("shard1"), self.path("shard2"), self.path("shard3"), *merged)
        keys = [(entry["what"], entry["class"], entry["schedule"]) for entry in self.entries()]
        of_merged = self.expect_json(OK, "cache", "list", *merged)["entries"]
        self.assertEqual([(entry["what"], entry["class"], entry["schedule"]) for entry in of_merged], keys)
        self.assertEqual(len(keys), 4)
        exported = self.path("exported")
        self.expect(OK, "cache", "export", "--out", exported, *merged)
        for change, word in (("sm_89", "../sm_89"), ("q128k64w4s2", "q128k64w4s77"), ("\th1g1q32k32", "\t")):
            with open(self.path("hostile"), "w", encoding="utf-8") as file:
                file.write(resealed(self.text(exported).replace(change, word)))
            self.expect_error(FILE, "file error", [], "cache", "import", self.path("hostile"), "--cache", self.path("victim"))
        self.assertFalse(os.path.exists(self.path("victim")))
        with open(self.path("same"), "w", encoding="utf-8") as file:
            file.write(resealed(self.text(exported)))
        self.assertEqual(self.expect_json(OK, "cache", "import", self.path("same"), "--cache", self.path("victim"))["stored"], 4)

    def test_folders_that_cannot_be_written_lose_nothing(self):
        small = ("--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 16, "--heads", 1)
        whole = self.tune(*small)
        exported = self.path("exported")
        self.expect(OK, "cache", "export", "--out", exported, *self.cache)
        for name in ("sweeps", "tuning", "."):
            os.chmod(self.path("cache", name), 0o500)
            self.addCleanup(os.chmod, self.path("cache", name), 0o700)
        os.chmod(self.path("cache", "sweeps", os.listdir(self.path("cache", "sweeps"))[0]), 0o400)
        bound = {"before": BOUND_BY_PERMISSIONS}
        self.assertIn("1 good", self.expect(OK, "cache", "verify", *self.cache, **bound).out)
        for arguments in (("tune", *small), ("tune", *small, "--again"), ("cache", "clear"),
                          ("cache", "export", "--out", self.path("cache", "x"))):
            self.expect_error(FILE, "file error", ["Permission denied"], *arguments, *self.cache, **bound)
        self.expect_error(FILE, "file error", ["Permission denied"], "cache", "import", exported, "--cache",
                          self.path("cache", "sweeps"), **bound)
        for name in (".", "tuning"):
            os.chmod(self.path("cache", name), 0o700)
        self.assertEqual([entry["file"] for entry in self.entries()], [problem["stored"] for problem in whole["problems"]])

    def test_a_sweep_on_a_full_disk_goes_on_when_there_is_room(self):
        self.expect_error(FILE, "file error", ["File too large"], "tune", *self.cache, *SMALL, limits=FULL_DISK)
        journal, = os.listdir(self.path("cache", "sweeps"))
        kept = self.text(self.path("cache", "sweeps", journal))
        report = self.tune(*SMALL)
        self.assertTrue(report["complete"])
        whole = self.text(self.path("cache", "sweeps", journal))
        self.assertTrue(whole.startswith(kept[:kept.rindex("\n") + 1]))
        self.assertEqual(len(self.entries()), 1)

    def test_the_page(self):
        html = self.path("report.html")
        report = self.tune(*SMALL, *FEW, "--html", html)
        with open(html, encoding="utf-8") as file:
            page = Page(file.read())
        self.assertIn("emulated sm_89", page.text)
        self.assertIn("no time of any GPU", page.text)
        self.assertIn(report["problems"][0]["kernel"], page.text)
        for line in report["problems"][0]["schedules"]:
            self.assertIn(line["schedule"], page.text)
        self.assertEqual(len([1 for tag, _ in page.tags if tag == "rect"]), 4)
        for tag, attributes in page.tags:   # nothing is fetched
            self.assertFalse({"src", "href"} & attributes.keys(), tag)

    @unittest.skipUnless(BROWSER, "there is no chromium here")
    def test_the_page_in_a_browser(self):
        """Nothing leaves its drawing or lies upon its neighbour, and the page fits a small screen."""
        html = self.path("report.html")
        report = self.tune(*SMALL, "--html", html)   # all schedules: those that are pruned, too
        timed = [line for line in report["problems"][0]["schedules"] if line["samples"]]
        with open(html, "a", encoding="utf-8") as file:
            file.write(MEASURE)
        for width in (1200, 400):
            done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                                   f"--user-data-dir={self.path('profile')}", f"--window-size={width},900",
                                   "--virtual-time-budget=5000", "--dump-dom", "file://" + html],
                                  capture_output=True, text=True, timeout=120, check=False)
            found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
            self.assertTrue(found, done.stderr[-2000:])
            measured = json.loads(found.group(1))
            self.assertEqual(measured["outside"], [], width)
            self.assertEqual(measured["overlapping"], [], width)
            self.assertEqual(len(measured["bars"]), len(timed))
            self.assertGreater(min(measured["bars"]), 1)
            # The slowest is the longest, and all begin where they should.
            self.assertEqual(max(range(len(timed)), key=lambda i: measured["bars"][i]),
                             max(range(len(timed)), key=lambda i: timed[i]["of_default"]))

    def test_what_is_refused(self):
        def refused(code, kind, parts, *arguments):
            self.expect_error(code, kind, parts, "tune", *self.cache, *arguments)
        shapes = self.path("shapes")
        for text, part in (("", "no shape"), ("heads=0 q_len=3", '"heads=0"'), ("heads=4", "needs heads=N and q_len=N"),
                           ("heads=4 q_len=3 size=7", '"size=7"'), ("heads=4 kv_heads=3 q_len=8", "kv_heads divides"),
                           ("batch=9223372036854775807 heads=3 q_len=1", "the most is"),
                           ("x", ':1: "x"'), ("# c\nheads=1 q_len=1e3", ":2:")):
            with open(shapes, "w", encoding="utf-8") as file:
                file.write(text)
            refused(FILE, "file error", [part], "--device", "emulator:sm_89", "--shapes", shapes)
        refused(USAGE, "usage error", ["kv_heads divides heads"], *SMALL, "--kv-heads", 3)
        refused(USAGE, "usage error", ["--mode", "nonsense"], *SMALL, "--mode", "nonsense")
        refused(USAGE, "usage error", ["--patience"], *SMALL, "--patience", 0)
        refused(USAGE, "usage error", ["--checks is refused on --device cuda:0"], "--device", "cuda:0", "--checks", "off")
        refused(USAGE, "usage error", ["--order-seed says nothing"], *SMALL, "--order-seed", 3)
        with open(shapes, "w", encoding="utf-8") as file:
            file.write("heads=1 q_len=20")
        refused(USAGE, "usage error", ["same file"], "--device", "emulator:sm_89", "--shapes", shapes, "--html", shapes)
        refused(USAGE, "usage error", ["I/N"], *SMALL, "--shard", "3/2")
        refused(USAGE, "usage error", ["I/N"], *SMALL, "--shard", "0/2")
        refused(USAGE, "usage error", ["regular expression"], *SMALL, "--filter", "(")
        refused(USAGE, "usage error", ["the plan says it"], *SMALL, "--plan", "head_dim=64")
        refused(SPEC, "spec error", ["head_dim"], "--device", "emulator:sm_89", "--plan", "head_dim=63")
        refused(USAGE, "argument error", ["graphs"], *SMALL, "--deployment", "graph")
        self.expect_error(FILE, "file error", ["/dev/null/x", "folder cannot be made"], "tune", *SMALL, "--cache", "/dev/null/x")
        refused(USAGE, "usage error", ["codes of the caller"], "--device", "emulator:sm_89", "--plan",
                "head_dim=64 inputs=given smoothing=none")


@unittest.skipUnless(has_generator(), "built without the generator")
class Bundle(CliTest):
    PLAN = ("--plan", "head_dim=32 causal=true")

    def test_a_sweep_runs_from_a_bundle_alone(self):
        bundle = self.path("candidates.bundle")
        report = self.expect_json(OK, "bundle", *self.PLAN, "--target", "sm_89", "--out", bundle)
        self.assertEqual(report["bytes"], os.path.getsize(bundle))
        schedules = [key for key in report["kernels"] if key.startswith("sage_fwd_")]
        problem = ("--device", "emulator:sm_89", *self.PLAN, "--q-len", 40, "--heads", 1)
        swept = {}
        for ptx in ("generator", bundle):
            result = self.expect_json(OK, "tune", *problem, "--ptx", ptx, "--cache", self.path(ptx[-3:]))
            problem_of_it, = result["problems"]
            swept[ptx] = [(line["schedule"], line["outcome"], line.get("instructions"))
                          for line in problem_of_it["schedules"]]
        self.assertEqual(swept["generator"], swept[bundle])
        self.assertEqual(len(schedules), len(swept[bundle]))
        # Of the default alone there is nothing to choose from.
        usual = self.path("usual.bundle")
        report = self.expect_json(OK, "bundle", *self.PLAN, "--target", "sm_89", "--usual", "--out", usual)
        self.assertEqual(len([key for key in report["kernels"] if key.startswith("sage_fwd_")]), 1)
        result = self.expect_json(OK, "tune", *problem, "--ptx", usual, "--cache", self.path("usual"))
        self.assertEqual([line["outcome"] for line in result["problems"][0]["schedules"]],
                         ["passed"] + (len(schedules) - 1) * ["refused"])

    @unittest.skipUnless(has_ptxas(), "no ptxas")
    def test_machine_code_lies_beside_ptx(self):
        out = ("--usual", "--target", "sm_89", "--out", self.path("b.bundle"))
        without = self.expect_json(OK, "bundle", *self.PLAN, *out)
        self.assertEqual((without["cubin_bytes"], without["ptxas"]), (0, None))
        report = self.expect_json(OK, "bundle", *self.PLAN, "--cubins", *out)
        self.assertEqual(report["kernels"], without["kernels"])
        self.assertRegex(report["ptxas"], r"^\d+\.\d+\.\d+$")
        self.assertGreater(report["cubin_bytes"], 1000 * len(report["kernels"]))
        # The emulator takes the PTX of it.
        self.expect_json(OK, "run", "--device", "emulator:sm_89", "--head-dim", 32, "--causal", "top-left", "--q-len", 40, "--ptx",
                         self.path("b.bundle"))

    def test_machine_code_needs_ptxas(self):
        os.environ["SAGEGEN_PTXAS"] = self.path("none")
        self.addCleanup(os.environ.pop, "SAGEGEN_PTXAS")
        self.expect_error(FILE, "file error", ["ptxas", self.path("none"), "tools/install_ptxas.sh"], "bundle", *self.PLAN,
                          "--cubins", "--target", "sm_89", "--out", self.path("x.bundle"))
        self.assertFalse(os.path.exists(self.path("x.bundle")))

    def test_every_target_that_has_it(self):
        report = self.expect_json(OK, "bundle", "--plan", "head_dim=64 qk=s4", "--target", "all", "--usual", "--out",
                                  self.path("all.bundle"))
        self.assertEqual(report["plans"], 3)
        self.assertEqual(len(report["left_out"]), 1)
        self.assertIn("sm_120", report["left_out"][0])

    def test_what_is_refused(self):
        out = ("--out", self.path("x.bundle"))
        self.expect_error(SPEC, "spec error", ["sm_120"], "bundle", "--plan", "head_dim=64 qk=s4", "--target", "sm_120", *out)
        self.expect_error(SPEC, "spec error", ["head_dim"], "bundle", "--plan", "head_dim=63", "--target", "all", *out)
        self.expect_error(FILE, "file error", ["/dev/null is no folder"], "bundle", *self.PLAN, "--target", "sm_89", "--out", "/dev/null/x/o")
        self.expect_error(USAGE, "usage error", ["prepares inputs"], "bundle", "--plan",
                          "sage_quantrows_d64_f16_s8_r8_g32_fold__sm89", "--target", "sm_89", *out)
        self.assertFalse(os.path.exists(self.path("x.bundle")))


class Cache(CliTest):
    def test_an_empty_cache(self):
        cache = ("--cache", self.path("none"))
        self.assertEqual(self.expect_json(OK, "cache", "list", *cache)["entries"], [])
        self.assertEqual(self.expect_json(OK, "cache", "clear", *cache)["removed"], 0)
        self.assertIn("no entries", self.expect(OK, "cache", "list", *cache).out)
        self.assertFalse(os.path.exists(self.path("none")))

    def test_damaged_entries_are_named(self):
        cache = ("--cache", self.path("cache"))
        os.makedirs(self.path("cache", "tuning"))
        with open(self.path("cache", "tuning", "sm_89-1.tuned"), "w", encoding="utf-8") as file:
            file.write("rubbish")
        report = self.expect_json(CHECK_FAILED, "cache", "verify", *cache)
        self.assertEqual((report["good"], report["stale"], report["damaged"]), (0, 0, 1))
        self.assertIn("no entry of a tuning database", report["entries"][0]["error"])
        self.expect_error(FILE, "file error", ["rubbish"], "cache", "import", "/rubbish", *cache)
        self.expect_error(FILE, "file error", ["no exported"], "cache", "import",
                          self.path("cache", "tuning", "sm_89-1.tuned"), *cache)

    def test_machine_code_is_listed_checked_and_removed(self):
        cache = ("--cache", self.path("cache"), "--code")
        self.assertEqual(self.expect_json(OK, "cache", "list", *cache)["entries"], [])
        os.makedirs(self.path("cache", "code"))
        with open(self.path("cache", "code", "sm89-0.code"), "w", encoding="utf-8") as file:
            file.write("rubbish")
        self.assertEqual(self.expect_json(OK, "cache", "list", *cache[:2])["code"],
                         {"folder": self.path("cache", "code"), "entries": 1, "bytes": 7})
        report = self.expect_json(CHECK_FAILED, "cache", "verify", *cache)
        self.assertEqual((report["good"], report["damaged"]), (0, 1))
        self.assertIn("no entry of a code cache", report["entries"][0]["error"])
        self.assertIn("1 damaged", self.expect(OK, "cache", "list", *cache).out)
        # Without the flag results are meant, and nothing else goes.
        self.assertEqual(self.expect_json(OK, "cache", "clear", *cache[:2])["removed"], 0)
        self.assertEqual(self.expect_json(OK, "cache", "clear", *cache)["removed"], 1)
        self.assertEqual(os.listdir(self.path("cache", "code")), [])
        self.expect_error(USAGE, "usage error", ["--code is refused"], "cache", "export", "--out", self.path("x"), *cache)

    def test_what_is_refused(self):
        cache = ("--cache", self.path("cache"))
        self.expect_error(USAGE, "usage error", ["export needs --out"], "cache", "export", *cache)
        self.expect_error(USAGE, "usage error", ["take no names"], "cache", "list", "x", *cache)
        self.expect_error(USAGE, "usage error", ["give one or more"], "cache", "show", *cache)
        self.expect_error(USAGE, "usage error", ["no entry is named x"], "cache", "show", "x", *cache)
        self.expect_error(FILE, "file error", ["no folder"], "cache", "merge", "/dev/null", *cache)
        self.expect_error(USAGE, "usage error", ["only export"], "cache", "list", "--out", "x", *cache)


if __name__ == "__main__":
    unittest.main()
