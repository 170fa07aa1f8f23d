# The images of a CI matrix: a runtime, and two services on it. A change to a service makes one new layer.
{
  pkgs ? import <nixpkgs> { },
  dockerTools ? import <stream-image/nix> { inherit pkgs; },
}:

let
  runtime = [
    pkgs.python3
    pkgs.openssl
  ];

  # A program, and what it needs: the layers of the runtime are those of every service.
  service =
    name:
    pkgs.runCommand name { } ''
      mkdir -p $out/bin
      echo '#!${pkgs.python3}/bin/python3' > $out/bin/${name}
      cat ${./services + "/${name}"} >> $out/bin/${name}
      chmod +x $out/bin/${name}
    '';

  image =
    name: contents: config:
    dockerTools.streamLayeredImage {
      inherit name contents config;
      tag = "main";
    };
in
{
  runtime = image "runtime" runtime { };
  api = image "api" (runtime ++ [ (service "api") ]) { Cmd = [ "/bin/api" ]; };
  web = image "web" (runtime ++ [ (service "web") ]) { Cmd = [ "/bin/web" ]; };
}
