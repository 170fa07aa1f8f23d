# The part of nixpkgs that the functions use, made from named paths: for tests, demonstrations, and
# whoever has no nixpkgs. An attribute set of the same shape, so that each function has one code path.
{
  system ? builtins.currentSystem,
  # What derivations are built with: a shell, and the directories of its programs. In a sandbox these
  # have to be in `sandbox-paths`.
  bash ? "/bin/bash",
  path ? "/usr/bin:/bin",
  # A directory with bin/stream-image.
  stream-image ? throw "minimal.nix: give stream-image, a directory with bin/stream-image",
  # More text for stdenv's setup: shell functions and variables that commands may use.
  setup ? "",
  # Packages by their names in nixpkgs, such as `coreutils` and `bashInteractive`: store paths, or other
  # directories laid out like them.
  packages ? { },
}:

let
  lib = import ./minimal-lib.nix;

  cpu = builtins.head (builtins.split "-" system);

  hostPlatform = {
    inherit system;
    isDarwin = lib.hasSuffix "-darwin" system;
    isLinux = lib.hasSuffix "-linux" system;
    # image functions: the architecture
    go.GOARCH =
      {
        aarch64 = "arm64";
        armv7l = "arm";
        i686 = "386";
        powerpc64le = "ppc64le";
        x86_64 = "amd64";
      }
      .${cpu} or cpu;
  };

  # What stdenv's setup does for a builder, and for the commands of an image, which read it again. Works
  # with variables as they are, and as arrays of structured attributes.
  setupText = ''
    set -eo pipefail
    # Commands of an image have a PATH: with enableFakechroot, programs are elsewhere.
    if [ "$PATH" = /path-not-set ]; then PATH="${path}"; fi
    export PATH HOME=/homeless-shelter TZ=UTC SOURCE_DATE_EPOCH=315532800
    for each in ''${nativeBuildInputs[@]}; do PATH=$each/bin:$PATH; done
    ${setup}
  '';

  # The last command must not be a program: bash would be replaced by it, and Nix kills a builder that
  # closes its standard error, as coreutils do, before it ends.
  builder = builtins.toFile "builder.sh" ''
    if [ -e .attrs.sh ]; then
      . ./.attrs.sh
      for each in "''${!outputs[@]}"; do export "$each=''${outputs[$each]}"; done
    fi
    . "$stdenv/setup"
    if [ -n "''${buildCommandPath-}" ]; then . "$buildCommandPath"; else eval "$buildCommand"; fi
    exit 0
  '';

  setupDirectory = derivation {
    name = "stdenv";
    inherit system setupText;
    builder = bash;
    args = [ "-ec" ''PATH="${path}"; mkdir "$out"; printf %s "$setupText" > "$out/setup"; exit 0'' ];
  };

  makeDerivation =
    attributes:
    let
      isStructured = attributes.__structuredAttrs or false;
      drv = derivation (
        {
          inherit system;
          builder = bash;
          args = [ "-e" builder ];
          stdenv = setupDirectory;
          outputs = [ "out" ];
        }
        // builtins.removeAttrs attributes [ "meta" "passthru" ]
        // lib.optionalAttrs (!isStructured) {
          # A variable of the environment is at most 128 KiB long.
          passAsFile = [ "buildCommand" ] ++ attributes.passAsFile or [ ];
        }
      );
      self =
        drv
        // {
          meta = attributes.meta or { };
          passthru = attributes.passthru or { };
          overrideAttrs =
            change:
            let
              once = if builtins.isFunction change then change attributes else change;
              new = if builtins.isFunction once then change makeNew attributes else once;
              makeNew = attributes // new;
            in
            makeDerivation makeNew;
        }
        // attributes.passthru or { };
    in
    self;

  self = {
    inherit lib stream-image;

    stdenv = setupDirectory // {
      inherit hostPlatform;
      buildPlatform = hostPlatform;
      mkDerivation = makeDerivation;
    };
    stdenvNoCC = self.stdenv;

    # The tools that run in builds. Nothing is cross-compiled here.
    buildPackages = self;
    pkgsBuildBuild = self;

    runCommand =
      name: attributes: command:
      makeDerivation ({ inherit name; buildCommand = command; } // attributes);

    writeText =
      name: text:
      self.runCommand name {
        inherit text;
        passAsFile = [ "text" ];
      } ''cp "$textPath" "$out"'';

    # wrappers of images
    runtimeShell = bash;

    # image functions: in an image, /bin/sh, /usr/bin/env and the certificates
    bashInteractive = throw "minimal.nix: give packages.bashInteractive, a directory with bin/bash";
    coreutils = throw "minimal.nix: give packages.coreutils, a directory with bin/env";
    # and for pullImage, to know registries by
    cacert = throw "minimal.nix: give packages.cacert, a directory with etc/ssl/certs/ca-bundle.crt";
    # shadowSetup
    shadow = throw "minimal.nix: give packages.shadow, a directory with bin/useradd";
    # pullImage
    skopeo = throw "minimal.nix: give packages.skopeo, a directory with bin/skopeo";
  }
  // packages;
in
self
