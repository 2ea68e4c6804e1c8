// Where the bytes of a KV cache lie (shared/kv_format.h), written down for programs that do not link this library: as a header
// of C and as a module of Python, which need nothing else.
#pragma once

#include <string>

#include "templates/shared/kv_format.h"

namespace sagegen::kv {

enum class Language { c, python };

// Sizes as constants, and functions of 32-bit numbers that lead from the start of a pool to each byte of it:
// page_bytes(kv_heads), block_offset(kv_heads, page, head, token) and, from the start of a block, k_byte(token, row_byte),
// v_byte(token, row_byte) and those of parameters that the format has, k_scale(token), k_zero(token), v_scale(token) and
// v_zero(token). Names begin with `prefix`, an identifier. Throws SpecError for another one, and as validate().
std::string layout_text(const KvFormat& format, Language language, const std::string& prefix);

}  // namespace sagegen::kv
