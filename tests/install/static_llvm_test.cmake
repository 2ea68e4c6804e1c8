include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# The preset of the binaries that are carried to other machines (tools/gpu_pack.sh) configures, and so does
# the dry run of the script. Where LLVM's static libraries are not installed there is nothing to configure;
# CI has them (tools/install_packages.sh).
file(REMOVE_RECURSE ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} --preset static-llvm -B ${WORK}/build
  -DCMAKE_CXX_COMPILER=${CXX} WORKING_DIRECTORY ${SOURCE_DIR}
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  if(output MATCHES "libzstd-dev|does not exist|could not be found" AND NOT DEFINED ENV{SAGEGEN_CI})
    message(STATUS "skipped: this machine lacks static libraries:\n${output}")
    return()
  endif()
  message(FATAL_ERROR "cmake --preset static-llvm:\n${output}")
endif()

# The carried tool does without arc4random, which only glibc 2.36 has; LLVM and the C++ library ask for it.
file(STRINGS ${WORK}/build/build.ninja links REGEX "LINK_FLAGS = .*--gc-sections.*-u,arc4random")
if(NOT links)
  message(FATAL_ERROR "no program of the static build is linked with the stand-in for arc4random")
endif()

# Whoever writes kernels with this package links the same parts of LLVM, and the stand-in.
file(GLOB_RECURSE exported ${WORK}/build/CMakeFiles/Export/*/sagegen_dsl.cmake)
file(READ "${exported}" exported)
foreach(needed "LINK_ONLY:LLVMNVPTXCodeGen" "-u,arc4random" "sagegen::dsl")
  string(FIND "${exported}" "${needed}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "the package of the static build does not pass on ${needed}:\n${exported}")
  endif()
endforeach()

run(bash ${SOURCE_DIR}/tools/gpu_pack.sh --dry ${WORK}/pack.tar.gz)
if(NOT run_output MATCHES "sagegen-hardware.*libsagegen.so" OR EXISTS ${WORK}/pack.tar.gz)
  message(FATAL_ERROR "gpu_pack.sh --dry says: ${run_output}")
endif()
run(bash ${SOURCE_DIR}/tools/gpu_pack.sh --help)
if(NOT run_output MATCHES "--dry" OR run_output MATCHES "set -euo")
  message(FATAL_ERROR "gpu_pack.sh --help says: ${run_output}")
endif()
run_and_expect_failure("unknown argument --nonsense" bash ${SOURCE_DIR}/tools/gpu_pack.sh --nonsense)
run_and_expect_failure("there is no file nothing.whl" bash ${SOURCE_DIR}/tools/gpu_pack.sh --dry
  ${WORK}/pack.tar.gz nothing.whl)
