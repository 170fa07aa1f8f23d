# stream-image as nixpkgs would package it: `pkgs.callPackage ./nix/package.nix { }`.
#
# Needs nixpkgs 25.05 or later, for setuptools 77. Nix itself is not in the closure: `plan`
# asks the one on PATH, and a Nix build gives it the references graph.
{
  lib,
  python3Packages,
  openssl,
  bash,
  bubblewrap,
  cmake,
  coreutils,
  fakeroot,
  ninja,
  skopeo,
  # `pull` and `prefetch` need skopeo. Builds of images do not, and its closure is larger than ours.
  withSkopeo ? false,
}:

let
  # What the build reads. Tests and pages stay out, so that changing them rebuilds nothing.
  source = builtins.path {
    name = "stream-image-source";
    path = ../.;
    filter =
      path: _type:
      let
        name = lib.removePrefix "${toString ../.}/" path;
        top = builtins.head (lib.splitString "/" name);
      in
      builtins.elem top [ "LICENSE" "README.md" "native" "pyproject.toml" "setup.py" "stream" ]
      && !lib.hasSuffix "__pycache__" name
      && !lib.hasSuffix ".so" name;
  };

  # The version is written once, in the package.
  versionIn = builtins.match ''.*__version__ = "([^"]+)".*'' (builtins.readFile ../stream/__init__.py);
in

python3Packages.buildPythonApplication {
  pname = "stream-image";
  version = builtins.head versionIn;
  pyproject = true;
  src = source;

  build-system = [ python3Packages.setuptools ];

  buildInputs = [ openssl ]; # libcrypto, for the extension

  dependencies = [
    (python3Packages.callPackage ./deflate.nix { inherit cmake ninja; })
    python3Packages.isal
    python3Packages.orjson
    python3Packages.pathspec
    python3Packages.pyzstd
    python3Packages.rich
    python3Packages.urllib3
    python3Packages.xxhash
    python3Packages.zstandard
  ];

  # In front of the caller's PATH: fakeroot's library works only in programs of the same C library,
  # which are bash and coreutils here, and Python.
  makeWrapperArgs = [
    "--prefix"
    "PATH"
    ":"
    (lib.makeBinPath [ bash bubblewrap coreutils fakeroot ])
  ]
  ++ lib.optionals withSkopeo [
    "--suffix"
    "PATH"
    ":"
    (lib.makeBinPath [ skopeo ])
  ];

  pythonImportsCheck = [ "stream" "stream._tarhash" ];

  meta = {
    description = "Stream container images from Nix store paths, in one pass";
    homepage = "https://github.com/stream-image/stream-image";
    changelog = "https://github.com/stream-image/stream-image/blob/main/CHANGELOG.md";
    license = lib.licenses.mit;
    mainProgram = "stream-image";
    platforms = lib.platforms.linux;
  };
}
