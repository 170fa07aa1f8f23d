# The smallest image: a program and what it needs.
#
#   nix build .#hello && ./result | docker load
#   docker run --rm "hello:$(nix eval --raw .#hello.imageTag)"
{ dockerTools, pkgs, ... }:

dockerTools.streamLayeredImage {
  name = "hello";
  contents = [ pkgs.hello ];
  config.Cmd = [ "/bin/hello" ];
}
