#!/usr/bin/env bash
# Builds a libsagegen.so that runs on every Linux of the last years, glibc 2.28 (2018) or newer, whatever this machine has:
# with the C and C++ compiler, the C++ library and the stubs of old C libraries that the Python package ziglang carries.
# Checks what the library asks for, runs the tests of the C API against it, and prints where it is. With --wheel the wheel
# of the Python package instead, with the tag manylinux_2_28_x86_64; both are made of the same objects, compiled once.
# Usage: tools/portable_library.sh                  into build/portable
#        tools/portable_library.sh --wheel PYTHON   the wheel for this Python; pip fetches what builds it
#        tools/portable_library.sh --into FOLDER    into another folder
#        tools/portable_library.sh --zig FILE       with this zig, instead of that of build/tools/zig
#        tools/portable_library.sh --install        only install zig into build/tools/zig, by pip, as the first build does
#        tools/portable_library.sh --no-install     build if it is there; and the wheel with what that Python has
# Exit code 77: there is no zig, or the machine lacks what else goes into the library; it says what.
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { echo "portable_library: $1" >&2; exit "${2:-1}"; }
folder='' zig='' python='' may_install=1 only_install=0
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --install) only_install=1 ;;
    --no-install) may_install=0 ;;
    --into|--zig|--wheel)
      [ $# -ge 2 ] && [ -n "$2" ] || refuse "$1 needs a value (see --help)" 2
      case "$1" in --into) folder=$2 ;; --zig) zig=$2 ;; --wheel) python=$2 ;; esac
      shift ;;
    *) refuse "unknown argument $1 (see --help)" 2 ;;
  esac
  shift
done
root=$(cd "$(dirname "$0")/.." && pwd)
[ -n "$folder" ] || folder=$root/build/portable

package=ziglang version=0.17.1
glibc=2.28
[ "$(uname -m)" = x86_64 ] || refuse "builds for x86_64 on x86_64, and this is $(uname -m)" 77

# ---- the compiler --------------------------------------------------------------------------------
if [ -z "$zig" ]; then
  tools=$root/build/tools/zig
  zig=$tools/ziglang/zig
  if [ ! -x "$zig" ] || [ "$("$zig" version)" != "$version" ]; then
    [ $may_install -eq 1 ] || refuse "there is no zig $version in $tools; tools/portable_library.sh --install puts it there" 77
    command -v python3 >/dev/null || refuse "needs python3 with pip, which fetches the package $package" 77
    rm -rf "$tools" "$tools.new"
    mkdir -p "$tools.new"
    if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$tools.new" \
        "$package==$version" >"$tools.new/pip.log" 2>&1; then
      cat "$tools.new/pip.log" >&2
      refuse "pip could not install $package $version (its log is above)" 77
    fi
    mv "$tools.new" "$tools"
  fi
fi
[ -x "$zig" ] || refuse "there is no program $zig" 2
zig=$(realpath "$zig")
"$zig" version >/dev/null || refuse "$zig does not run on this machine" 77
[ $only_install -eq 0 ] || exit 0
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# Compilers as CMake expects them. zig spells processors in its own way, and takes the checks and the tables of a debug
# build along unless it is told not to. Of this machine's headers it sees copies: beside those of this machine's C
# library, in its folder, they would bring that library's along.
mkdir -p "$folder/bin"
for language in cc c++; do
  cat >"$folder/bin/zig-$language.new" <<EOF
#!/usr/bin/env bash
export ZIG_GLOBAL_CACHE_DIR="\${ZIG_GLOBAL_CACHE_DIR:-$root/build/tools/zig-cache}"  # the C++ library, built once
exec "$zig" $language -target x86_64-linux-gnu.$glibc -fno-sanitize=all -g0 -Wno-unused-command-line-argument -isystem "$folder/deps/include" "\${@/#-march=x86-64-/-march=x86_64_}"
EOF
  chmod +x "$folder/bin/zig-$language.new"
  if cmp -s "$folder/bin/zig-$language.new" "$folder/bin/zig-$language"; then
    rm "$folder/bin/zig-$language.new"
  else
    mv "$folder/bin/zig-$language.new" "$folder/bin/zig-$language"
    rm -rf "$folder/build"   # another compiler
  fi
done

# ---- what goes in beside our sources --------------------------------------------------------------
compiler=${CXX:-c++}
folder_of() { echo "#include <$1>" | "$compiler" -x c++ -M - 2>/dev/null | tr ' ' '\n' | sed -n "s|/$1\$||p" | head -n 1; }
fmt=$(folder_of fmt/format.h) zstd=$(folder_of zstd.h) archive=$("$compiler" -print-file-name=libzstd.a)
[ -n "$fmt" ] && [ -n "$zstd" ] && [ -f "$archive" ] ||
  refuse "needs fmt, zstd.h and the static libzstd.a (Debian: libfmt-dev libzstd-dev); tools/install_packages.sh installs them" 77
mkdir -p "$folder/deps/include" "$folder/deps/lib"
cp -ru "$fmt/fmt" "$folder/deps/include/"
cp -u "$zstd"/zstd*.h "$folder/deps/include/"
cp -u "$archive" "$folder/deps/lib/"
# Of fmt the headers: distributions build its library with their own C++ library, and ours carry its code
# (runtime/capi/fmt_bodies.cpp).
cat >"$folder/deps/fmt-config.cmake" <<'EOF'
if(NOT TARGET fmt::fmt)
  add_library(fmt::fmt INTERFACE IMPORTED)
  set_target_properties(fmt::fmt PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}/include")
