# streamNixShellImage and buildNixShellImage: an image whose container is the build environment of a
# derivation, as in its sandbox. `buildDerivation` in it runs the builder.
{
  pkgs,
  lib,
  tools,
  functions,
  ...
}:

let
  inherit (tools) runCommand;

  # Where Nix builds in its sandbox.
  buildDirectory = "/build";

  # An attribute as `derivation` turns it into a string. What `toString` does otherwise: a path goes to
  # the store.
  coerced =
    value:
    if builtins.isPath value then
      "${value}"
    else if builtins.isList value then
      map coerced value
    else if value ? __toString then
      coerced (value.__toString value)
    else if value ? outPath then
      coerced value.outPath
    else
      value;
  asVariable = value: toString (coerced value);

  # Attributes of which Nix makes no variable.
  isHidden =
    attributes: name:
    name == "args"
    || name == "__ignoreNulls"
    || attributes.__ignoreNulls or false && attributes.${name} == null
    || builtins.elem name [ "__contentAddressed" "__impure" ] && attributes.${name};

  # The paths of a derivation's outputs, which nobody builds: that is what the container is for.
  outputsOf =
    drv:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = builtins.unsafeDiscardStringContext drv.${name}.outPath;
      }) drv.drvAttrs.outputs or [ "out" ]
    );

  # The variables that a builder gets from the attributes.
  variablesOf =
    drv:
    let
      attributes = drv.drvAttrs;
      inFiles = lib.splitString " " (asVariable (attributes.passAsFile or [ ]));
      names = builtins.filter (name: !isHidden attributes name) (builtins.attrNames attributes);
      variable =
        name:
        let
          text = asVariable attributes.${name};
        in
        if builtins.elem name inFiles then
          {
            name = "${name}Path";
            value = tools.writeText "shell-passAsFile-${name}" text;
          }
        else
          {
            inherit name;
            value = text;
          };
    in
    builtins.listToAttrs (map variable names) // outputsOf drv;

  # Attributes that decide about outputs, which a derivation that keeps a file has otherwise.
  ofOutputs = [
    "allowedReferences"
    "allowedRequisites"
    "args"
    "builder"
    "disallowedReferences"
    "disallowedRequisites"
    "outputChecks"
    "outputHash"
    "outputHashAlgo"
    "outputHashMode"
    "outputs"
  ];

  # Copies $1, a file that Nix has made for the builder, to $2. In it $3 is replaced by $4, $5 by $6, and
  # so on. With bash alone: the attributes may come without any other program.
  copyFile =
    runCommand "copy-file"
      {
        preferLocalBuild = true;
        script = ''
          #!${pkgs.buildPackages.runtimeShell}
          set -e
          file=$NIX_BUILD_TOP/$1 out=$2
          # In some versions of Nix, the variables name files outside of the sandbox.
          if [ ! -e "$file" ]; then
            case $1 in
              *.json) file=$NIX_ATTRS_JSON_FILE ;;
              *.sh) file=$NIX_ATTRS_SH_FILE ;;
            esac
          fi
          IFS= read -r -d "" text < "$file" || true
          shift 2
          while [ "$#" -gt 0 ]; do
            text=''${text//"$1"/"$2"}
            shift 2
          done
          printf %s "$text" > "$out"
        '';
      }
      ''
        printf %s "$script" > "$out"
        chmod +x "$out"
      '';

  # The files that Nix puts beside a builder, by name. Nix makes them here as well, for a derivation with
  # the same attributes whose builder keeps one.
  filesOf =
    drv:
    let
      attributes = drv.drvAttrs;
      out = builtins.placeholder "out";
      kept =
        file: attributes: words:
        derivation (
          attributes
          // {
            builder = "${copyFile}";
            args = [
              file
              out
            ]
            ++ words;
          }
        );

      outputs = outputsOf drv;
      quoted = builtins.toJSON;
      inShell = lib.concatStringsSep " " (
        lib.mapAttrsToList (name: path: "['${name}']='${path}'") outputs
      );
      inJson = lib.concatStringsSep "," (
        lib.mapAttrsToList (name: path: "${quoted name}:${quoted path}") outputs
      );
      # With the outputs and the builder of the derivation itself.
      structured =
        file: own: real:
        kept file (builtins.removeAttrs attributes ofOutputs) [ own real copyFile attributes.builder ];

      # The words of exportReferencesGraph: a file's name and a store path, in turn.
      words = lib.splitString " " (asVariable attributes.exportReferencesGraph);
      graphs = builtins.genList (number: builtins.elemAt words (2 * number)) (builtins.length words / 2);
      graph = file: {
        name = file;
        value = kept file {
          name = "references-graph";
          inherit (attributes) system exportReferencesGraph;
        } [ ];
      };
    in
    if isStructured drv then
      {
        ".attrs.sh" = structured ".attrs.sh" "['out']='${out}'" inShell;
        ".attrs.json" = structured ".attrs.json" "\"out\":\"${out}\"" inJson;
      }
    else
      lib.optionalAttrs (attributes ? exportReferencesGraph) (builtins.listToAttrs (map graph graphs));

  isStructured = drv: drv.drvAttrs.__structuredAttrs or false;

  streamNixShellImage =
    {
      # The derivation whose environment it is.
      drv,
      name ? "${drv.name}-env",
      tag ? null,
      # Whom the container runs as.
      uid ? 1000,
      gid ? 1000,
      homeDirectory ? buildDirectory,
      shell ? "${pkgs.bashInteractive}/bin/bash",
      # Run in the shell after its set-up: as at a prompt, or without a terminal.
      command ? null,
      run ? null,
    }:
    assert lib.assertMsg (
      command == null || run == null
    ) "streamNixShellImage: Can't specify both command and run";
    let
      user = toString uid;
      group = toString gid;

      buildDerivation =
        runCommand "buildDerivation"
          {
            preferLocalBuild = true;
            script = ''
              #!/bin/sh
              exec ${
                lib.escapeShellArgs (map asVariable ([ drv.drvAttrs.builder ] ++ drv.drvAttrs.args or [ ]))
              }
            '';
          }
          ''
            mkdir -p "$out/bin"
            printf %s "$script" > "$out/bin/buildDerivation"
            chmod +x "$out/bin/buildDerivation"
          '';

      staticPath = "${dirOf shell}:${buildDerivation}/bin";

      asked = if run != null then run else command;

      rcFile = tools.writeText "nix-shell-rc" (
        ''
          unset PATH
          dontAddDisableDepTrack=1
          ${lib.optionalString (isStructured drv) ''. "$NIX_ATTRS_SH_FILE"''}
          if [ -e "$stdenv/setup" ]; then source "$stdenv/setup"; fi
          PATH=${staticPath}''${PATH:+:$PATH}
          SHELL=${lib.escapeShellArg shell}
          BASH=${lib.escapeShellArg shell}
          set +e
          if [ -n "$PS1" ] && [ -z "$NIX_SHELL_PRESERVE_PROMPT" ]; then
            PS1='\n\[\033[1;32m\][nix-shell:\w]$\[\033[0m\] '
          fi
          if [ "$(type -t runHook)" = function ]; then runHook shellHook; fi
          unset NIX_ENFORCE_PURITY
          shopt -u nullglob
          shopt -s execfail
        ''
        + lib.optionalString (asked != null) ''
          ${asked}
          exit
        ''
      );

      # Later ones win.
      variables = {
        SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
        NIX_SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
        PATH = staticPath;
        HOME = homeDirectory;
        NIX_STORE = builtins.storeDir;
        NIX_BUILD_CORES = "1";
      }
      // (
        if isStructured drv then
          {
            NIX_ATTRS_SH_FILE = "${buildDirectory}/.attrs.sh";
            NIX_ATTRS_JSON_FILE = "${buildDirectory}/.attrs.json";
          }
        else
          variablesOf drv
      )
      // lib.genAttrs [ "NIX_BUILD_TOP" "TMPDIR" "TEMPDIR" "TMP" "TEMP" "PWD" ] (_name: buildDirectory)
      // {
        TERM = "xterm-256color";
      };
    in
    functions.streamLayeredImage {
      inherit name tag;
      contents = [
        functions.binSh
        functions.usrBinEnv
        (functions.fakeNss.override {
          extraPasswdLines = [ "nixbld:x:${user}:${group}:Build user:${homeDirectory}:/noshell" ];
          extraGroupLines = [ "nixbld:!:${group}:" ];
        })
      ];
      # Nix can be used in the container without a daemon.
      fakeRootCommands = ''
        mkdir -p ./nix/store ./nix/var/nix ./etc/nix .${buildDirectory}
      ''
      + lib.concatStrings (
        lib.mapAttrsToList (file: kept: ''
          cp ${kept} ${lib.escapeShellArg ".${buildDirectory}/${file}"}
          chmod 0644 ${lib.escapeShellArg ".${buildDirectory}/${file}"}
        '') (filesOf drv)
      )
      + ''
        chown -R ${user}:${group} ./nix ./etc/nix .${buildDirectory}
      '';
      config = {
        Cmd = if run == null then [ shell "--rcfile" "${rcFile}" ] else [ shell "${rcFile}" ];
        User = "${user}:${group}";
        WorkingDir = buildDirectory;
        Env = lib.mapAttrsToList (variable: value: "${variable}=${value}") variables;
      };
    };
in

{
  inherit streamNixShellImage;

  buildNixShellImage =
    {
      drv,
      compressor ? "gz",
      ...
    }@arguments:
    let
      stream = streamNixShellImage (builtins.removeAttrs arguments [ "compressor" ]);
      chosen = tools.chosenCompressor "${drv.name}-env" compressor;
    in
    runCommand "${drv.name}-env.tar${chosen.extension}" {
      inherit (stream) imageName;
      preferLocalBuild = true;
      passthru = {
        inherit (stream) imageTag;
        inherit stream;
      };
    } ''${stream} ${tools.inLog} --compress ${chosen.compression} > "$out"'';
}
