include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# The C API alone, installed into an empty prefix, used through CMake and through pkg-config, and moved.
file(REMOVE_RECURSE ${WORK})
set(prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component c)
set(source ${SOURCE_DIR}/tests/install/c_consumer)

function(use_c_package prefix directory)
  run(${CMAKE_COMMAND} -G ${GENERATOR} -DCMAKE_C_COMPILER=${CC} -DCMAKE_BUILD_TYPE=${BUILD_TYPE}
    -S ${source} -B ${directory} -DCMAKE_PREFIX_PATH=${prefix})
  run(${CMAKE_COMMAND} --build ${directory})
  run(${directory}/c_consumer ${consumer_mode})
  message(STATUS "${run_output}")

  if(NOT PKG_CONFIG)
    message(FATAL_ERROR "pkg-config is not installed; tools/install_packages.sh installs it")
  endif()
  file(GLOB_RECURSE pc ${prefix}/*/sagegen.pc)
  get_filename_component(pc_dir "${pc}" DIRECTORY)
  set(ENV{PKG_CONFIG_PATH} ${pc_dir})
  run(${PKG_CONFIG} --print-errors --exact-version=${VERSION} sagegen)
  run(${PKG_CONFIG} --cflags --libs sagegen)
  separate_arguments(flags UNIX_COMMAND "${run_output}")
  string(REPLACE ";" "," sanitizers "${SANITIZE}")
  if(SANITIZE)
    list(APPEND flags -fsanitize=${sanitizers})
  endif()
  run(${CC} ${source}/main.c ${flags} -o ${directory}/by_pkg_config)
  get_filename_component(lib_dir "${pc_dir}" DIRECTORY)
  set(ENV{LD_LIBRARY_PATH} ${lib_dir})
  run(${directory}/by_pkg_config ${consumer_mode})
  set(ENV{LD_LIBRARY_PATH} "")
endfunction()

use_c_package(${prefix} ${WORK}/consumer)

# The header is clean where people are strict, in C and in C++; a compiler that is not here is not asked.
set(header ${prefix}/include/sagegen/sagegen.h)
set(strict -Wall -Wextra -pedantic -Werror -Wconversion -Wundef -Wold-style-cast -fsyntax-only)
set(strict_c ${strict} -Wstrict-prototypes)
list(REMOVE_ITEM strict_c -Wold-style-cast)
find_program(CLANG NAMES clang)
foreach(compiler ${CC} ${CLANG})
  foreach(standard c99 c11 c17)
    run(${compiler} -x c -std=${standard} ${strict_c} ${header})
  endforeach()
  foreach(standard c++11 c++20)
    run(${compiler} -x c++ -std=${standard} ${strict} ${header})
  endforeach()
endforeach()

# The same program in C++, by a project without C.
run(${configure} -S ${source} -B ${WORK}/cxx_consumer -DCONSUMER_LANGUAGE=CXX -DCMAKE_PREFIX_PATH=${prefix})
run(${CMAKE_COMMAND} --build ${WORK}/cxx_consumer)
run(${WORK}/cxx_consumer/c_consumer ${consumer_mode})

# examples/c, as its reader builds it, and by hand in the oldest C that it claims.
file(GLOB_RECURSE library ${prefix}/*/libsagegen.so)
get_filename_component(lib_dir "${library}" DIRECTORY)
string(REPLACE ";" "," sanitizers "${SANITIZE}")
set(flags -std=c99 -Wall -Wextra -pedantic -Werror -I${prefix}/include -L${lib_dir} -Wl,-rpath,${lib_dir})
if(SANITIZE)
  list(APPEND flags -fsanitize=${sanitizers})
endif()
run(${CC} ${SOURCE_DIR}/examples/c/attention.c ${flags} -lsagegen -lm -o ${WORK}/example)
run(${CMAKE_COMMAND} -G ${GENERATOR} -DCMAKE_C_COMPILER=${CC} -DCMAKE_BUILD_TYPE=${BUILD_TYPE}
  -S ${SOURCE_DIR}/examples/c -B ${WORK}/example_build -DCMAKE_PREFIX_PATH=${prefix})
run(${CMAKE_COMMAND} --build ${WORK}/example_build)
if(consumer_mode STREQUAL attention)
  foreach(program ${WORK}/example ${WORK}/example_build/attention)
    run(${program})
    message(STATUS "${run_output}")
    if(NOT run_output MATCHES "sage_fwd_d64_f16_.*_causal_")
      message(FATAL_ERROR "the example in C ran another kernel than it asked for: ${run_output}")
    endif()
  endforeach()
endif()

# A program of today needs the version of the symbols, and starts with this library alone.
run(${READELF} -VW ${WORK}/example)
if(NOT run_output MATCHES "SAGEGEN_1\\.0")
  message(FATAL_ERROR "a program does not ask for symbols of SAGEGEN_1.0:\n${run_output}")
endif()
file(RENAME ${prefix} ${WORK}/elsewhere)
use_c_package(${WORK}/elsewhere ${WORK}/moved)

run_and_expect_failure("component runtime is not installed; this sagegen has: c" ${configure}
  -S ${SOURCE_DIR}/tests/install/consumer -B ${WORK}/no_runtime -DCMAKE_PREFIX_PATH=${WORK}/elsewhere)
