# The build environment of a package, as `nix-shell` has it: run it and build with buildDerivation.
{ dockerTools, pkgs, ... }:

dockerTools.streamNixShellImage {
  drv = pkgs.hello;
  tag = "latest";
}
