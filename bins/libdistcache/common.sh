# Functions and variables of build, install and uninstall, which set `here` and source this file.

complain() { echo "$(basename "$0"): $*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
# The directory of the built library.
built=${CARGO_TARGET_DIR:-$here/../../target}/libdistcache
built=$(realpath -m "$built")

# Reads NAME=value arguments, as make does. They override the environment.
settings() {
    local setting
    for setting in "$@"; do
        case $setting in
        PREFIX=* | LIBDIR=* | DESTDIR=* | BUILD=*) export "${setting?}" ;;
        /*) complain "unexpected argument $setting; did you mean PREFIX=$setting?" ;;
        *) complain "unexpected argument $setting; known are PREFIX=, LIBDIR=, DESTDIR= and BUILD=" ;;
        esac
    done
    prefix=$(realpath -sm "${PREFIX:-/usr/local}")
    libdir=$(realpath -sm "${LIBDIR:-$prefix/lib}")
    built=$(realpath -sm "${BUILD:-$built}")
    destdir=${DESTDIR:-}
    case $prefix$libdir in *[[:space:]]*)
        complain "$prefix has a space in it, which pkg-config cannot express" ;;
    esac
    headers=$destdir$prefix/include/distcache
    libraries=$destdir$libdir
}

# Installs a file with mode $1, from $2 into directory $3, in one step: running programs keep the old file.
put() {
    mkdir -p "$3" 2>/dev/null && [ -w "$3" ] ||
        complain "cannot write to $3: choose another directory, or run this as root"
    local name=$3/${4:-$(basename "$2")}
    install -m "$1" "$2" "$name.$$"
    mv -f "$name.$$" "$name"
}

ldconfig=$(PATH=$PATH:/usr/sbin:/sbin command -v ldconfig || true)

# Returns whether the dynamic linker searches LIBDIR by default.
searched() {
    [ -n "$ldconfig" ] || return
    # Not grep -q, which would close the pipe early and make ldconfig fail.
    "$ldconfig" -v -N -X 2>/dev/null | grep "^$libdir\(:\| (\)" >/dev/null
}

# Updates the cache of the dynamic linker. Only root can, and packages do it when they are unpacked.
refresh() {
    if [ -z "$destdir" ] && [ "$(id -u)" = 0 ] && searched; then "$ldconfig"; fi
}
