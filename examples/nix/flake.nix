{
  description = "Container images made with stream-image";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    stream-image.url = "github:stream-image/stream-image";
  };

  outputs =
    { nixpkgs, stream-image, ... }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      dockerTools = stream-image.lib.dockerTools pkgs;

      call = file: import file { inherit dockerTools images pkgs; };

      images = {
        hello = call ./hello.nix;
        base = call ./base.nix;
        web = call ./web.nix;
        accounts = call ./accounts.nix;
        shell = call ./shell.nix;
        stable = call ./stable.nix;
      };
    in
    {
      packages.${system} = images // {
        default = images.hello;
      };
    };
}
