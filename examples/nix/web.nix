# An image on that base. It inherits the base's Env, and a user owns its data.
{ dockerTools, images, pkgs }:

dockerTools.streamLayeredImage {
  name = "registry.example/web";
  fromImage = images.base;
  contents = [ pkgs.hello ];
  fakeRootCommands = ''
    mkdir -p srv/data
    chown 1000:1000 srv/data
  '';
  config = {
    Cmd = [ "/bin/hello" ];
    User = "1000:1000";
    WorkingDir = "/srv/data";
  };
}
