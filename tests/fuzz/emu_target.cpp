// What `sagegen emu` reads from people, on any bytes: arguments and values that survive being spelled and
// read again, and launches in TOML; or errors of their own kind.
#include <cstdlib>
#include <string_view>

#include "tools/sagegen/emu_arguments.h"
#include "tools/sagegen/emu_file.h"
#include "tools/sagegen/errors.h"

using namespace sagegen::cli;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ArgumentSpec argument = parse_argument(text);
    if (!(parse_argument(spelled(argument)) == argument)) std::abort();
  } catch (const UsageError&) {
  }
  try {
    const ValueSpec value = parse_value(text);
    if (!(parse_value(spelled(value)) == value)) std::abort();
  } catch (const UsageError&) {
  }
  try {
    if (parse_extents(text, 3, "--grid").size() > 3) std::abort();
  } catch (const UsageError&) {
  }
  try {
    for (const LaunchKey& key : parse_launch_file(text, "fuzz.toml")) {
      if (key.name.empty() || (!key.is_list && key.values.size() != 1)) std::abort();
    }
  } catch (const FileError& error) {
    if (!std::string_view(error.what()).starts_with("fuzz.toml:")) std::abort();
  }
  return 0;
}
