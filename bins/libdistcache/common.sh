# What build, install and uninstall have in common; sourced with `here` set.

complain() { echo "$(basename "$0"): $*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
# Where `build` puts what it builds.
built=${CARGO_TARGET_DIR:-$here/../../target}/libdistcache
built=$(realpath -m "$built")

# Takes NAME=value arguments, as make does, over what the environment says.
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

# Puts a file there whole or not at all; programs that run keep the one they have.
put() {
    mkdir -p "$3" 2>/dev/null && [ -w "$3" ] || 
        complain "cannot write to $3: choose another directory, or run this as root"
    local name=$3/${4:-$(basename "$2")}
    install -m "$1" "$2" "$name.$$"
    mv -f "$name.$$" "$name"
}

ldconfig=$(PATH=$PATH:/usr/sbin:/sbin command -v ldconfig || true)

# Whether programs find what is in LIBDIR without being told where it is.
searched() {
    [ -n "$ldconfig" ] || return
    # All of it is read: ldconfig must not die of a closed pipe.
    "$ldconfig" -v -N -X 2>/dev/null | grep "^$libdir\(:\| (\)" >/dev/null
}

# Tells the system that the libraries have changed: not for a package, and only root can.
refresh() {
    if [ -z "$destdir" ] && [ "$(id -u)" = 0 ] && searched; then "$ldconfig"; fi
}
