// SHA-256 (FIPS 180-4), for digests of generated files.
#pragma once

#include <string>
#include <string_view>

namespace sagegen::cli {

// 64 lower-case hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace sagegen::cli
