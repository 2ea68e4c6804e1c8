#include "sagegen/emit.h"

#define SAGEGEN_ROOM(room)                                 \
  namespace sagegen::room {                                \
  const Family& any_family();                              \
  void build(dsl::KernelBuilder& k, const Kernel& kernel); \
  }
#include "templates/rooms.def"
#undef SAGEGEN_ROOM

namespace sagegen {

const Templates& builtin_templates() {
  static const Templates templates = [] {
    Templates list;
#define SAGEGEN_ROOM(room) list.add(room::any_family(), room::build);
#include "templates/rooms.def"
#undef SAGEGEN_ROOM
    return list;
  }();
  return templates;
}

}  // namespace sagegen
