# The functions of nixpkgs' dockerTools, made by stream-image. Only public names are in this set, so
# that it can lie over `pkgs.dockerTools`.
#
# `pkgs` is nixpkgs, or an attribute set of its shape: see minimal.nix for what is used of it.
# `stream-image` is a package, or any directory with bin/stream-image, for the build platform.
# Without `pkgs`, programs are found at named paths, and `stream-image` has to be given.
arguments@{
  pkgs ? import ./minimal.nix { inherit (arguments) stream-image; },
  stream-image ?
    pkgs.buildPackages.stream-image or (pkgs.buildPackages.callPackage ./package.nix { }),
}:

let
  # The functions of a file. Each takes what it needs from here.
  family =
    file:
    import file {
      inherit (pkgs) lib;
      inherit functions pkgs stream-image tools;
    };
  # What the families have from each other.
  tools = family ./tools.nix;

  functions =
    family ./archives.nix
    // family ./contents.nix
    // family ./image.nix
    // family ./index.nix
    // family ./layered.nix
    // family ./pull.nix
    // family ./shell.nix;
in
functions
