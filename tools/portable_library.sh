#!/usr/bin/env bash
# Builds a libsagegen.so that runs on every Linux of the last years, glibc 2.28 (2018) or newer, whatever this machine has:
# with the C and C++ compiler, the C++ library and the stubs of old C libraries that the Python package ziglang carries.
# Checks what the library asks for, runs the tests of the C API against it, and prints where it is.
# Usage: tools/portable_library.sh                  into build/portable
#        tools/portable_library.sh --into FOLDER    into another folder
#        tools/portable_library.sh --zig FILE       with this zig, instead of that of build/tools/zig
#        tools/portable_library.sh --install        only install zig into build/tools/zig, by pip, as the first build does
#        tools/portable_library.sh --no-install     build if it is there
# Exit code 77: there is no zig, or the machine lacks what else goes into the library; it says what.
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { echo "portable_library: $1" >&2; exit "${2:-1}"; }
folder='' zig='' may_install=1 only_install=0
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --install) only_install=1 ;;
    --no-install) may_install=0 ;;
    --into|--zig)
      [ $# -ge 2 ] && [ -n "$2" ] || refuse "$1 needs a value (see --help)" 2
      if [ "$1" = --into ]; then folder=$2; else zig=$2; fi
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
"$zig" version >/dev/null || refuse "$zig does not run on this machine" 77
[ $only_install -eq 0 ] || exit 0
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# Compilers as CMake expects them. zig spells processors in its own way, and takes all of a debug build's checks along
# unless it is told not to.
mkdir -p "$folder/bin"
for language in cc c++; do
  cat >"$folder/bin/zig-$language.new" <<EOF
#!/usr/bin/env bash
export ZIG_GLOBAL_CACHE_DIR="\${ZIG_GLOBAL_CACHE_DIR:-$root/build/tools/zig-cache}"  # the C++ library, built once
exec "$zig" $language -target x86_64-linux-gnu.$glibc -fno-sanitize=all -Wno-unused-command-line-argument "\${@/#-march=x86-64-/-march=x86_64_}"
EOF
  chmod +x "$folder/bin/zig-$language.new"
  if cmp -s "$folder/bin/zig-$language.new" "$folder/bin/zig-$language"; then
    rm "$folder/bin/zig-$language.new"
  else
    mv "$folder/bin/zig-$language.new" "$folder/bin/zig-$language"
    rm -rf "$folder/build"   # another compiler
  fi
done

# ---- what the library is made of beside our sources -----------------------------------------------
# Headers by themselves: beside those of this machine's C library they would be taken for the old one's.
compiler=${CXX:-c++}
folder_of() { echo "#include <$1>" | "$compiler" -x c++ -M - 2>/dev/null | tr ' ' '\n' | sed -n "s|/$1\$||p" | head -n 1; }
fmt=$(folder_of fmt/format.h) zstd=$(folder_of zstd.h) archive=$("$compiler" -print-file-name=libzstd.a)
[ -n "$fmt" ] && [ -n "$zstd" ] && [ -f "$archive" ] ||
  refuse "needs fmt, zstd.h and the static libzstd.a (Debian: libfmt-dev libzstd-dev); tools/install_packages.sh installs them" 77
mkdir -p "$folder/deps/include" "$folder/deps/lib"
cp -ru "$fmt/fmt" "$folder/deps/include/"
cp -u "$zstd"/zstd*.h "$folder/deps/include/"
cp -u "$archive" "$folder/deps/lib/"
# fmt as headers alone: distributions build its library with their own C++ library.
cat >"$folder/deps/fmt-config.cmake" <<'EOF'
if(NOT TARGET fmt::fmt)
  add_library(fmt::fmt INTERFACE IMPORTED)
  set_target_properties(fmt::fmt PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}/include"
    INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY=1)
endif()
EOF
echo 'set(PACKAGE_VERSION_COMPATIBLE TRUE)' >"$folder/deps/fmt-config-version.cmake"

# ---- the library ----------------------------------------------------------------------------------
cmake -S "$root" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER="$folder/bin/zig-cc" \
  -DCMAKE_CXX_COMPILER="$folder/bin/zig-c++" -DCMAKE_DISABLE_FIND_PACKAGE_tomlplusplus=ON -DSAGEGEN_GENERATOR=OFF \
  -DSAGEGEN_TESTS=OFF -Dfmt_DIR="$folder/deps" -DSAGEGEN_ZSTD_INCLUDE="$folder/deps/include" \
  -DSAGEGEN_ZSTD_LIBRARY="$folder/deps/lib/libzstd.a" >"$folder/cmake.log" 2>&1 ||
  { cat "$folder/cmake.log" >&2; refuse "CMake's log is above"; }
cmake --build "$folder/build" --target sagegen_shared
library=$folder/libsagegen.so
cp -L "$folder/build/runtime/libsagegen.so" "$library.new"
strip "$library.new"
mv "$library.new" "$library"

# ---- what it asks for ------------------------------------------------------------------------------
needed=$(readelf -dW "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for name in $needed; do
  case "$name" in
    libc.so.6|libm.so.6|libdl.so.2|libpthread.so.0|librt.so.1|ld-linux-x86-64.so.2) ;;
    *) refuse "the library needs $name, which is no part of the C library" ;;
  esac
done
newest=$(readelf -W --dyn-syms "$library" | sed -n 's/.*@GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
[ "$(printf '%s\n' "$newest" "$glibc" | sort -V | tail -n 1)" = "$glibc" ] ||
  refuse "the library asks for symbols of glibc $newest, which are newer than $glibc"

# ---- and whether it works --------------------------------------------------------------------------
"${CC:-cc}" -std=c11 -O1 -I "$root/runtime/include" "$root/tests/driver/capi_test.c" "$library" -lm \
  -Wl,-rpath,"$folder" -o "$folder/capi_test"
ln -sf libsagegen.so "$folder/$(readelf -dW "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')"
(cd "$folder" && ./capi_test >capi_test.log 2>&1) || { cat "$folder/capi_test.log" >&2; refuse "the tests of the C API fail with it"; }
python3 "$root/tests/install/abi_test.py" "$root" "$library" "${CC:-cc}" readelf >"$folder/abi.log" 2>&1 ||
  { cat "$folder/abi.log" >&2; refuse "its interface is not the listed one"; }
echo "$library: $(stat -c %s "$library") bytes, needs glibc $newest or newer and $(echo $needed)"
