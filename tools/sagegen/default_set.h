#pragma once

namespace sagegen::cli {

// The text of templates/attention/set.toml as it was when this tool was built.
extern const char* const kDefaultSetToml;

}  // namespace sagegen::cli
