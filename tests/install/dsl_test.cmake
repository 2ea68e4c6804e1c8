include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# The kernel language alone, from the components that it needs and no other.
file(REMOVE_RECURSE ${WORK})
set(prefix ${WORK}/prefix)
foreach(component spec dsl)
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component ${component})
endforeach()
if(NOT EXISTS ${prefix}/include/sagegen/dsl/emit.h OR EXISTS ${prefix}/include/sagegen/emit.h)
  message(FATAL_ERROR "the component dsl installs other headers than its own")
endif()
file(GLOB_RECURSE headers ${prefix}/include/*.h)
foreach(header ${headers})
  file(STRINGS ${header} inside REGEX "#include .(llvm|generator)/")
  file(STRINGS ${header} rooms REGEX "#include .templates/")
  foreach(line ${rooms})
    string(REGEX REPLACE ".*\"(templates/[^\"]*)\".*" "\\1" room ${line})
    if(NOT EXISTS ${prefix}/include/sagegen/rooms/${room})
      list(APPEND inside ${line})
    endif()
  endforeach()
  if(inside)
    message(FATAL_ERROR "${header} is installed, but what it includes is not: ${inside}")
  endif()
endforeach()

# Each header stands by itself.
file(GLOB headers ${prefix}/include/sagegen/dsl/*.h)
foreach(header ${headers})
  run(${CXX} -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I${prefix}/include -include ${header} -x c++ /dev/null)
endforeach()

file(RENAME ${prefix} ${WORK}/elsewhere)   # a moved package works
run(${configure} -S ${SOURCE_DIR}/tests/install/dsl_consumer -B ${WORK}/consumer
  -DCMAKE_PREFIX_PATH=${WORK}/elsewhere)
run(${CMAKE_COMMAND} --build ${WORK}/consumer)
run(${WORK}/consumer/dsl_consumer)
message(STATUS "${run_output}")

# The generator of our own kernels is written in it.
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK}/half --component spec)
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK}/half --component generator)
file(WRITE ${WORK}/without/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(without LANGUAGES CXX)
find_package(sagegen REQUIRED COMPONENTS generator)
")
run_and_expect_failure("component dsl is not installed" ${configure} -S ${WORK}/without
  -B ${WORK}/without/build -DCMAKE_PREFIX_PATH=${WORK}/half)
