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
file(RENAME ${prefix} ${WORK}/elsewhere)
use_c_package(${WORK}/elsewhere ${WORK}/moved)

run_and_expect_failure("component runtime is not installed; this sagegen has: c" ${configure}
  -S ${SOURCE_DIR}/tests/install/consumer -B ${WORK}/no_runtime -DCMAKE_PREFIX_PATH=${WORK}/elsewhere)
