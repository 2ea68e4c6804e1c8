#include "tools/sagegen/inspect_svg.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "templates/attention/spec.h"
#include "tools/pictures/pictures.h"
#include "tools/reference/printable.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/inspect_model.h"

namespace sagegen::cli {
namespace {

namespace fs = std::filesystem;

void require_attention(const Kernel& kernel) {
  if (&kernel.family() == &attention::family()) return;
  throw SpecError(fmt::format(
      "--svg draws attention kernels, and {} is none; use the key of one, or leave --svg out",
      kernel.key()));
}

// The drawing of the pipeline, or why there is none.
std::pair<std::string, std::string> try_pipeline(const Kernel& kernel, const std::string& gpu) {
  try {
    return {pipeline_drawing(kernel, gpu), {}};
  } catch (const FileError& error) {
    return {{}, error.what()};
  } catch (const SpecError& error) {
    return {{}, error.what()};
  } catch (const CodegenError& error) {  // an old ptxas
    return {{}, error.what()};
  }
}

}  // namespace

// Of dense batches, with codes of its own: tiles and fragments do not depend on that.
Kernel with_the_same_tiles(const Kernel& kernel) {
  const attention::View view = kernel.view(attention::family());
  attention::Spec spec = view.spec;
  spec.varlen = false;
  return attention::with_own_codes({attention::family(), spec, view.schedule, view.target.target});
}

Drawings write_drawings(const Kernel& kernel, const std::string& folder, const std::string& gpu,
                        bool need_pipeline) {
  require_attention(kernel);
  const pictures::Layouts layouts = kernel_layouts(with_the_same_tiles(kernel));
  std::vector<std::pair<fs::path, std::string>> files{
      {fs::path(folder) / "fragments.svg", pictures::draw_fragments(layouts, kernel.key())},
      {fs::path(folder) / "shared_memory.svg",
       pictures::draw_shared_memory(layouts, kernel.key())}};
  Drawings result;
  std::pair<std::string, std::string> pipeline;
  if (need_pipeline)
    pipeline.first = pipeline_drawing(kernel, gpu);
  else
    pipeline = try_pipeline(kernel, gpu);
  const fs::path pipeline_file = fs::path(folder) / "pipeline.svg";
  std::error_code error;
  result.no_pipeline = pipeline.second;
  if (pipeline.second.empty()) {
    files.emplace_back(pipeline_file, std::move(pipeline.first));
  } else if (fs::exists(pipeline_file, error)) {
    result.no_pipeline += "; the one that is there was drawn before";
  }

  error.clear();
  fs::create_directories(folder, error);
  if (error) {
    throw FileError(
        fmt::format("{}: cannot be created: {}", reference::printable(folder), error.message()));
  }
  for (const auto& [path, text] : files) check_writable(path);
  for (const auto& [path, text] : files) {
    write_file(path, text);
    result.files.push_back(path.string());
  }
  return result;
}

}  // namespace sagegen::cli
