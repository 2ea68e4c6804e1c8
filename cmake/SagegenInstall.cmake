# `cmake --install`: libraries, public headers, the command-line tool and the package that
# find_package(sagegen) reads. Components, for --component and for find_package alike: spec, runtime, c (the C
# API as a shared library, also for pkg-config), dsl and generator (if built; the second needs the first); the
# tool is the component `tools`.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sagegen)
set(generator_headers generator/include/sagegen)

foreach(header artifact error family fields kernel line_info params set target types)
  install(FILES ${generator_headers}/${header}.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen COMPONENT spec)
endforeach()
# What rooms show: "templates/<room>/spec.h" and its neighbours, below a folder of their own.
install(DIRECTORY templates DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen/rooms COMPONENT spec
  FILES_MATCHING PATTERN "spec.h" PATTERN "params.h" PATTERN "quantization.h" PATTERN "kv_format.h"
  REGEX "/mods/[a-z_]+[.](h|def)$" PATTERN "include" EXCLUDE)
install(DIRECTORY templates DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen/rooms COMPONENT runtime
  FILES_MATCHING REGEX "/plan(_(choice|codes|invariance|kv_cache|mode_map|shape_class|tuned|tuner))?[.]h$" PATTERN "include" EXCLUDE)
install(DIRECTORY templates/include/sagegen DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT runtime)
install(FILES runtime/include/sagegen/sagegen.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
  COMPONENT c)
install(DIRECTORY runtime/include/sagegen/runtime DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
  COMPONENT runtime FILES_MATCHING PATTERN "*.h")
set(SAGEGEN_COMPONENTS spec runtime c)
if(SAGEGEN_GENERATOR)
  install(FILES ${generator_headers}/emit.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
    COMPONENT generator)
  install(DIRECTORY ${generator_headers}/dsl DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen COMPONENT dsl
    FILES_MATCHING PATTERN "*.h")
  list(APPEND SAGEGEN_COMPONENTS dsl generator)
endif()
foreach(component ${SAGEGEN_COMPONENTS})
  install(EXPORT sagegen_${component} NAMESPACE sagegen:: FILE sagegen_${component}.cmake
    DESTINATION ${package_dir} COMPONENT ${component})
endforeach()

install(FILES cmake/SagegenZstd.cmake DESTINATION ${package_dir} COMPONENT runtime)
configure_package_config_file(cmake/sagegenConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/sagegenConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
foreach(component spec c)   # c alone is a package, too
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfig.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfigVersion.cmake DESTINATION ${package_dir}
    COMPONENT ${component})
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT ${component})
endforeach()

# The path from sagegen.pc to the prefix, so that an installed tree can be moved.
set(SAGEGEN_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  file(RELATIVE_PATH SAGEGEN_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" SAGEGEN_PC_PREFIX "\${pcfiledir}/${SAGEGEN_PC_PREFIX}")
endif()
set(SAGEGEN_PC_LIBDIR "${CMAKE_INSTALL_LIBDIR}")
set(SAGEGEN_PC_INCLUDEDIR "${CMAKE_INSTALL_INCLUDEDIR}")
foreach(dir SAGEGEN_PC_LIBDIR SAGEGEN_PC_INCLUDEDIR)
  if(NOT IS_ABSOLUTE "${${dir}}")
    string(PREPEND ${dir} "\${prefix}/")
  endif()
endforeach()
configure_file(cmake/sagegen.pc.in ${CMAKE_CURRENT_BINARY_DIR}/sagegen.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sagegen.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT c)

if(TARGET sagegen)
  # The same search path in the build tree as installed, where the linked LLVM is. Otherwise CMake pads the
  # one of the build tree with an empty element, which the loader reads as the working directory.
  set_target_properties(sagegen PROPERTIES BUILD_WITH_INSTALL_RPATH ON
    INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS sagegen RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tools)
  if(NOT CMAKE_CROSSCOMPILING)   # where shells and man look for them
    set(said ${PROJECT_BINARY_DIR}/tools/said)
    install(FILES ${said}/sagegen DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT tools)
    install(FILES ${said}/_sagegen DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions COMPONENT tools)
    install(FILES ${said}/sagegen.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT tools)
    install(FILES ${said}/sagegen.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT tools)
  endif()
endif()
