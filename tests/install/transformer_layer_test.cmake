include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# examples/transformer_layer, as its reader builds it, on the recorded layers.
file(REMOVE_RECURSE ${WORK})
foreach(component spec dsl generator runtime)
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK}/prefix --component ${component})
endforeach()
run(${configure} -S ${SOURCE_DIR}/examples/transformer_layer -B ${WORK}/build
  -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_CXX_FLAGS=-Werror)
run(${CMAKE_COMMAND} --build ${WORK}/build)
foreach(layer layer0 layer2 layer5)
  run(${WORK}/build/transformer_layer ${SOURCE_DIR}/tests/data/minilm_qkv.safetensors ${layer})
  message(STATUS "${run_output}")
endforeach()
run_and_expect_failure("has no tensor \"layer1.q\"" ${WORK}/build/transformer_layer
  ${SOURCE_DIR}/tests/data/minilm_qkv.safetensors layer1)
