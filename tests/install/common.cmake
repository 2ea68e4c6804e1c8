# Shared by the install tests: run a command or fail with its output, and build the consumer project.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "exit code ${result}: ${command}\n${output}")
  endif()
  set(run_output "${output}" PARENT_SCOPE)
endfunction()

# The same for a command that has to fail; its output must contain `words`.
function(run_and_expect_failure words)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  list(JOIN ARGN " " command)
  if(result EQUAL 0)
    message(FATAL_ERROR "succeeded, but should not have: ${command}\n${output}")
  endif()
  string(REGEX REPLACE "[ \n]+" " " flat "${output}")
  string(FIND "${flat}" "${words}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "failed without saying '${words}': ${command}\n${output}")
  endif()
endfunction()

set(configure ${CMAKE_COMMAND} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
  -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -DCMAKE_BUILD_TYPE=${BUILD_TYPE})
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)

if(EXISTS ${SOURCE_DIR}/generated/kernels.bundle)
  set(consumer_mode attention)
else()
  set(consumer_mode device)   # nothing to run: the consumer loads a device
endif()

# Builds tests/install/consumer against an installed prefix and runs it.
function(use_package prefix directory)
  run(${configure} -S ${SOURCE_DIR}/tests/install/consumer -B ${directory}
    -DCMAKE_PREFIX_PATH=${prefix} ${ARGN})
  run(${CMAKE_COMMAND} --build ${directory})
  run(${directory}/consumer ${consumer_mode})
  message(STATUS "${run_output}")
endfunction()

# The one block of a language in README.md.
function(code_block language variable)
  file(READ ${SOURCE_DIR}/README.md text)
  string(FIND "${text}" "\n```${language}\n" begin)
  if(begin EQUAL -1)
    message(FATAL_ERROR "README.md has no block of ${language}")
  endif()
  string(LENGTH "\n```${language}\n" mark)
  math(EXPR begin "${begin} + ${mark}")
  string(SUBSTRING "${text}" ${begin} -1 text)
  string(FIND "${text}" "\n```" end)
  string(SUBSTRING "${text}" 0 ${end} block)
  set(${variable} "${block}\n" PARENT_SCOPE)
endfunction()
