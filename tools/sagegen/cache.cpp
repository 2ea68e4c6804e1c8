// `sagegen cache`: what sweeps have found, listed, checked, and carried from machine to machine; and the machine code
// that drivers have made.
#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/tuning.h"
#include "tools/reference/printable.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

using runtime::TuningDatabase, runtime::TuningEntry;

enum class Action { list, show, verify, export_all, import_files, merge_folders, clear };

struct CacheCommand {
  Action action = Action::list;
  std::vector<std::string> names;
  std::string cache, out;
  bool code = false;
};

TuningDatabase database_of(const CacheCommand& command) {
  const std::filesystem::path folder =
      command.cache.empty() ? runtime::cache_folder() : std::filesystem::path(command.cache);
  if (!folder.empty()) return TuningDatabase(folder / "tuning");
  throw UsageError(
      "there is no folder of results: neither SAGEGEN_CACHE_DIR, nor XDG_CACHE_HOME, nor HOME is "
      "set; give --cache DIR");
}

// Empty: the environment says off, or names no folder.
std::filesystem::path code_folder_of(const CacheCommand& command) {
  return command.cache.empty() ? runtime::code_cache_folder()
                               : std::filesystem::path(command.cache) / "code";
}

using CodeList = std::vector<runtime::CodeCache::Listed>;
CodeList code_in(const std::filesystem::path& folder) {
  return folder.empty() ? CodeList() : runtime::CodeCache({.folder = folder}).list();
}

Json json_of(const CodeList& all, const std::filesystem::path& folder) {
  std::uint64_t bytes = 0;
  Json entries = Json::array();
  std::size_t damaged = 0;
  for (const runtime::CodeCache::Listed& listed : all) {
    bytes += listed.bytes;
    damaged += listed.why_not.empty() ? 0 : 1;
    Json json{{"file", listed.file.string()}, {"bytes", listed.bytes}};
    if (listed.why_not.empty()) {
      json.update(Json{{"entry", listed.entry},
                       {"compute_capability", fmt::format("{}.{}", listed.capability / 10,
                                                          listed.capability % 10)},
                       {"cuda", fmt::format("{}.{}", listed.cuda / 1000, listed.cuda % 1000 / 10)},
                       {"driver", listed.build}});
    } else {
      json["error"] = listed.why_not;
    }
    entries.push_back(json);
  }
  return {{"folder", folder.string()}, {"good", all.size() - damaged}, {"damaged", damaged},
          {"bytes", bytes}, {"entries", entries}};
}

std::string code_line(const Json& code) {
  if (code["folder"] == "") return "machine code: no folder, or off\n";
  return fmt::format(
      "machine code: {}, {} in {}{}\n", counted(code["entries"].size(), "kernel"),
      counted(code["bytes"].get<std::uint64_t>(), "byte"), code["folder"].get<std::string>(),
      code["damaged"] == 0 ? "" : fmt::format(", {} damaged", code["damaged"].dump()));
}

Exit code_command(const CacheCommand& command, Output& output) {
  const std::filesystem::path folder = code_folder_of(command);
  if (command.action == Action::clear) {
    const std::size_t count = folder.empty() ? 0 : runtime::CodeCache({.folder = folder}).clear();
    output.text(fmt::format("{} removed from {}\n", counted(count, "kernel"), folder.string()));
    output.json({{"removed", count}, {"folder", folder.string()}});
    return Exit::ok;
  }
  const Json code = json_of(code_in(folder), folder);
  Table table({"kernel", "compute capability", "CUDA", "driver", "bytes", "file"});
  std::string damaged;
  for (const Json& entry : code["entries"]) {
    if (entry.contains("error")) {
      damaged += fmt::format("damaged  {}\n", entry["error"].get<std::string>());
      continue;
    }
    const auto text = [&](const char* name) { return entry[name].get<std::string>(); };
    table.add({reference::printable(text("entry")), text("compute_capability"), text("cuda"),
               reference::printable(text("driver")), entry["bytes"].dump(),
               std::filesystem::path(text("file")).filename().string()});
  }
  const bool is_list = command.action == Action::list;
  output.text((is_list && code["good"] != 0 ? table.text() : "") + damaged + code_line(code));
  output.json(code);
  return is_list || damaged.empty() ? Exit::ok : Exit::check_failed;
}

