#pragma once

namespace sagegen::cli {

// The text of templates/specs/default.toml as it was when this tool was built.
extern const char* const kDefaultSetToml;

}  // namespace sagegen::cli
