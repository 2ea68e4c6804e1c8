// "Did you mean ...": the known word that is nearest to what somebody wrote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sagegen {

// The known word with the fewest letters to insert, to remove, to change or to swap with a neighbour; of equally near
// ones the first. Capitals count as small letters. Empty if none is near: a third of the letters may be wrong, but at
// most `most` of them.
std::string nearest_word(std::string_view word, const std::vector<std::string>& known,
                         std::size_t most = 8);

// "; did you mean X?", or nothing if none is near.
std::string suggestion(std::string_view word, const std::vector<std::string>& known);

// What to write in the place of a text that names no target: "write sm_89 (targets: ...)" of "ada" or "8.9".
std::string target_advice(std::string_view text);

}  // namespace sagegen
