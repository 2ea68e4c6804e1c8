// The PTX of generated/, for tests that look at all of it.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "sagegen/runtime/bundle.h"

namespace sagegen::test {

// Key -> PTX; empty if generated/ has no bundle.
inline std::map<std::string, std::string> generated_kernels() {
  const std::filesystem::path file = SAGEGEN_SOURCE_DIR "/generated/kernels.bundle";
  std::map<std::string, std::string> kernels;
  if (!std::filesystem::exists(file)) return kernels;
  const runtime::Bundle bundle = runtime::Bundle::read(file);
  for (const std::string_view key : bundle.names()) kernels.emplace(key, bundle.find(key).value());
  return kernels;
}

}  // namespace sagegen::test
