# sagegen::zstd, which unpacks the kernels that the runtime carries: the static library where there is one, so
# that what links it needs no file of its own at run time. Read by the build and by the installed package.
# Sets SAGEGEN_ZSTD_FOUND.
if(NOT TARGET sagegen::zstd)
  find_path(SAGEGEN_ZSTD_INCLUDE zstd.h)
  find_library(SAGEGEN_ZSTD_LIBRARY NAMES libzstd.a zstd)
  mark_as_advanced(SAGEGEN_ZSTD_INCLUDE SAGEGEN_ZSTD_LIBRARY)
  if(SAGEGEN_ZSTD_INCLUDE AND SAGEGEN_ZSTD_LIBRARY)
    # Global: who adds sagegen as a subdirectory links it from another folder.
    add_library(sagegen::zstd UNKNOWN IMPORTED GLOBAL)
    set_target_properties(sagegen::zstd PROPERTIES IMPORTED_LOCATION "${SAGEGEN_ZSTD_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${SAGEGEN_ZSTD_INCLUDE}")
  endif()
endif()
set(SAGEGEN_ZSTD_FOUND FALSE)
if(TARGET sagegen::zstd)
  set(SAGEGEN_ZSTD_FOUND TRUE)
endif()
