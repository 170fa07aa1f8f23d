# A base image, as a file: a shell, certificates, and a /tmp for everyone.
{ dockerTools, pkgs, ... }:

dockerTools.buildLayeredImage {
  name = "base";
  tag = "1";
  contents = [
    pkgs.bashInteractive
    pkgs.coreutils
    dockerTools.binSh
    dockerTools.usrBinEnv
    dockerTools.caCertificates
  ];
  extraCommands = "mkdir -m 1777 tmp";
  config.Env = [ "PATH=/bin" ];
}
