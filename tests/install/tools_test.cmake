include(${CMAKE_CURRENT_LIST_DIR}/common.cmake)

# The tool with what shells and man look for, each made by the tool itself.
file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK} --component tools)
foreach(made "completion bash:bash-completion/completions/sagegen" "completion zsh:zsh/site-functions/_sagegen"
    "completion fish:fish/vendor_completions.d/sagegen.fish" "man:man/man1/sagegen.1")
  string(REGEX MATCH "^(.*):(.*)$" match "${made}")
  set(file ${WORK}/share/${CMAKE_MATCH_2})
  separate_arguments(words UNIX_COMMAND "${CMAKE_MATCH_1}")
  run(${WORK}/bin/sagegen ${words})
  file(READ ${file} installed)
  if(NOT installed STREQUAL run_output)
    message(FATAL_ERROR "${file} is not what `sagegen ${CMAKE_MATCH_1}` prints")
  endif()
endforeach()
