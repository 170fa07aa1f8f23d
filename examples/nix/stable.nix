# Layers that stay as they were in the build before, where that saves transfer. After each release,
# check the new ones in:
#
#   nix build .#stable.conf && jq "{store_layers}" result > layers.json
{ dockerTools, pkgs, ... }:

dockerTools.streamLayeredImage {
  name = "stable";
  contents = [ pkgs.bashInteractive pkgs.hello ];
  config.Cmd = [ "/bin/hello" ];
  previous = ./layers.json;
}
