include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# examples/own_kernel, as its reader builds it: against the installed package.
file(REMOVE_RECURSE ${WORK})
foreach(component spec dsl runtime)
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK}/prefix --component ${component})
endforeach()
run(${configure} -S ${SOURCE_DIR}/examples/own_kernel -B ${WORK}/build
  -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_CXX_FLAGS=-Werror)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/own_kernel)
message(STATUS "${run_output}")
