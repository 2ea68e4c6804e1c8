// Text from outside - names in files, file names - as messages show it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sagegen::reference {

// Control characters (but line feeds and tabs) and bytes that are no UTF-8 become \xNN, so that a terminal
// does not obey them.
std::string without_controls(std::string_view text);

// The same, and of a long text the beginning and the end, with the number of bytes left out between them:
// at most about `most` bytes in all.
std::string printable(std::string_view text, std::size_t most = 200);

}  // namespace sagegen::reference
