# nixpkgs, for what the flake itself builds: `nix run`, `nix build`, `nix shell`.
#
# The flake has no inputs, so that its users have neither a second nixpkgs in their lock file nor
# anything to follow. This one is fetched when a package or an app is asked for, never for `lib` and
# `overlays`, which take the caller's. A revision of nixos-26.05, with the hash of its content.
{ system }:

import
  (builtins.fetchTarball {
    name = "nixpkgs-26.05";
    url = "https://github.com/NixOS/nixpkgs/archive/21a67dc470149f337cecafbe965d8d252a390518.tar.gz";
    sha256 = "sha256-ugpsyk3NM2s87vXfUiIIiibbJ4Pp0JPS5p/3mfs+q+c=";
  })
  {
    inherit system;
    config = { };
    overlays = [ ];
  }
