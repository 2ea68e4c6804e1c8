// Keeps generated/ in step with templates/*/set.toml.
#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"
#include "sagegen/set.h"
#include "tools/reference/parallel_for.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/sha256.h"

namespace sagegen::cli {
namespace {

namespace fs = std::filesystem;

struct GenerateCommand {
  std::string root = ".";
  bool check = false;
};

constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kBundle = "kernels.bundle";

std::vector<Kernel> wanted_kernels(const fs::path& root) {
  const fs::path directory = root / "templates";
  if (!fs::is_directory(directory)) {
    throw UsageError(
        fmt::format("{} is no directory; run this in the root of the repository or give --root",
                    directory.string()));
  }
  std::vector<fs::path> files;
  for (const fs::directory_entry& room : fs::directory_iterator(directory)) {
    if (fs::exists(room.path() / "set.toml")) files.push_back(room.path() / "set.toml");
  }
  std::sort(files.begin(), files.end());
  std::vector<Kernel> kernels;
  std::set<std::string> seen;
  for (const fs::path& file : files) {
    for (const Kernel& kernel : read_set(read_file(file), file.string())) {
      if (seen.insert(kernel.key()).second) kernels.push_back(kernel);
    }
  }
  if (kernels.empty())
    throw UsageError(fmt::format("{} holds no room with a set.toml", directory.string()));
  return kernels;
}

std::string with_header(const Kernel& kernel, const Artifact& artifact) {
  return fmt::format(
      "// Made by `sagegen generate`; edits are lost.\n"
      "// generator: sagegen {}, LLVM {}\n"
      "// template:  {}\n"
      "// kernel:    {}\n"
      "// sha256:    {} (of what follows)\n{}",
      tool_version(), generator_llvm_version(), kernel.family().room, artifact.key,
      sha256(artifact.code), artifact.code);
}

// What generated/ has to hold.
struct Wanted {
  std::map<std::string, std::string> files;  // path below generated/ -> bytes
  std::map<std::string, std::string> texts;  // of the bundle: key -> PTX
};

// The first kernel of each family and target, with its inputs, so that the folder of a target runs by itself.
std::set<std::string> sample_of(const std::vector<Kernel>& kernels) {
  std::set<std::pair<std::string_view, std::string>> seen;
  std::set<std::string> keys;
  for (const Kernel& kernel : kernels) {
    if (!seen.emplace(kernel.family().title, to_string(kernel.target())).second) continue;
    keys.insert(kernel.key());
    for (const Kernel& input : kernel.inputs()) keys.insert(input.key());
  }
  return keys;
}

Wanted wanted_artifacts(const std::vector<Kernel>& all, const Output& output) {
  Wanted wanted;
  const std::set<std::string> sample = sample_of(all);
  Json kernels = Json::array();
  std::size_t bytes = 0;
  std::optional<Progress> progress(std::in_place, "emitting", all.size());
  std::vector<Artifact> artifacts(all.size());
  reference::parallel_for(static_cast<std::int64_t>(all.size()), 0, [&](std::int64_t i) {
    const auto index = static_cast<std::size_t>(i);
    artifacts[index] = emit_kernel(all[index], {});
    progress->advance();
  });
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Kernel& kernel = all[i];
    const Artifact& artifact = artifacts[i];
    const std::string& text = wanted.texts[artifact.key] = with_header(kernel, artifact);
    bytes += text.size();
    kernels.push_back({{"key", artifact.key},
                       {"family", kernel.family().title},
                       {"target", to_string(kernel.target())},
                       {"room", kernel.family().room},
                       {"bytes", text.size()},
                       {"sha256", sha256(text)},
                       {"threads", artifact.resources.threads},
                       {"dynamic_smem", artifact.resources.dynamic_smem},
                       {"param_bytes", kernel.params().bytes()},
                       {"params", fmt::format("{:016x}", artifact.params)}});
    if (!sample.contains(artifact.key)) continue;
    const std::string path = fmt::format("{}/{}.ptx", to_string(kernel.target()), artifact.key);
    wanted.files[path] = text;
    kernels.back()["file"] = path;
  }
  progress.reset();
  const Json manifest{{"schema", "sagegen.manifest"},
                      {"schema_version", 3},
                      {"generator_version", tool_version()},
                      {"llvm_version", generator_llvm_version()},
                      {"bundle", kBundle},
                      {"bytes", bytes},
                      {"kernels", kernels}};
  wanted.files[std::string(kManifest)] = manifest.dump(1) + "\n";
  output.progress(fmt::format("{} kernels, {} bytes of PTX", all.size(), bytes));
  return wanted;
}

std::string first_difference(const std::string& have, const std::string& want) {
  const auto at = std::mismatch(have.begin(), have.end(), want.begin(), want.end()).first;
  return fmt::format("differs from line {} on", 1 + std::count(have.begin(), at, '\n'));
}

struct Difference {
  std::string path, what;
};

// Compared text by text: another version of zstd packs the same kernels into other bytes, and these are as good.
std::vector<Difference> bundle_differences(const fs::path& directory,
                                           const std::map<std::string, std::string>& texts) {
  const std::string name(kBundle);
  const std::optional<std::string> have = read_file_if_exists(directory / name);
  if (!have) return {{name, "missing"}};
  std::vector<Difference> result;
  try {
    const runtime::Bundle bundle = runtime::Bundle::view(*have, name);
    for (const auto& [key, text] : texts) {
      const std::optional<std::string> packed = bundle.find(key);
      if (!packed) {
        result.push_back({name, fmt::format("{} is missing", key)});
      } else if (*packed != text) {
        result.push_back({name, fmt::format("{} {}", key, first_difference(*packed, text))});
      }
    }
    for (const std::string_view key : bundle.names()) {
      if (!texts.contains(std::string(key)))
        result.push_back({name, fmt::format("{} is stale", key)});
    }
  } catch (const runtime::ArtifactError& error) {
    return {{name, fmt::format("cannot be read ({})", error.what())}};
  }
  return result;
}

// What generate() would write or remove, with the reason.
std::vector<Difference> differences(const fs::path& directory, const Wanted& wanted) {
  std::vector<Difference> result = bundle_differences(directory, wanted.texts);
  for (const auto& [path, text] : wanted.files) {
    const std::optional<std::string> have = read_file_if_exists(directory / path);
    if (!have) {
      result.push_back({path, "missing"});
    } else if (*have != text) {
      result.push_back({path, first_difference(*have, text)});
    }
  }
  if (!fs::is_directory(directory)) return result;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    const std::string path = entry.path().lexically_relative(directory).generic_string();
    if (entry.path().extension() == ".ptx" && !wanted.files.contains(path))
      result.push_back({path, "stale"});
  }
  return result;
}

