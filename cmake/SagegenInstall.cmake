# `cmake --install`: libraries, public headers, the command-line tool and the package that
# find_package(sagegen) reads. Components, for --component and for find_package alike: spec, runtime,
# generator (if built); the tool is the component `tools`.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sagegen)
set(generator_headers generator/include/sagegen)

install(FILES ${generator_headers}/types.h ${generator_headers}/spec.h ${generator_headers}/error.h
  ${generator_headers}/abi.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen COMPONENT spec)
install(FILES runtime/include/sagegen/sagegen.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
  COMPONENT runtime)
install(DIRECTORY runtime/include/sagegen/runtime DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
  COMPONENT runtime FILES_MATCHING PATTERN "*.h")
set(SAGEGEN_COMPONENTS spec runtime)
if(SAGEGEN_GENERATOR)
  install(FILES ${generator_headers}/emit.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sagegen
    COMPONENT generator)
  list(APPEND SAGEGEN_COMPONENTS generator)
endif()
foreach(component ${SAGEGEN_COMPONENTS})
  install(EXPORT sagegen_${component} NAMESPACE sagegen:: FILE sagegen_${component}.cmake
    DESTINATION ${package_dir} COMPONENT ${component})
endforeach()

configure_package_config_file(cmake/sagegenConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/sagegenConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/sagegenConfigVersion.cmake DESTINATION ${package_dir} COMPONENT spec)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT spec)

if(TARGET sagegen)
  install(TARGETS sagegen RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tools)
endif()
