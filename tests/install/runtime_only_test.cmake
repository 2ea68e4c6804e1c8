include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

file(REMOVE_RECURSE ${WORK})
# The library alone, where there is neither LLVM, nor a reader of JSON or TOML, nor what the tools want. Its command-line
# tool, which is not built by default then, is tests/cli's, which compiles two files for it.
foreach(package LLVM nlohmann_json yaml-cpp tomlplusplus CLI11 Catch2 ZLIB)
  list(APPEND hidden -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
run(${configure} -S ${SOURCE_DIR} -B ${WORK}/build -DSAGEGEN_GENERATOR=OFF -DSAGEGEN_TESTS=OFF
  ${hidden} -DSAGEGEN_SANITIZE=${SANITIZE})
run(${CMAKE_COMMAND} --build ${WORK}/build --parallel ${cores})
run(${CMAKE_COMMAND} --install ${WORK}/build --prefix ${WORK}/prefix)
if(EXISTS ${WORK}/build/bin/sagegen)
  message(FATAL_ERROR "the runtime alone brings the command-line tool, which wants packages that may be missing")
endif()
use_package(${WORK}/prefix ${WORK}/consumer -DWITH_GENERATOR=OFF)
run(${WORK}/consumer/consumer set)
if(NOT run_output MATCHES "built without toml")
  message(FATAL_ERROR "a set description in a build without toml++: ${run_output}")
endif()
# The tool is refused there by the name of what it wants.
run_and_expect_failure("nlohmann_json" ${configure} -S ${SOURCE_DIR} -B ${WORK}/tools -DSAGEGEN_GENERATOR=OFF
  -DSAGEGEN_TESTS=OFF -DSAGEGEN_TOOLS=ON ${hidden})
run_and_expect_failure("component generator is not installed" ${configure}
  -S ${SOURCE_DIR}/tests/install/consumer -B ${WORK}/no_generator -DCMAKE_PREFIX_PATH=${WORK}/prefix
  -DWITH_GENERATOR=ON)

set(programs ${WORK}/consumer/consumer)
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${programs} RESOLVED_DEPENDENCIES_VAR libraries
  UNRESOLVED_DEPENDENCIES_VAR missing)
foreach(library ${libraries} ${missing})
  if(library MATCHES "LLVM|libcuda")
    message(FATAL_ERROR "a build without the generator needs ${library}")
  endif()
endforeach()

# The C API can be carried: its library needs the C library and nothing else.
file(GLOB_RECURSE shared ${WORK}/prefix/libsagegen.so)
if(NOT shared)
  message(FATAL_ERROR "libsagegen.so is not installed")
endif()
if(NOT EXISTS ${WORK}/prefix/include/sagegen/sagegen.h)
  message(FATAL_ERROR "sagegen.h is not installed")
endif()
file(GET_RUNTIME_DEPENDENCIES LIBRARIES ${shared} RESOLVED_DEPENDENCIES_VAR libraries
  UNRESOLVED_DEPENDENCIES_VAR missing)
foreach(library ${libraries} ${missing})
  if(NOT SANITIZE AND NOT library MATCHES "/(libc|libm|ld-linux[^/]*|libpthread|libdl)\\.so")
    message(FATAL_ERROR "libsagegen.so needs ${library}")
  endif()
endforeach()
