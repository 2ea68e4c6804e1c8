#!/usr/bin/env python3
"""A report of sagegen-micro as a Markdown table: assumed beside measured.

    tools/bench/micro_table.py micro.json [--allow-dry]

Exit code: 0 a table, 2 the file is no report of a device.
"""
import argparse
import json
import sys


def figure(value):
    return f"{value:.4g}"


def rows(report):
    """(benchmark, assumed, measured) of every series; what did not finish has a word for its measure."""
    for name, entry in report["benchmarks"].items():
        assumed = entry.get("assumed")
        assumption = f"{figure(assumed['value'])} {assumed['unit']}" if assumed else ""
        if entry["status"] != "finished":
            yield name, assumption, f"{entry['status']}: {entry.get('reason', 'the run was cut off')}"
            continue
        if "finding" in entry:
            yield name, assumption, entry["finding"]
        for series in entry["results"]:
            if series["median"] is None:
                yield name, assumption, f"{series['label']}: dry"
                continue
            low, high = figure(series["p10"]), figure(series["p90"])
            yield (name, assumption,
                   f"{series['label']}: {figure(series['median'])} [{low}, {high}] {series['unit']}")


def table(report):
    lines = [f"{report['device']}, driver {report['driver_version']}, {report['date']}, "
             f"`sagegen-micro {report['command']}`"]
    if report["dry"]:
        lines[0] = f"**DRY RUN, nothing was measured.** {lines[0]}"
    lines += ["", "| benchmark | assumed | measured: median [p10, p90] |", "|---|---|---|"]
    lines += [f"| `{name}` | {assumed} | {measured} |" for name, assumed, measured in rows(report)]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("--allow-dry", action="store_true", help="show a dry run, marked as such")
    arguments = parser.parse_args()
    try:
        with open(arguments.report, encoding="utf-8") as file:
            report = json.load(file)
        if not isinstance(report, dict) or report.get("schema") != 1 or "benchmarks" not in report:
            raise ValueError("not a report of sagegen-micro with schema 1")
        if report["dry"] and not arguments.allow_dry:
            raise ValueError("a dry run measures nothing; --allow-dry shows it all the same")
        print(table(report))
    except (OSError, ValueError, KeyError, RecursionError) as error:
        print(f"micro_table: {arguments.report}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