std::string gain(const TuningEntry& entry) {
  if (entry.schedule == entry.usual) return "the default";
  return entry.usual_time > 0
             ? fmt::format("{:.3f} of {}", entry.time / entry.usual_time, entry.usual)
             : "";
}

Json json_of(const TuningDatabase::Listed& listed) {
  Json json{{"file", listed.file.string()}};
  if (!listed.entry) {
    json["error"] = listed.why_not;
    return json;
  }
  const TuningEntry& entry = *listed.entry;
  json.update(Json{{"what", entry.key.what},
                   {"target", entry.key.target},
                   {"class", entry.key.shape},
                   {"deployment", entry.key.mode},
                   {"generator", entry.key.generator},
                   {"device", entry.key.device.name},
                   {"multiprocessors", entry.key.device.multiprocessors},
                   {"clock_khz", entry.key.device.clock_khz},
                   {"memory_clock_khz", entry.key.device.memory_clock_khz},
                   {"memory_bus_bits", entry.key.device.memory_bus_bits},
                   {"driver", entry.key.device.driver},
                   {"schedule", entry.schedule},
                   {"default", entry.usual},
                   {"unit", entry.unit},
                   {"time", entry.time},
                   {"default_time", entry.usual_time},
                   {"samples", entry.samples},
                   {"measured", entry.measured},
                   {"conditions", entry.conditions}});
  return json;
}

Exit list(const CacheCommand& command, const TuningDatabase& database, Output& output) {
  Table table({"name", "what", "class", "deployment", "device", "schedule", "", "measured"});
  Json entries = Json::array();
  std::string bad;
  for (const TuningDatabase::Listed& listed : database.list()) {
    entries.push_back(json_of(listed));
    if (!listed.entry) {
      bad += fmt::format("{}\n", listed.why_not);
      continue;
    }
    const TuningEntry& entry = *listed.entry;
    table.add({listed.file.stem().string(), entry.key.what, entry.key.shape, entry.key.mode,
               reference::printable(entry.key.device.name), entry.schedule, gain(entry),
               entry.measured});
  }
  const std::filesystem::path code_folder = code_folder_of(command);
  const Json code = json_of(code_in(code_folder), code_folder);
  output.text((entries.empty() ? fmt::format("no entries in {}\n", database.folder().string())
                               : table.text() + bad) +
              code_line(code));
  output.json({{"folder", database.folder().string()},
               {"entries", entries},
               {"code", {{"folder", code["folder"]},
                         {"entries", code["entries"].size()},
                         {"bytes", code["bytes"]}}}});
  return Exit::ok;
}

Exit show(const CacheCommand& command, const TuningDatabase& database, Output& output) {
  const std::vector<TuningDatabase::Listed> all = database.list();
  Json entries = Json::array();
  std::string text;
  for (const std::string& name : command.names) {
    const auto found = std::ranges::find_if(all, [&](const auto& listed) {
      return listed.file.stem() == name || listed.file.filename() == name || listed.file == name;
    });
    if (found == all.end()) {
      throw UsageError(fmt::format("no entry is named {} in {}; `sagegen cache list` names them",
                                   name, database.folder().string()));
    }
    if (!found->entry) throw runtime::ArtifactError(found->why_not);
    entries.push_back(json_of(*found));
    Table table({"field", "value"});
    for (const auto& [field, value] : entries.back().items())
      table.add({field, value.is_string() ? value.get<std::string>() : value.dump()});
    text += (text.empty() ? "" : "\n") + table.text();
  }
  output.text(text);
  output.json({{"folder", database.folder().string()}, {"entries", entries}});
  return Exit::ok;
}

