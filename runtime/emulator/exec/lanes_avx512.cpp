#include "runtime/emulator/exec/lanes_forms.h"

namespace sagegen::emulator {

void register_lanes_avx512(FormTable& table) { register_vector_forms(table); }

}  // namespace sagegen::emulator
