"""Recorded results as a Markdown report and SVG plots. Nothing is measured here."""
import os

from . import results, svg

STAMP = "DRY RUN"


class DryResults(ValueError):
    """A dry run's made-up durations were about to be shown as if they were measured."""


def _cell(record, phase, regime, field):
    summary = record["times"].get(phase, {}).get(regime)
    if phase == "end_to_end" and record["end_to_end_is_kernel"]:
        summary = record["times"].get("kernel", {}).get(regime)
    if summary is None:
        return {"failed": "failed", "unsupported": "–"}.get(record["status"], "")
    mark = ("†" if summary["clock_unstable"] else "") + ("‡" if record["suspicions"] else "")
    if field == "tflops":
        return f"{summary['tflops']:{'.0f' if summary['tflops'] >= 10 else '.3g'}}{mark}"
    return f"{summary[field]:.3g}{mark}"


def _table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


class Report:
    def __init__(self, document, allow_dry=False):
        if document["dry"] and not allow_dry:
            raise DryResults("these are results of a dry run: their durations are made up. --allow-dry shows "
                             "them all the same, stamped on every page")
        self.document = document
        self.records = document["records"]
        self.contestants = list(dict.fromkeys(record["contestant"] for record in self.records))
        shapes = {record["shape"]["name"]: record["shape"] for record in self.records}
        self.shapes = sorted(shapes.values(), key=lambda s: (
            s["data"] != "normal", s["head_dim"], s["causal"], s["q_heads"] // s["kv_heads"], s["q_len"]))
        self.by_key = {(record["shape"]["name"], record["contestant"]): record for record in self.records}

    def _grid(self, phase, regime, field):
        rows = []
        for shape in self.shapes:
            cells = [_cell(self.by_key[key], phase, regime, field) if key in self.by_key else ""
                     for key in ((shape["name"], contestant) for contestant in self.contestants)]
            if any(cells):
                rows.append([f"`{shape['name']}`", *cells])
        return rows

    def markdown(self):
        document, lines = self.document, ["# Attention benchmark", ""]
        if document["dry"]:
            lines += [f"**{STAMP}: durations are made up, nothing here was measured.**", ""]
        lines += _table(["environment", ""], [[str(key), str(value)]
                                              for key, value in document["environment"].items()])
        for session in document["sessions"]:
            lines.append(f"- {session['started']}: `{' '.join(session['command'])}`")
        lines += ["", "Speeds are TFLOPS at the median (TOPS for integer products): 4 B H Sq Sk D "
                  "operations, half of that if causal; quantization counts none. – not supported; † the SM "
                  "clock moved by more than the protocol allows; ‡ its output is wrong, see the end.", ""]
        header = ["shape", *self.contestants]
        sections = (("Kernel alone, burst", "kernel", "burst", "tflops"),
                    ("Kernel alone, sustained", "kernel", "sustained", "tflops"),
                    ("End to end from BF16 to BF16, burst", "end_to_end", "burst", "tflops"),
                    ("End to end, sustained", "end_to_end", "sustained", "tflops"),
                    ("Quantization alone, ms", "quantization", "burst", "median_ms"),
                    ("Kernel alone, burst, p10 in ms", "kernel", "burst", "p10_ms"),
                    ("Kernel alone, burst, p90 in ms", "kernel", "burst", "p90_ms"))
        for title, *what in sections:
            rows = self._grid(*what)
            if rows:
                lines += [f"## {title}", "", *_table(header, rows)]
        return "\n".join(lines + self._accuracy() + self._remarks())

    def _accuracy(self):
        rows = []
        for record in self.records:
            for distribution, figures in (record["accuracy"] or {}).items():
                if "failed" in figures:
                    rows.append([f"`{record['shape']['name']}`", record["contestant"], distribution,
                                 figures["failed"], "", "", "", "", ""])
                    continue
                rows.append([f"`{record['shape']['name']}`", record["contestant"], distribution,
                             f"{100 * figures['cosine']:.4f} %", f"{figures['relative_l1']:.5f}",
                             f"{figures['rmse']:.3g}", f"{figures['max_abs']:.3g}", str(figures["nan_count"]),
                             f"{figures['worst_head']['relative_l1']:.5f}"])
        header = ["shape", "contestant", "inputs", "cosine", "relative L1", "RMSE", "max", "NaN",
                  "worst head L1"]
        return ["## Accuracy against fp64", "", *_table(header, sorted(rows))] if rows else []

    def _remarks(self):
        lines = [f"- {name}: {why}" for name, why in self.document["unavailable"].items()]
        lines = ["## Not measured", "", *lines, ""] if lines else []
        remarks = []
        for record in self.records:
            where = f"- {record['contestant']} on `{record['shape']['name']}`: "
            if record["status"] == "failed":
                remarks.append(where + f"failed: {record['reason']}")
            remarks += [where + suspicion for suspicion in record["suspicions"]]
        notes = dict.fromkeys(f"- {record['contestant']} ({record['precision']}): {record['notes']}"
                              for record in self.records if record["notes"])
        return lines + (["## Failed or wrong", "", *remarks, ""] if remarks else []) + (
            ["## Notes", "", *notes, ""] if notes else [])

    def plots(self, regime):
        """{file name: SVG text}: TFLOPS of the kernel over the sequence length, per head dim and mask."""
        groups = {}
        for record in self.records:
            shape = record["shape"]
            summary = record["times"].get("kernel", {}).get(regime)
            square = shape["q_len"] == shape["kv_len"] and shape["data"] == "normal"
            if summary is None or record["suspicions"] or not square:
                continue
            key = (shape["head_dim"], shape["causal"], shape["q_heads"] // shape["kv_heads"])
            series = groups.setdefault(key, {}).setdefault(record["contestant"], {})
            series.setdefault(shape["q_len"], summary["tflops"])
        environment, found = self.document["environment"], {}
        for (head_dim, causal, ratio), series in groups.items():
            mask, heads = "causal" if causal else "full", f"_gqa{ratio}" if ratio > 1 else ""
            found[f"d{head_dim}_{mask}{heads}_{regime}.svg"] = svg.line_plot(
                {contestant: sorted(points.items()) for contestant, points in series.items()},
                title=f"Attention kernel alone, head dim {head_dim}, {mask}"
                      + (f", {ratio} query heads per key head" if ratio > 1 else ""),
                subtitle=f"{environment['device']}, driver {environment['driver']}, {regime}, "
                         f"{self.document['sessions'][-1]['started'][:10]}",
                x_label="sequence length", y_label="TFLOPS (TOPS)",
                stamp=STAMP if self.document["dry"] else None)
        return found

    def write(self, directory):
        """Writes report.md and the plots; returns their paths."""
        os.makedirs(directory, exist_ok=True)
        files = {"report.md": self.markdown(), **self.plots("burst"), **self.plots("sustained")}
        for name, text in files.items():
            results.write_text(os.path.join(directory, name), text)
        return [os.path.join(directory, name) for name in files]
