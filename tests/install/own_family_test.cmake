include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# examples/own_family, as its reader builds it: against the installed package, without one line changed in it.
file(REMOVE_RECURSE ${WORK})
foreach(component spec dsl generator runtime)
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK}/prefix --component ${component})
endforeach()
run(${configure} -S ${SOURCE_DIR}/examples/own_family -B ${WORK}/build
  -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_CXX_FLAGS=-Werror)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/own_family)
message(STATUS "${run_output}")
foreach(part "acme_hadamard_c256_f16_s8__w4__sm80" "columns=256 io=f16 codes=s8 measure=false schedule=w4"
    "\"family\": \"hadamard\", \"target\": \"sm_80\", \"what\": {\"columns\": 256"
    "columns 96 is refused: it must be 128, 256 or 512"
    "codes e4m3 is refused on sm_80: it has no FP8; use codes s8"
    "is not s8 or e4m3 (codes)" "acme_hadamard_c512_bf16_s8__w8__sm89: scale")
  string(FIND "${run_output}" "${part}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "own_family does not say '${part}'")
  endif()
endforeach()
