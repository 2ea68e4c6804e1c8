// Keeps generated/ in step with templates/specs/*.toml.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>

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

std::string_view template_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::attention:
      return "templates/attention/attention.cpp";
    case KernelKind::kv_statistics:
      return "templates/quantize/kv_statistics.cpp";
    case KernelKind::quantize_q:
      return "templates/quantize/quantize_q.cpp";
    case KernelKind::quantize_k:
      return "templates/quantize/quantize_k.cpp";
    case KernelKind::quantize_v:
      return "templates/quantize/quantize_v.cpp";
  }
  return {};
}

std::vector<KernelSpec> wanted_kernels(const fs::path& root) {
  const fs::path directory = root / "templates" / "specs";
  if (!fs::is_directory(directory)) {
    throw UsageError(
        fmt::format("{} is no directory; run this in the root of the repository or give --root",
                    directory.string()));
  }
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".toml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<KernelSpec> specs;
  std::set<std::string> seen;
  for (const fs::path& file : files) {
    for (const KernelSpec& spec : read_spec_set(read_file(file), file.string())) {
      if (seen.insert(key(spec)).second) specs.push_back(spec);
    }
  }
  if (specs.empty())
    throw UsageError(fmt::format("{} holds no set description", directory.string()));
  return specs;
}

std::string with_header(const EmittedKernel& kernel) {
  const std::string_view source = template_of(kernel.spec.kind);
  return fmt::format(
      "// Made by `sagegen generate`; edits are lost.\n"
      "// generator: sagegen {}, LLVM {}\n"
      "// template:  {}\n"
      "// spec:      {}\n"
      "// sha256:    {} (of what follows)\n{}",
      tool_version(), generator_llvm_version(), source, kernel.name, sha256(kernel.ptx),
      kernel.ptx);
}

// Path below generated/ -> bytes.
std::map<std::string, std::string> wanted_files(const std::vector<KernelSpec>& specs,
                                                const Output& output) {
  std::map<std::string, std::string> files;
  Json kernels = Json::array();
  std::size_t bytes = 0;
  std::optional<Progress> progress(std::in_place, "emitting", specs.size());
  for (const KernelSpec& spec : specs) {
    const EmittedKernel kernel = emit_kernel(spec, {});
    progress->advance();
    const std::string path = fmt::format("{}/{}.ptx", to_string(spec.target), kernel.name);
    const std::string& text = files[path] = with_header(kernel);
    bytes += text.size();
    kernels.push_back({{"key", kernel.name},
                       {"kind", to_string(spec.kind)},
                       {"target", to_string(spec.target)},
                       {"template", template_of(spec.kind)},
                       {"file", path},
                       {"bytes", text.size()},
                       {"sha256", sha256(text)},
                       {"threads", kernel.resources.threads},
                       {"dynamic_smem", kernel.resources.dynamic_smem}});
  }
  progress.reset();
  const Json manifest{{"schema", "sagegen.manifest"},
                      {"schema_version", 1},
                      {"generator_version", tool_version()},
                      {"llvm_version", generator_llvm_version()},
                      {"bytes", bytes},
                      {"kernels", kernels}};
  files[std::string(kManifest)] = manifest.dump(1) + "\n";
  output.progress(fmt::format("{} kernels, {} bytes of PTX", specs.size(), bytes));
  return files;
}

std::string first_difference(const std::string& have, const std::string& want) {
  const auto at = std::mismatch(have.begin(), have.end(), want.begin(), want.end()).first;
  return fmt::format("differs from line {} on", 1 + std::count(have.begin(), at, '\n'));
}

struct Difference {
  std::string path, what;
};

// Files that generate() would write or remove, with the reason.
std::vector<Difference> differences(const fs::path& directory,
                                    const std::map<std::string, std::string>& wanted) {
  std::vector<Difference> result;
  for (const auto& [path, text] : wanted) {
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
    if (entry.path().extension() == ".ptx" && !wanted.contains(path))
      result.push_back({path, "stale"});
  }
  return result;
}

Exit generate(const GenerateCommand& command, Output& output) {
  const fs::path root = command.root;
  const fs::path directory = root / "generated";
  const std::map<std::string, std::string> wanted = wanted_files(wanted_kernels(root), output);
  const std::vector<Difference> found = differences(directory, wanted);
  Json list = Json::array();
  for (const Difference& difference : found) {
    list.push_back({{"file", difference.path}, {"what", difference.what}});
    output.text(fmt::format("generated/{}: {}\n", difference.path, difference.what));
    if (command.check) continue;
    if (const auto file = wanted.find(difference.path); file != wanted.end()) {
      write_file(directory / difference.path, file->second);
    } else {
      fs::remove(directory / difference.path);
    }
  }
  output.json({{"files", wanted.size()}, {"check", command.check}, {"differences", list}});
  const std::string summary = fmt::format("{} files, {} {}\n", wanted.size(), found.size(),
                                          command.check ? "out of date" : "written or removed");
  output.text(summary);
  if (!command.check || found.empty()) return Exit::ok;
  output.text("run `sagegen generate` and commit what it writes\n");
  return Exit::check_failed;
}

}  // namespace

void add_generate(App& app) {
  app.add<GenerateCommand>(
      "generate", "write generated/ from templates/specs/*.toml",
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
