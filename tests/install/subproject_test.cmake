include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

file(REMOVE_RECURSE ${WORK})
run(${configure} -S ${SOURCE_DIR}/tests/install/subproject -B ${WORK}/build -DSAGEGEN=${SOURCE_DIR}
  -DSAGEGEN_GENERATOR=OFF)
