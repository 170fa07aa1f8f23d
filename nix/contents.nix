# Small contents: packages for `contents` or `copyToRoot`, and texts for commands.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  inherit (tools) runCommand;

  # A package of links: their paths in the image, with their targets.
  links =
    name: targets:
    runCommand name { preferLocalBuild = true; } (
      lib.concatStrings (
        lib.mapAttrsToList (place: target: ''
          mkdir -p "$out/${dirOf place}"
          ln -s ${target} "$out/${place}"
        '') targets
      )
    );

  bundle = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";

  lines = texts: lib.concatMapStrings (line: "${line}\n") texts;
in

{
  # /usr/bin/env, which scripts name.
  usrBinEnv = links "usr-bin-env" { "usr/bin/env" = "${pkgs.coreutils}/bin/env"; };

  # /bin/sh.
  binSh = links "bin-sh" { "bin/sh" = "${pkgs.bashInteractive}/bin/bash"; };

  # The bundle of certificates at the three places where programs look for it.
  caCertificates = links "ca-certificates" {
    "etc/ssl/certs/ca-bundle.crt" = bundle;
    "etc/ssl/certs/ca-certificates.crt" = bundle; # Debian, Arch, Gentoo
    "etc/pki/tls/certs/ca-bundle.crt" = bundle; # Fedora
  };

  # Users and groups root and nobody, for programs that look them up.
  fakeNss = lib.makeOverridable (
    {
      extraPasswdLines ? [ ],
      extraGroupLines ? [ ],
    }:
    runCommand "fake-nss"
      {
        preferLocalBuild = true;
        passwd = lines (
          [ "root:x:0:0:root user:/var/empty:/bin/sh" ]
          ++ extraPasswdLines
          ++ [ "nobody:x:65534:65534:nobody:/var/empty:/bin/sh" ]
        );
        group = lines ([ "root:x:0:" ] ++ extraGroupLines ++ [ "nobody:x:65534:" ]);
      }
      ''
        mkdir -p "$out/etc" "$out/var/empty"
        printf %s "$passwd" > "$out/etc/passwd"
        printf %s "$group" > "$out/etc/group"
        echo "hosts: files dns" > "$out/etc/nsswitch.conf"
      ''
  ) { };

  # Commands for runAsRoot that set up users and passwords, each file only if it is missing. After them,
  # `useradd` and `groupadd` work.
  shadowSetup = ''
    export PATH=${pkgs.shadow}/bin:$PATH
    mkdir -p /etc/pam.d
    if [ ! -f /etc/passwd ]; then
      echo "root:x:0:0::/root:${pkgs.runtimeShell}" > /etc/passwd
      echo "root:!x:::::::" > /etc/shadow
    fi
    if [ ! -f /etc/group ]; then
      echo "root:x:0:" > /etc/group
      echo "root:x::" > /etc/gshadow
    fi
    if [ ! -f /etc/pam.d/other ]; then
      {
        echo "account sufficient pam_unix.so"
        echo "auth sufficient pam_rootok.so"
        echo "password requisite pam_unix.so nullok yescrypt"
        echo "session required pam_unix.so"
      } > /etc/pam.d/other
    fi
    if [ ! -f /etc/login.defs ]; then
      : > /etc/login.defs
    fi
  '';

  # A script that runs `text` as runAsRoot does: stops at the first error, and finds coreutils and the
  # image's own programs.
  shellScript =
    name: text:
    runCommand name
      {
        preferLocalBuild = true;
        script = ''
          #!${pkgs.runtimeShell}
          set -e
          export PATH=${pkgs.coreutils}/bin:/bin
          ${text}
        '';
        passAsFile = [ "script" ];
      }
      ''
        cp "$scriptPath" "$out"
        chmod +x "$out"
      '';
}
