// Set descriptions in a build without toml++, which is one of the runtime alone.
#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/set.h"

namespace sagegen {
namespace {

[[noreturn]] void refuse(std::string_view name) {
  throw SpecError(fmt::format("{}: this sagegen was built without toml++ and reads no set descriptions; build it where "
                              "CMake finds tomlplusplus (Debian: libtomlplusplus-dev), or describe the kernels in code "
                              "(enumerate)",
                              name));
}

}  // namespace

std::vector<Kernel> read_set(std::string_view, const std::string& file_name, const Families&) { refuse(file_name); }
std::vector<Kernel> read_set_file(const std::string& path, const Families&) { refuse(path); }

}  // namespace sagegen