constexpr std::string_view kAnotherVersion = "it was made by ";

// Why an entry cannot be used here: another version made it, or its kernel cannot be read, or is not legal.
std::string why_of_another_time(const TuningEntry& entry) {
  std::string target = entry.key.target;
  std::erase(target, '_');
  try {
    const Kernel kernel = parse_key(fmt::format("{}__{}__{}", entry.key.what, entry.usual, target));
    if (const std::string here = runtime::generator_id(kernel); entry.key.generator != here)
      return fmt::format("{}{}, this is {}", kAnotherVersion, entry.key.generator, here);
    if (const Sentences sentences = kernel.violations(); !sentences.empty())
      return fmt::format("its default is refused: {}", sentences.front());
    return runtime::why_stale(entry, kernel);
  } catch (const SpecError& error) {
    return fmt::format("its kernel cannot be read: {}", error.what());
  }
}

Exit verify(const TuningDatabase& database, Output& output) {
  std::size_t good = 0, stale = 0, bad = 0;
  std::string text;
  Json entries = Json::array();
  const std::vector<TuningDatabase::Listed> all = database.list();
  std::optional<Progress> progress(std::in_place, "verifying entries", all.size());
  for (const TuningDatabase::Listed& listed : all) {
    progress->advance();
    const std::string why = listed.entry ? why_of_another_time(*listed.entry) : "";
    Json json = json_of(listed);
    json["state"] = !listed.entry ? "damaged" : why.empty() ? "good" : "stale";
    if (!why.empty()) json["why"] = why;
    entries.push_back(json);
    if (!listed.entry) {
      ++bad;
      text += fmt::format("damaged  {}\n", listed.why_not);
    } else if (!why.empty()) {
      ++stale;
      text += fmt::format("stale    {}: {}\n", listed.file.string(), why);
    } else {
      ++good;
    }
  }
  progress.reset();
  output.text(fmt::format("{}{} good, {} stale (not used, and harmless), {} damaged\n", text, good,
                          stale, bad));
  output.json({{"folder", database.folder().string()},
               {"good", good},
               {"stale", stale},
               {"damaged", bad},
               {"entries", entries}});
  return bad == 0 ? Exit::ok : Exit::check_failed;
}

std::vector<TuningEntry> good_entries(const TuningDatabase& database, Output& output) {
  std::vector<TuningEntry> entries;
  for (const TuningDatabase::Listed& listed : database.list()) {
    if (listed.entry) {
      entries.push_back(*listed.entry);
    } else {
      output.progress("left out: " + listed.why_not);
    }
  }
  return entries;
}

Exit export_all(const CacheCommand& command, const TuningDatabase& database, Output& output) {
  if (command.out.empty()) throw UsageError("export needs --out FILE");
  const std::vector<TuningEntry> entries = good_entries(database, output);
  write_file(command.out, runtime::to_text(entries));
  output.text(fmt::format("{} in {}\n", counted(entries.size(), "entry", "entries"), command.out));
  output.json({{"entries", entries.size()}, {"file", command.out}});
  return Exit::ok;
}

