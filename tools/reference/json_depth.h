// How deep a JSON text nests, before a parser makes a tree of it: trees of deep texts cost many times the
// memory of the text.
#pragma once

#include <string_view>

namespace sagegen::reference {

// Whether more than `levels` arrays and objects are open at once. Looks at brackets outside of strings only;
// whether the text is JSON is for the parser to say.
bool nests_deeper_than(std::string_view json, int levels);

}  // namespace sagegen::reference
