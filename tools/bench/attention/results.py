"""The results file: one JSON document, rewritten as a whole after each record, so that a run that is cut off
loses nothing and the next one goes on where it stopped.

    schema, schema_version, dry, environment, protocol
    sessions      [{command, started, ended}]: one per run that added to the file
    unavailable   {contestant: why}, of the last session
    records       one per shape and contestant; see RECORD
"""
import json
import os

SCHEMA = "sagegen.attention_bench"
SCHEMA_VERSION = 1
STATUSES = ("measured", "unsupported", "failed")

NUMBER, TEXT, COUNT = (int, float), str, int
MAYBE = type(None)
SUMMARY = {"median_ms": NUMBER, "p10_ms": NUMBER, "p90_ms": NUMBER, "samples": COUNT, "discarded": COUNT,
           "clock_unstable": bool, "clock_mhz": (dict, MAYBE)}
FIGURES = {"cosine": NUMBER, "relative_l1": NUMBER, "rmse": NUMBER, "max_abs": NUMBER, "nan_count": COUNT,
           "compared": COUNT, "worst_head": dict}
SHAPE = {"name": TEXT, "batch": COUNT, "q_heads": COUNT, "kv_heads": COUNT, "q_len": COUNT, "kv_len": COUNT,
         "head_dim": COUNT, "causal": bool, "data": TEXT}
RECORD = {"shape": dict, "contestant": TEXT, "precision": TEXT, "notes": TEXT, "versions": dict,
          "status": TEXT, "reason": (TEXT, MAYBE), "graph": bool, "end_to_end_is_kernel": bool, "times": dict,
          "accuracy": (dict, MAYBE), "suspicions": list, "telemetry": dict, "date": (TEXT, MAYBE)}
SESSION = {"command": list, "started": TEXT, "ended": (TEXT, MAYBE)}
DOCUMENT = {"schema": TEXT, "schema_version": COUNT, "dry": bool, "environment": dict, "protocol": dict,
            "sessions": list, "unavailable": dict, "records": list}


def _fields(value, spec, where, found):
    """Complains about fields that are missing, unknown or of another type; true if `value` can be read on."""
    if not isinstance(value, dict):
        found.append(f"{where}: expected an object, found {type(value).__name__}")
        return False
    for key in spec.keys() - value.keys():
        found.append(f"{where}: field {key} is missing")
    for key in value.keys() - spec.keys():
        found.append(f"{where}: unknown field {key}")
    for key in spec.keys() & value.keys():
        kinds = spec[key] if isinstance(spec[key], tuple) else (spec[key],)
        wrong_bool = isinstance(value[key], bool) and bool not in kinds
        if wrong_bool or not isinstance(value[key], kinds):
            found.append(f"{where}.{key}: {value[key]!r} is no {' or '.join(k.__name__ for k in kinds)}")
    return not any(line.startswith(where) for line in found)


def _check_summary(value, phase, where, found):
    spec = dict(SUMMARY) if phase == "quantization" else {**SUMMARY, "tflops": NUMBER}
    if not _fields(value, spec, where, found):
        return
    if not 0 < value["p10_ms"] <= value["median_ms"] <= value["p90_ms"]:
        found.append(f"{where}: times are not 0 < p10 <= median <= p90")
    if value["samples"] < 1 or value["discarded"] < 0:
        found.append(f"{where}: {value['samples']} samples, {value['discarded']} discarded")


