{
  description = "Stream container images from Nix store paths, in one pass";

  # No inputs: the functions take the caller's nixpkgs. See nix/nixpkgs.nix for packages and apps.
  outputs =
    { self }:
    let
      systems = [ "aarch64-linux" "x86_64-linux" ];

      eachSystem =
        function:
        builtins.listToAttrs (
          map (system: {
            name = system;
            value = function system;
          }) systems
        );
    in
    {
      # The functions, with the tools of a nixpkgs: `stream-image.lib.dockerTools pkgs`. They call the
      # command of this revision, whichever that nixpkgs may have.
      lib.dockerTools =
        pkgs:
        import ./nix {
          inherit pkgs;
          stream-image = pkgs.buildPackages.callPackage ./nix/package.nix { };
        };

      overlays = {
        # `pkgs.stream-image`, the command, and `pkgs.streamImage`, the functions.
        default = final: _prev: {
          stream-image = final.callPackage ./nix/package.nix { };
          streamImage = import ./nix {
            pkgs = final;
            inherit (final.buildPackages) stream-image;
          };
        };

        # The functions in place of those of `pkgs.dockerTools`, whose other attributes stay.
        dockerTools = final: prev: {
          dockerTools = prev.dockerTools // self.lib.dockerTools final;
        };
      };

      # `nix flake init --template github:stream-image/stream-image`
      templates.default = {
        path = ./examples/nix;
        description = "Container images made with stream-image";
      };

      packages = eachSystem (
        system:
        let
          pkgs = import ./nix/nixpkgs.nix { inherit system; };
          # For people, with all that its verbs call.
          stream-image = pkgs.callPackage ./nix/package.nix { withSkopeo = true; };
        in
        {
          default = stream-image;
          inherit stream-image;
        }
      );

      apps = eachSystem (system: {
        default = {
          type = "app";
          program = "${self.packages.${system}.default}/bin/stream-image";
          meta.description = "Plan, stream, inspect and verify container images";
        };
      });
    };
}
