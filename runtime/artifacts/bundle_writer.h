// Writes what bundle.h reads. A file of its own: who only reads bundles does not link the compressor.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sagegen::runtime {

struct NamedText {
  std::string_view name;
  std::string_view text;
};

// The bytes of a bundle. The same texts, in whatever order, give the same bytes with the same version of zstd.
// Throws ArtifactError for names that are empty, doubled or hold a NUL, and for texts above
// kLargestBundledText.
std::string write_bundle(std::vector<NamedText> texts);

}  // namespace sagegen::runtime
