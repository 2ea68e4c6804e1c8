if(SAGEGEN_FUZZ AND NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
  message(FATAL_ERROR "SAGEGEN_FUZZ=ON needs libFuzzer: configure with -DCMAKE_CXX_COMPILER=clang++")
endif()

# What every target of the project is compiled with. Headers are included from the repository root
# ("generator/dsl/impl.h") inside the project, and public ones as <sagegen/...>.
function(sagegen_compile_options target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor>
    # g++ 12 warns wrongly about "text" + std::string (GCC bug 105651).
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict>
    # clang has no `#pragma GCC ivdep`; it may vectorize less.
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:Clang>>:-Wno-unknown-pragmas>
    # Source locations of templates go into messages and PTX; they must not depend on the checkout.
    $<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>
    $<$<BOOL:${SAGEGEN_WERROR}>:-Werror>)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  # Files keep helpers of the same name in anonymous namespaces of their own, and the lane loops and mma
  # kernels are one text compiled three times: CMAKE_UNITY_BUILD, which joins files, may not touch them.
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
  if(SAGEGEN_FUZZ)   # libFuzzer needs to see the branches of what it fuzzes
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(SAGEGEN_SANITIZE)
    list(JOIN SAGEGEN_SANITIZE "," _sanitizers)
    target_compile_options(${target} PRIVATE -fsanitize=${_sanitizers} -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${_sanitizers})
  endif()
endfunction()

# For targets that the C API's shared library carries: a section per function, so that the linker leaves out what
# nobody reaches.
function(sagegen_split_sections target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-ffunction-sections -fdata-sections>)
endfunction()

# The same, and small code: for what runs once per kernel or plan.
function(sagegen_keep_small target)
  sagegen_split_sections(${target})
  target_compile_options(${target} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:-Os>)
endfunction()

# sagegen_library(sagegen_name COMPONENT component [USES_LLVM] [SOURCES ...] [INCLUDE dirs] [PUBLIC deps]
# [PRIVATE deps]): one layer, one static library, known as sagegen::name in this build and to users of the
# installed package. COMPONENT: the part of the package it belongs to (see cmake/sagegenConfig.cmake.in);
# without one it is not installed.
function(sagegen_library name)
  cmake_parse_arguments(ARG "USES_LLVM" "COMPONENT" "SOURCES;PUBLIC;PRIVATE;INCLUDE" ${ARGN})
  string(REGEX REPLACE "^sagegen_" "" short_name ${name})
  add_library(${name} STATIC ${ARG_SOURCES})
  add_library(sagegen::${short_name} ALIAS ${name})
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${short_name})
  target_compile_features(${name} PUBLIC cxx_std_20)
  sagegen_compile_options(${name})
  foreach(dir ${ARG_INCLUDE})
    target_include_directories(${name} PUBLIC
      $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/${dir}> $<INSTALL_INTERFACE:include>)
  endforeach()
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  if(ARG_USES_LLVM)
    target_include_directories(${name} SYSTEM PRIVATE ${LLVM_INCLUDE_DIRS})
    target_compile_definitions(${name} PRIVATE ${LLVM_DEFINITIONS_LIST})
    if(NOT LLVM_ENABLE_RTTI)   # classes derived from LLVM's must be built like LLVM
      target_compile_options(${name} PRIVATE -fno-rtti)
    endif()
  endif()
  if(ARG_COMPONENT AND SAGEGEN_INSTALL)
    install(TARGETS ${name} EXPORT sagegen_${ARG_COMPONENT}
      ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${ARG_COMPONENT})
  endif()
endfunction()

# sagegen_test(name SOURCES ... LIBRARIES ... LABELS ...): a Catch2 executable that is one ctest test.
# Exit code 77 means skipped with a printed reason.
function(sagegen_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBRARIES;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  sagegen_compile_options(${name})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} sagegen_catch_main)
  target_compile_definitions(${name} PRIVATE SAGEGEN_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    SKIP_RETURN_CODE 77)
endfunction()