// All are read before anything is stored.
Exit take(const CacheCommand& command, const TuningDatabase& database, Output& output) {
  std::vector<TuningEntry> entries;
  for (const std::string& name : command.names) {
    std::vector<TuningEntry> more;
    if (command.action == Action::import_files) {
      more = runtime::parse_tuning_entries(read_file(name), name);
    } else {
      if (!std::filesystem::is_directory(name))
        throw FileError(fmt::format(
            "{}: this is no folder; `sagegen cache import` takes exported files", name));
      more = good_entries(TuningDatabase(std::filesystem::path(name) / "tuning"), output);
    }
    entries.insert(entries.end(), more.begin(), more.end());
  }
  for (const TuningEntry& entry : entries) {
    // Of another version nothing is known here, and nothing is lost: it has places of its own.
    const std::string why = why_of_another_time(entry);
    if (why.empty() || why.starts_with(kAnotherVersion)) continue;
    throw FileError(fmt::format("the entry of {}, class {}, is refused, and nothing was stored: {}",
                                entry.key.what, entry.key.shape, why));
  }
  const std::size_t stored = runtime::merge(database, entries);
  const std::size_t others = entries.size() - stored;
  output.text(
      fmt::format("{} of {} stored{}\n", stored, counted(entries.size(), "entry", "entries"),
                  others == 0 ? ""
                              : fmt::format("; {} no newer than what is there",
                                            others == 1 ? "the other is" : "the others are")));
  output.json({{"read", entries.size()}, {"stored", stored}});
  return Exit::ok;
}

Exit clear(const TuningDatabase& database, Output& output) {
  const std::size_t count = database.clear();
  output.text(fmt::format("{} removed from {}\n", counted(count, "entry", "entries"),
                          database.folder().string()));
  output.json({{"removed", count}, {"folder", database.folder().string()}});
  return Exit::ok;
}

Exit cache_command(const CacheCommand& command, Output& output) {
  const bool takes_names = command.action == Action::show ||
                           command.action == Action::import_files ||
                           command.action == Action::merge_folders;
  if (takes_names == command.names.empty()) {
    throw UsageError(
        takes_names ? "show takes names of entries, import files, and merge folders of caches: "
                      "give one or more"
                    : fmt::format("\"{}\" is refused: list, verify, export and clear take no names",
                                  command.names.front()));
  }
  if (!command.out.empty() && command.action != Action::export_all)
    throw UsageError("--out is refused: only export writes a file");
  if (command.code) {
    if (command.action == Action::list || command.action == Action::verify ||
        command.action == Action::clear)
      return code_command(command, output);
    throw UsageError("--code is refused: list, verify and clear know machine code");
  }
  const TuningDatabase database = database_of(command);
  switch (command.action) {
    case Action::list:
      return list(command, database, output);
    case Action::show:
      return show(command, database, output);
    case Action::verify:
      return verify(database, output);
    case Action::export_all:
      return export_all(command, database, output);
    case Action::import_files:
    case Action::merge_folders:
      return take(command, database, output);
    case Action::clear:
      return clear(database, output);
  }
  return Exit::internal;
}

}  // namespace

void add_cache(App& app) {
  app.add<CacheCommand>(
      "cache", "list, check, export, import and clear what `sagegen tune` found",
      "  sagegen cache list --json\n"
      "  sagegen cache export --out tuned.txt              on one machine\n"
      "  sagegen cache import tuned.txt                    on machines like it\n"
      "  sagegen cache merge /mnt/shard1 /mnt/shard2       folders of other caches\n"
      "  sagegen cache verify\n"
      "  sagegen cache clear --code                        machine code: the driver compiles again",
      [](CLI::App& options, CacheCommand& command) {
        add_choice<Action>(options, "ACTION", command.action,
                           {{"list", Action::list},
                            {"show", Action::show},
                            {"verify", Action::verify},
                            {"export", Action::export_all},
                            {"import", Action::import_files},
                            {"merge", Action::merge_folders},
                            {"clear", Action::clear}},
                           "list, show, verify, export, import, merge or clear")
            ->required();
        options.add_option("NAME", command.names,
                           "entries to show, files to import, or folders to merge");
        refuse_empty(options.add_option(
            "--cache", command.cache,
            "folder of results (default: SAGEGEN_CACHE_DIR, or sagegen in the user's cache)"));
        refuse_empty(options.add_option("--out", command.out, "file to export to"));
        options.add_flag("--code", command.code,
                         "list, verify or clear the machine code that drivers made, in place of results");
      },
      cache_command);
}

}  // namespace sagegen::cli