std::string bundle_of(const std::map<std::string, std::string>& texts) {
  std::vector<runtime::NamedText> list;
  for (const auto& [key, text] : texts) list.push_back({key, text});
  return runtime::write_bundle(std::move(list));
}

// Writes the file of this path below generated/, or removes it.
void mend(const fs::path& directory, const std::string& path, const Wanted& wanted) {
  if (path == kBundle) {
    write_file(directory / path, bundle_of(wanted.texts));
  } else if (const auto file = wanted.files.find(path); file != wanted.files.end()) {
    write_file(directory / path, file->second);
  } else {
    fs::remove(directory / path);
  }
}

Exit generate(const GenerateCommand& command, Output& output) {
  const fs::path root = command.root;
  const fs::path directory = root / "generated";
  const Wanted wanted = wanted_artifacts(wanted_kernels(root), output);
  const std::vector<Difference> found = differences(directory, wanted);
  Json list = Json::array();
  std::set<std::string> changed;  // several kernels of the bundle are one file
  for (const Difference& difference : found) {
    list.push_back({{"file", difference.path}, {"what", difference.what}});
    output.text(fmt::format("generated/{}: {}\n", difference.path, difference.what));
    if (changed.insert(difference.path).second && !command.check)
      mend(directory, difference.path, wanted);
  }
  const std::size_t files = wanted.files.size() + 1;
  output.json({{"files", files}, {"check", command.check}, {"differences", list}});
  const std::string summary = fmt::format("{} files, {} {}\n", files, changed.size(),
                                          command.check ? "out of date" : "written or removed");
  output.text(summary);
  if (!command.check || found.empty()) return Exit::ok;
  output.text("run `sagegen generate` and commit what it writes\n");
  return Exit::check_failed;
}

}  // namespace

void add_generate(App& app) {
  app.add<GenerateCommand>(
      "generate",
      "write generated/ from templates/*/set.toml: a manifest, a bundle of all PTX, a few files "
      "to read",
      "  sagegen generate             rewrite what changed, remove what is stale\n"
      "  sagegen generate --check     only report; exit code 1 if anything is out of date",
      [](CLI::App& app_command, GenerateCommand& command) {
        app_command.add_option("--root", command.root, "root of the repository")
            ->capture_default_str();
        app_command.add_flag("--check", command.check, "change nothing");
      },
      generate);
}

}  // namespace sagegen::cli
