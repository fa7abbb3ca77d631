# Sourced by the scripts: the repository's root, and the Foundry binaries as FORGE, ANVIL and CAST.
# A Foundry of the user's own on PATH counts first, then the one that package-lock.json pins.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Settings of the user's own have no place in tests and demo.
export STIPEND_CONFIG=/dev/null

CARGO_DENY_VERSION=0.20.2

installed_cargo_deny() {
  "$ROOT/.tools/bin/cargo-deny" --version 2> /dev/null | awk '{ print $2 }'
}

# A stable toolchain of the pinned version serves as well as one that is installed under its number.
RUST_VERSION="$(sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")"
if command -v rustup > /dev/null && ! rustup which --toolchain "$RUST_VERSION" rustc &> /dev/null &&
   [[ "$(rustup run stable rustc --version 2> /dev/null)" == "rustc $RUST_VERSION "* ]]; then
  export RUSTUP_TOOLCHAIN=stable
fi

# Installs the pinned Solidity tools unless they are there and as new as the lock file.
ensure_tools() {
  if [[ ! -e "$ROOT/node_modules/.package-lock.json" ||
        "$ROOT/package-lock.json" -nt "$ROOT/node_modules/.package-lock.json" ]]; then
    (cd "$ROOT" && npm ci --loglevel=error >&2) || return
    touch "$ROOT/node_modules/.package-lock.json"
  fi
  find_tools
  if [[ ! -x "$FORGE" || ! -x "$ANVIL" || ! -x "$CAST" ]]; then
    echo "no Foundry found for $(uname -sm): install it (https://getfoundry.sh), then run this again" >&2
    return 1
  fi
}

find_tools() {
  FORGE="$(foundry_binary forge)"
  ANVIL="$(foundry_binary anvil)"
  CAST="$(foundry_binary cast)"
  export FORGE ANVIL CAST
}

# npm's own launchers always exit with 0, so neither they nor links to them will do: the binaries behind them are called.
foundry_binary() {
  local tool="$1" candidate os arch
  while IFS= read -r candidate; do
    if [[ "$(readlink -f "$candidate")" != *node_modules* ]]; then
      echo "$candidate"
      return
    fi
  done < <(type -ap "$tool")
  os="$(uname -s | tr '[:upper:]' '[:lower:]')"
  case "$(uname -m)" in
    x86_64 | amd64) arch=amd64 ;;
    *) arch=arm64 ;;
  esac
  echo "$ROOT/node_modules/@foundry-rs/$tool-$os-$arch/bin/$tool"
}

find_tools

# Installs the analyzers that contracts/requirements.txt pins, once and again whenever it changes. PYTHON_TOOLS is where.
ensure_analyzers() {
  local requirements="$ROOT/contracts/requirements.txt"
  PYTHON_TOOLS="$ROOT/contracts/.venv"
  if ! cmp -s "$requirements" "$PYTHON_TOOLS/requirements.txt"; then
    python3 -m venv --clear "$PYTHON_TOOLS" &&
      "$PYTHON_TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$requirements" &&
      "$PYTHON_TOOLS/bin/python" -m pip check --disable-pip-version-check >&2 &&
      cp "$requirements" "$PYTHON_TOOLS/requirements.txt" || return
  fi
}

# Copies what the contracts are built from, so that analyzers may clean and build as they like. COPY is where.
copy_contracts() {
  COPY="$(mktemp -d)" || return
  mkdir "$COPY/scripts" "$COPY/bindings" &&
    cp -R "$ROOT/foundry.toml" "$COPY/" &&
    cp -R "$ROOT/contracts" "$COPY/contracts" &&
    rm -rf "$COPY/contracts/.venv" &&
    cp "$ROOT/scripts/solc.js" "$COPY/scripts/" &&
    cp -R "$ROOT/bindings/vectors" "$COPY/bindings/" &&
    ln -s "$ROOT/node_modules" "$COPY/node_modules"
}
