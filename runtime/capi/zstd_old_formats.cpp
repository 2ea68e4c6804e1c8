// Distributions build libzstd with readers of its formats of before 2016, which would be 90 kB of the shared library.
// They are for frames with other magic numbers than a bundle's, which bundle.cpp refuses before libzstd sees them:
// nothing here is ever called. Weak, so that a libzstd that needs more of its own brings it without a conflict.
#include <cstdlib>

extern "C" {

#define SAGEGEN_NEVER_CALLED(name) \
  [[gnu::weak]] void name();       \
  void name() { std::abort(); }
#define SAGEGEN_OLD_FORMAT(version)                              \
  SAGEGEN_NEVER_CALLED(ZSTDv##version##_createDCtx)              \
  SAGEGEN_NEVER_CALLED(ZSTDv##version##_freeDCtx)                \
  SAGEGEN_NEVER_CALLED(ZSTDv##version##_decompress_usingDict)    \
  SAGEGEN_NEVER_CALLED(ZSTDv##version##_findFrameSizeInfoLegacy) \
  SAGEGEN_NEVER_CALLED(ZSTDv##version##_getFrameParams)          \
  SAGEGEN_NEVER_CALLED(ZBUFFv##version##_createDCtx)             \
  SAGEGEN_NEVER_CALLED(ZBUFFv##version##_freeDCtx)               \
  SAGEGEN_NEVER_CALLED(ZBUFFv##version##_decompressContinue)     \
  SAGEGEN_NEVER_CALLED(ZBUFFv##version##_decompressInitDictionary)

SAGEGEN_OLD_FORMAT(05)
SAGEGEN_OLD_FORMAT(06)
SAGEGEN_OLD_FORMAT(07)

}  // extern "C"