def _check_record(record, where, found):
    if not _fields(record, RECORD, where, found):
        return
    _fields(record["shape"], SHAPE, f"{where}.shape", found)
    if record["status"] not in STATUSES:
        found.append(f"{where}.status: {record['status']!r} is none of {', '.join(STATUSES)}")
    if (record["status"] == "measured") != bool(record["times"]):
        found.append(f"{where}: a record has times if and only if it is measured")
    if record["status"] in ("unsupported", "failed") and not record["reason"]:
        found.append(f"{where}: status {record['status']} without a reason")
    for phase, regimes in record["times"].items():
        if phase not in ("kernel", "quantization", "end_to_end") or not isinstance(regimes, dict):
            found.append(f"{where}.times: unknown phase {phase}")
            continue
        for regime, summary in regimes.items():
            if regime not in ("burst", "sustained"):
                found.append(f"{where}.times.{phase}: unknown regime {regime}")
            _check_summary(summary, phase, f"{where}.times.{phase}.{regime}", found)
    for name, figures in (record["accuracy"] or {}).items():
        if not (isinstance(figures, dict) and "failed" in figures):
            _fields(figures, FIGURES, f"{where}.accuracy.{name}", found)


def problems(document):
    """Everything that makes this no results document, as sentences that say where."""
    found = []
    if not _fields(document, DOCUMENT, "document", found):
        return found
    if document["schema"] != SCHEMA or document["schema_version"] != SCHEMA_VERSION:
        found.append(f"document: {document['schema']} version {document['schema_version']}; this program "
                     f"reads {SCHEMA} version {SCHEMA_VERSION}")
        return found
    for field in ("device", "driver"):
        if not isinstance(document["environment"].get(field), str):
            found.append(f"document.environment: {field} is missing: no figure without its device and driver")
    for index, session in enumerate(document["sessions"]):
        _fields(session, SESSION, f"sessions[{index}]", found)
    if document["records"] and not document["sessions"]:
        found.append("document: records without the session (command, date) that measured them")
    seen = set()
    for index, record in enumerate(document["records"]):
        _check_record(record, f"records[{index}]", found)
        if isinstance(record, dict) and isinstance(record.get("shape"), dict):
            key = (record["shape"].get("name"), record.get("contestant"))
            if key in seen:
                found.append(f"records[{index}]: {key[1]} on {key[0]} is there twice")
            seen.add(key)
    return found


def read(path):
    """Raises ValueError that names the file and what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    found = problems(document)
    if found:
        raise ValueError(f"{path}: " + "; ".join(found[:5]))
    return document


def write(path, document):
    """Replaces the file in one step: a reader finds the old document or the new one."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def write_text(path, text):
    """The same for any text. A symbolic link keeps its place; permissions are those of the umask."""
    path = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(path), f".attention_bench.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


class Store:
    """The document of a run and its file."""

    def __init__(self, path, *, environment, protocol, dry, command, started):
        self.path, self.notes = path, []
        self.document = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "dry": dry,
                         "environment": environment, "protocol": protocol, "sessions": [], "unavailable": {},
                         "records": []}
        if os.path.exists(path):
            self._take_over(read(path))
        self.document["sessions"].append({"command": command, "started": started, "ended": None})

    def _take_over(self, old):
        same = [key for key in ("dry", "environment", "protocol") if old[key] != self.document[key]]
        if not same:
            self.document = old
            return
        aside, number = f"{self.path}.old", 1
        while os.path.exists(aside):
            number += 1
            aside = f"{self.path}.old{number}"
        os.rename(self.path, aside)
        self.notes.append(f"{self.path} is of another {' and '.join(same)}: moved to {aside}, starting anew")

    def finished(self, shape, contestant, retry_failed):
        """True if there is a result that need not be measured again."""
        for record in self.document["records"]:
            if record["shape"]["name"] == shape.name and record["contestant"] == contestant.name:
                final = ("measured", "unsupported") if retry_failed else ("measured", "unsupported", "failed")
                return record["status"] in final and record["versions"] == contestant.versions()
        return False

    def count(self, contestant, mark):
        """Failures of a contestant whose reason begins with these words."""
        return sum(record["contestant"] == contestant.name and (record["reason"] or "").startswith(mark)
                   for record in self.document["records"])

    def add(self, records):
        new = {(record["shape"]["name"], record["contestant"]) for record in records}
        kept = [record for record in self.document["records"]
                if (record["shape"]["name"], record["contestant"]) not in new]
        self.document["records"] = kept + records
        self.save()

    def save(self):
        write(self.path, self.document)
