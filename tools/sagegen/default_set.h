#pragma once

namespace sagegen::cli {

// The texts of templates/*/set.toml as they were when this tool was built.
extern const char* const kDefaultSetToml;

}  // namespace sagegen::cli
