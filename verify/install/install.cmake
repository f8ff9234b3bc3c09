# What `cmake --install` puts where. The program finds its files relative to itself, so the folders below the prefix are
# the same on every system. PREFIX/lib/cmake/attnspec makes find_package(attnspec) work; verify/examples/find_package/
# uses it.
include(CheckCXXSourceCompiles)
include(CMakePackageConfigHelpers)

install(TARGETS attnspec RUNTIME DESTINATION bin)
install(TARGETS attnspec_worker RUNTIME DESTINATION libexec)

# install_library(NAME EXPORT SCOPE HEADER...): target attnspec_NAME, as attnspec::NAME in an export, and its headers.
function(install_library name export scope)
  set_target_properties(attnspec_${name} PROPERTIES EXPORT_NAME ${name})
  target_sources(attnspec_${name} ${scope} FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARGN})
  install(TARGETS attnspec_${name} EXPORT ${export} ARCHIVE DESTINATION lib LIBRARY DESTINATION lib
    FILE_SET HEADERS DESTINATION include/attnspec)
endfunction()

# For kernels, and for judging them from C: needs DLPack alone.
install_library(abi attnspec_c INTERFACE ${PROJECT_SOURCE_DIR}/verify/abi/kernel_abi.h)
install_library(c attnspec_c PUBLIC ${PROJECT_SOURCE_DIR}/verify/abi/c_api.h)

# For C++.
file(GLOB_RECURSE reference_headers ${PROJECT_SOURCE_DIR}/reference/*.hpp)
list(FILTER reference_headers EXCLUDE REGEX "/reference/selftest/")
install_library(reference attnspec_cxx PUBLIC ${reference_headers})
if(TARGET attnspec_simulated)
  install_library(simulator attnspec_cxx PRIVATE)
  install_library(simulated attnspec_cxx PRIVATE)
endif()
install_library(cuda attnspec_cxx PUBLIC ${PROJECT_SOURCE_DIR}/cuda/device.hpp ${PROJECT_SOURCE_DIR}/cuda/timing.hpp)
file(GLOB_RECURSE verify_headers ${PROJECT_SOURCE_DIR}/verify/*.hpp)
list(FILTER verify_headers EXCLUDE REGEX "/verify/(selftest/|judge/result_json[.]hpp)") # users need no library for JSON
install_library(verify attnspec_cxx PUBLIC ${verify_headers} ${PROJECT_SOURCE_DIR}/verify/abi/kernel_abi.h)
file(GLOB fuzz_headers ${PROJECT_SOURCE_DIR}/fuzz/search/*.hpp)
install_library(fuzz attnspec_cxx PUBLIC ${fuzz_headers})
# The linker keeps one copy of what both the headers, or Eigen, and a program that includes them compile. None of them may
# fuse a product and a sum, so that inputs and expected values stay the same with every -march.
target_compile_options(attnspec_reference INTERFACE
  $<INSTALL_INTERFACE:$<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>>)
# Eigen's memory is freed by whoever has it last, so a program must align it as the libraries do, whatever its -march.
set(CMAKE_REQUIRED_LIBRARIES Eigen3::Eigen)
check_cxx_source_compiles("#include <Eigen/Core>\nstatic_assert(EIGEN_MAX_ALIGN_BYTES == 16);\nint main() {}"
  ATTNSPEC_ALIGNS_TO_16)
unset(CMAKE_REQUIRED_LIBRARIES)
if(ATTNSPEC_ALIGNS_TO_16)
  target_compile_definitions(attnspec_reference INTERFACE $<INSTALL_INTERFACE:EIGEN_MAX_ALIGN_BYTES=16>)
endif()
if(CMAKE_CUDA_COMPILER)
  target_link_libraries(attnspec_cuda INTERFACE $<INSTALL_INTERFACE:CUDA::cudart_static>)
endif()

foreach(folder python golden cases/activations)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/verify/${folder} DESTINATION share/attnspec
    PATTERN __pycache__ EXCLUDE PATTERN "*.egg-info" EXCLUDE PATTERN build EXCLUDE PATTERN "*.[ch]pp" EXCLUDE)
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/fuzz/bench DESTINATION share/attnspec FILES_MATCHING PATTERN "*.py")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/attnspec)

set(package lib/cmake/attnspec)
foreach(export attnspec_c attnspec_cxx)
  install(EXPORT ${export} FILE ${export}_targets.cmake NAMESPACE attnspec:: DESTINATION ${package})
endforeach()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/attnspecConfig.cmake.in attnspecConfig.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(attnspecConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/attnspecConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/attnspecConfigVersion.cmake
  DESTINATION ${package})
