# What the families of functions share. Not public.
{
  pkgs,
  lib,
  stream-image,
  ...
}:

let
  # Builds run on the build platform, with its programs.
  inherit (pkgs.buildPackages) runCommand stdenvNoCC writeText;

  # What a builder of stdenv has, for the shell: the variables of a derivation without attributes, and the
  # functions. One file for all images. Nix itself sets NIX_STORE, which patchShebangs compares with.
  environment =
    let
      attributes = builtins.removeAttrs (runCommand "commands" { } "").drvAttrs [
        "args"
        "buildCommand"
        "passAsFile"
      ];
      export =
        name: value:
        lib.optionalString (
          !lib.hasPrefix "__" name && !builtins.isAttrs value || lib.isDerivation value
        ) "export ${name}=${lib.escapeShellArg (toString value)}\n";
    in
    writeText "commands-environment" ''
      ${lib.concatStrings (lib.mapAttrsToList export attributes)}
      export NIX_STORE=${builtins.storeDir} NIX_BUILD_TOP=$TMPDIR
      . ${stdenvNoCC}/setup
    '';
in

rec {
  inherit runCommand writeText;

  # The command line.
  command = "${stream-image}/bin/stream-image";

  # For its commands in a build, whose standard error is a terminal to Nix: lines, as a log needs them,
  # instead of a bar.
  inLog = "--progress plain";

  # The hash part of where a derivation's output will be, known before it is built.
  hashPart =
    derivation:
    builtins.substring 0 32 (baseNameOf (builtins.unsafeDiscardStringContext derivation.outPath));

  # Contents as dockerTools takes them, one or a list, nested or not, as store paths: those of
  # derivations, copies of paths, strings as they are. A null adds nothing.
  storePaths =
    contents: map (content: "${content}") (builtins.filter (each: each != null) (lib.flatten [ contents ]));

  # The store path that a path in the store is in.
  inStore =
    path:
    let
      start = builtins.stringLength builtins.storeDir + 1;
      name = builtins.head (lib.splitString "/" (builtins.substring start (-1) path));
    in
    builtins.substring 0 (start + builtins.stringLength name) path;

  # Whether there is a text. A null is none, as it is in dockerTools, which makes variables of texts.
  isGiven = text: text != null && text != "";

  # Commands of an image with what stdenv gives them: PATH, variables and shell functions. To be put
  # into the derivation whose output is `$out`.
  withSetup =
    commands:
    # On one line with the first of them, so that messages have the numbers of their lines.
    lib.optionalString (isGiven commands) "export out=${builtins.placeholder "out"}; . ${environment}; ${commands}";

  # 1980-01-01, SOURCE_DATE_EPOCH of stdenv: the time of everything in the customisation layer.
  stdenvEpoch = "@315532800";

  # Members of a specification; in Nix, null is an argument that was not given.
  given = lib.filterAttrs (_name: value: value != null);

  # In a builder with structured attributes: puts them where the specification's references graph is.
  findAttributes = ''[ -e .attrs.json ] || cp "$NIX_ATTRS_JSON_FILE" .attrs.json'';

  # In a builder: a verb's command with the specification, in a file called after the image: messages
  # say that a mistake is there. The name of a derivation needs no quotes.
  onSpec =
    verb: name:
    let
      file = if name == "" then "image" else name;
    in
    ''
      printf %s "$spec" > ${file}
      ${command} ${verb} ${file}'';

  # In a builder: sets an empty `imageTag` to the hash part of the output.
  findTag = ''
    if [ -z "''${imageTag-}" ]; then
      imageTag=''${out##*/}
      imageTag=''${imageTag%%-*}
    fi'';

  # The executable that streams the image of a conf.
  executable =
    {
      baseName,
      imageName,
      imageTag,
      conf,
      passthru,
    }:
    let
      meta.mainProgram = "stream-${baseName}";

      stream =
        runCommand "stream-${baseName}"
          {
            inherit imageName;
            preferLocalBuild = true;
            passthru = passthru // {
              inherit conf imageTag;
              streamScript = command;
              isExe = true;
              # The executable where `lib.getExe` looks for it.
              bin = runCommand "stream-${baseName}-bin" { inherit meta; } ''
                mkdir -p "$out/bin"
                ln -s ${stream} "$out/bin/stream-${baseName}"
              '';
            };
            inherit meta;
            # Commands that are given the executable find its conf by what follows the call, which is
            # not run: see stream/schema/reading.py.
            script = ''
              #!${pkgs.pkgsBuildBuild.runtimeShell}
              exec ${command} ${conf} "$@"
              exit 126 # the path of the conf follows
              "${conf}"
            '';
          }
          ''
            printf %s "$script" > "$out"
            chmod +x "$out"
          '';
    in
    stream;

  # An argument `fromImage` as a specification has it.
  baseImage = image: if image == null then null else "${archive image}";

  # A base image as a file: one that is streamed has to be written.
  archive =
    image:
    if image.isExe or false then
      runCommand "${baseNameOf image.imageName}.tar" { preferLocalBuild = true; } ''${image} ${inLog} > "$out"''
    else
      image;

  compressors = {
    none = {
      extension = "";
      compression = "none";
    };
    gz = {
      extension = ".gz";
      compression = "gzip";
    };
    zstd = {
      extension = ".zst";
      compression = "zstd";
    };
  };

  # The entry of `compressors` for an image's argument.
  chosenCompressor =
    imageName: compressor:
    compressors.${compressor}
      or (throw "in docker image ${imageName}: compressor must be one of: [${toString (builtins.attrNames compressors)}]");
}
