# What nix/ and examples/nix use of nixpkgs, with the machine's programs in place of nixpkgs': enough
# to evaluate the package and to build it with pip, as nixpkgs does.
#
# `python` has pip, setuptools and the dependencies; `interpreter` is the Python that it was made
# from, which has none of them. With `stream-image`, a directory with bin/stream-image, nothing is
# built with pip. The result is a function, as nixpkgs is. Nothing is fetched: a source of PyPI is its
# name and hash.
{
  python ? "",
  interpreter ? "",
  stream-image ? null,
}:
{
  system,
  overlays ? [ ],
  config ? { },
}:

let
  run =
    name: attributes: script:
    derivation (
      {
        inherit name system;
        builder = "/bin/bash";
        # Nix kills a builder that closes its standard error before it exits, as GNU's programs do.
        args = [ "-euc" "${script}\nexit 0" ];
        PATH = "/usr/bin:/bin";
      }
      // attributes
    );

  # A package of which the machine may have the programs: links to those that it has.
  programs =
    name: names:
    run name { inherit names; } ''
      mkdir -p $out/bin
      for each in $names; do
        if found=$(command -v "$each"); then ln -s "$found" $out/bin/; fi
      done
    '';

  callPackageWith =
    scope: file: arguments:
    let
      function = import file;
    in
    function (builtins.intersectAttrs (builtins.functionArgs function) scope // arguments);

  # The arguments that nixpkgs' documentation has, of those that a package of ours may need. Another
  # would be passed on to the builder without effect, as a misspelt one is.
  known = [
    "build-system" "buildInputs" "dependencies" "dontUseCmakeConfigure" "makeWrapperArgs" "meta"
    "nativeBuildInputs" "pname" "pyproject" "pythonImportsCheck" "src" "version"
  ];

  checked =
    arguments:
    let
      unknown = builtins.attrNames (builtins.removeAttrs arguments known);
    in
    if unknown != [ ] then
      throw "unknown arguments: ${toString unknown}"
    else if !(arguments.pyproject or false) then
      throw "pyproject is not set"
    else
      arguments;

  # Like nixpkgs: a wheel without downloads, the check of its dependencies, the modules imported, the
  # programs with the dependencies in their search path and the wrapper's PATH.
  buildPythonApplication =
    arguments:
    let
      given = checked arguments;
      name = "${given.pname}-${given.version}";
      built = run name {
        inherit (given) src makeWrapperArgs pythonImportsCheck;
        inherit python interpreter;
        dependencies = map (package: package.pname) given.dependencies;
        STREAM_IMAGE_CFLAGS = "-O0"; # compiles faster
      } (builtins.readFile ./build-application.sh);
      linked = run name { } "mkdir $out; ln -s ${stream-image}/bin $out/bin";
    in
    (if stream-image == null then built else linked) // { inherit (given) pname version meta dependencies build-system; };

  buildPythonPackage =
    arguments:
    let
      given = checked arguments;
    in
    { inherit (given) pname version src meta; };

  modules = builtins.listToAttrs (
    map
      (pname: {
        name = pname;
        value = { inherit pname; };
      })
      [ "isal" "orjson" "pathspec" "pyzstd" "rich" "scikit-build-core" "setuptools" "urllib3" "xxhash" "zstandard" ]
  );

  minimal = import ../../nix/minimal.nix {
    inherit system;
    packages = {
      bashInteractive = programs "bash-interactive" "bash";
      bubblewrap = programs "bubblewrap" "bwrap";
      cacert = run "cacert" { } ''
        mkdir -p $out/etc/ssl/certs
        echo certificates > $out/etc/ssl/certs/ca-bundle.crt
      '';
      cmake = programs "cmake" "";
      coreutils = programs "coreutils" "cat chmod chown cp env id ln mkdir mknod mv rm tail touch tr";
      fakeroot = programs "fakeroot" "fakeroot";
      hello = run "hello" { } ''
        mkdir -p $out/bin
        printf '#!/bin/sh\necho Hello, world!\n' > $out/bin/hello
        chmod +x $out/bin/hello
      '';
      ninja = programs "ninja" "";
      openssl = programs "openssl" "";
      skopeo = programs "skopeo" "skopeo";
      shadow = programs "shadow" "useradd groupadd";
    };
  };

  packages =
    final:
    builtins.removeAttrs minimal [ "stream-image" ]
    // {
      lib = minimal.lib // {
        makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
        licenses.mit.spdxId = "MIT";
        platforms.linux = [ "aarch64-linux" "x86_64-linux" ];
      };
      python3Packages = modules // {
        inherit buildPythonApplication buildPythonPackage;
        fetchPypi = { pname, version, hash }: { inherit pname version hash; };
        callPackage = callPackageWith (final // final.python3Packages);
      };
      bash = programs "bash" "bash";
      # Those of nixpkgs, of which an overlay may replace some.
      dockerTools = {
        examples = "theirs";
        streamLayeredImage = "theirs";
      };
      buildPackages = final;
      pkgsBuildBuild = final;
      callPackage = callPackageWith final;
    };

  final = builtins.foldl' (prev: overlay: prev // overlay final prev) (packages final) overlays;
in
final
