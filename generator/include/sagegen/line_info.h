// Whether emitted PTX names the lines that it was written from.
#pragma once

namespace sagegen {

enum class LineInfo { off, on };  // on: .loc directives that name the template's lines

}  // namespace sagegen
