include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

file(REMOVE_RECURSE ${WORK})
set(prefix ${WORK}/prefix)
set(components spec runtime c)
if(WITH_GENERATOR)
  list(APPEND components dsl generator)
endif()
foreach(component ${components})
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component ${component})
endforeach()

# What is installed must not remember where it was built.
file(GLOB_RECURSE texts ${prefix}/*.cmake ${prefix}/*.h ${prefix}/*.pc)
foreach(text ${texts})
  file(READ ${text} content)
  foreach(path ${SOURCE_DIR} ${BUILD_DIR})
    string(FIND "${content}" "${path}/" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${text} names ${path}")
    endif()
  endforeach()
endforeach()

use_package(${prefix} ${WORK}/consumer -DWITH_GENERATOR=${WITH_GENERATOR})
run(${WORK}/consumer/consumer set)
if(NOT run_output MATCHES "kernels in the set")
  message(FATAL_ERROR "a set description is not read: ${run_output}")
endif()

# A moved package still works.
file(RENAME ${prefix} ${WORK}/elsewhere)
use_package(${WORK}/elsewhere ${WORK}/moved -DWITH_GENERATOR=OFF)

run_and_expect_failure("component tuner is not installed" ${configure}
  -S ${SOURCE_DIR}/tests/install/consumer -B ${WORK}/unknown -DCMAKE_PREFIX_PATH=${WORK}/elsewhere
  -DEXTRA_COMPONENT=tuner)
