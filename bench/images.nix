# What a repository of 200 images evaluates to: a tag and a derivation for each, every second with
# commands.
let
  pkgs = import ../nix/minimal.nix {
    stream-image = "/usr";
    packages.bashInteractive = "/usr";
  };
  functions = import ../nix { inherit pkgs; };

  image =
    number:
    functions.streamLayeredImage {
      name = "image-${toString number}";
      contents = [
        functions.fakeNss
        functions.binSh
      ];
      config.Cmd = [ "${functions.binSh}/bin/sh" ];
      extraCommands = pkgs.lib.optionalString (number / 2 * 2 == number) "mkdir data";
    };

  known = image: {
    inherit (image) drvPath imageName imageTag;
  };
in
map (number: known (image number)) (builtins.genList (number: number) 200)
