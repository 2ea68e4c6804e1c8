#include "sagegen/kernel.h"

#define SAGEGEN_ROOM(room)    \
  namespace sagegen::room {   \
  const Family& any_family(); \
  }
#include "templates/rooms.def"
#undef SAGEGEN_ROOM

namespace sagegen {

const Families& builtin_families() {
  static const Families families = [] {
    Families list;
#define SAGEGEN_ROOM(room) list.add(room::any_family());
#include "templates/rooms.def"
#undef SAGEGEN_ROOM
    return list;
  }();
  return families;
}

}  // namespace sagegen
