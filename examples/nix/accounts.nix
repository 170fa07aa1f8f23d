# Commands as root inside the assembled image: no virtual machine, and no /dev/kvm.
{ dockerTools, images, ... }:

dockerTools.buildImage {
  name = "accounts";
  tag = "latest";
  fromImage = images.base;
  copyToRoot = [ dockerTools.fakeNss ]; # as files, not links: they can be written to
  runAsRoot = ''
    #!/bin/sh
    echo 'web:x:1000:1000:Web server:/srv:/bin/sh' >> /etc/passwd
    mkdir -p /srv
    chown 1000:1000 /srv
  '';
  config.User = "web";
}