endif()
EOF
echo 'set(PACKAGE_VERSION_COMPATIBLE TRUE)' >"$folder/deps/fmt-config-version.cmake"

# One build tree: the library and the wheel are made of the same objects.
options=(CMAKE_C_COMPILER="$folder/bin/zig-cc" CMAKE_CXX_COMPILER="$folder/bin/zig-c++" SAGEGEN_GENERATOR=OFF
  SAGEGEN_TESTS=OFF CMAKE_DISABLE_FIND_PACKAGE_tomlplusplus=ON fmt_DIR="$folder/deps"
  SAGEGEN_ZSTD_INCLUDE="$folder/deps/include" SAGEGEN_ZSTD_LIBRARY="$folder/deps/lib/libzstd.a")

# What a shared object asks for: the C library alone, and none newer than that it is built for.
check_needs() {
  local name needed newest
  needed=$(readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
  for name in $needed; do
    case "$name" in
      libc.so.6|libm.so.6|libdl.so.2|libpthread.so.0|librt.so.1|ld-linux-x86-64.so.2) ;;
      *) refuse "$1 needs $name, which is no part of the C library" ;;
    esac
  done
  newest=$(readelf -W --dyn-syms "$1" | sed -n 's/.*@GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
  [ "$(printf '%s\n' "$newest" "$glibc" | sort -V | tail -n 1)" = "$glibc" ] ||
    refuse "$1 asks for symbols of glibc $newest, which are newer than $glibc"
  needs="needs glibc $newest or newer and $(echo $needed)"
}

# ---- the wheel ------------------------------------------------------------------------------------
if [ -n "$python" ]; then
  tag=$("$python" -c 'import sys; v = "cp%d%d" % sys.version_info[:2]; print(f"{v}-{v}{sys.abiflags}")') ||
    refuse "$python is no Python" 2
  # Debian keeps one header of Python's beside those of the C library.
  config=$("$python" -c 'import sys; print("x86_64-linux-gnu/python%d.%d" % sys.version_info[:2])')
  if [ -e "/usr/include/$config/pyconfig.h" ]; then
    mkdir -p "$folder/deps/include/$config"
    cp -u "/usr/include/$config/pyconfig.h" "$folder/deps/include/$config/"
  fi
  offline=()
  if [ $may_install -eq 0 ]; then
    "$python" -c 'import nanobind, scikit_build_core' 2>/dev/null ||
      refuse "$python has no pip packages nanobind and scikit-build-core; tools/install_python_env.sh makes one that has" 77
    offline=(--no-build-isolation --no-index)
  fi
  rm -rf "$folder/wheel.new"
  "$python" -m pip wheel "$root" --quiet --disable-pip-version-check --no-deps "${offline[@]}" --wheel-dir "$folder/wheel.new" \
    --config-settings=build-dir="$folder/build" --config-settings=wheel.tags="$tag-manylinux_${glibc/./_}_x86_64" \
    "${options[@]/#/--config-settings=cmake.define.}"
  wheel=$(echo "$folder"/wheel.new/*.whl)
  "$python" -m zipfile -e "$wheel" "$folder/wheel.new/contents"
  check_needs "$(echo "$folder"/wheel.new/contents/sagegen/_core*.so)"
  PYTHONPATH=$folder/wheel.new/contents "$python" -c 'import sagegen; assert sagegen.kernels()'
  rm -rf "$folder/wheel"
  mv "$folder/wheel.new" "$folder/wheel"
  wheel=$folder/wheel/${wheel##*/}
  echo "$wheel: $(stat -c %s "$wheel") bytes, $needs"
  exit 0
fi

# ---- the library ----------------------------------------------------------------------------------
cmake -S "$root" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSAGEGEN_PYTHON=OFF "${options[@]/#/-D}" \
  >"$folder/cmake.log" 2>&1 || { cat "$folder/cmake.log" >&2; refuse "CMake's log is above"; }
cmake --build "$folder/build" --target sagegen_shared
library=$folder/libsagegen.so
cp -L "$folder/build/runtime/libsagegen.so" "$library.new"
strip "$library.new"
mv "$library.new" "$library"
check_needs "$library"

# ---- and whether it works --------------------------------------------------------------------------
"${CC:-cc}" -std=c11 -O1 -I "$root/runtime/include" "$root/tests/driver/capi_test.c" "$library" -lm \
  -Wl,-rpath,"$folder" -o "$folder/capi_test"
ln -sf libsagegen.so "$folder/$(readelf -dW "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')"
(cd "$folder" && ./capi_test >capi_test.log 2>&1) || { cat "$folder/capi_test.log" >&2; refuse "the tests of the C API fail with it"; }
python3 "$root/tests/install/abi_test.py" "$root" "$library" "${CC:-cc}" readelf >"$folder/abi.log" 2>&1 ||
  { cat "$folder/abi.log" >&2; refuse "its interface is not the listed one"; }
echo "$library: $(stat -c %s "$library") bytes, $needs"
