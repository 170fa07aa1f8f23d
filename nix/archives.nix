# What is made of images and trees that others have built: exportImage, mergeImages, mergeDrvs, tarsum.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  inherit (tools) command runCommand;

  isStream = image: image.isExe or false;

  # An image as the command line takes it: an archive, or the conf of one that is streamed. Nothing is
  # staged then.
  source = image: "${if isStream image then image.conf else image}";
in

{
  # The file system of an image as one tar, which is the output itself.
  exportImage =
    {
      name ? fromImage.name,
      fromImage,
      # These choose the image, else it is the first. Of one that is streamed, they have to be the name
      # and the tag.
      fromImageName ? null,
      fromImageTag ? null,
      # Of no use: nothing is mounted.
      diskSize ? 1024,
    }:
    let
      given = value: if value == null then "*" else value;
      chosen =
        if fromImageName == null && fromImageTag == null then
          source fromImage
        else
          "${tools.archive fromImage}:${given fromImageName}:${given fromImageTag}";
    in
    runCommand name { preferLocalBuild = true; } ''
      ${command} export ${tools.inLog} ${lib.escapeShellArg chosen} > "$out"
    '';

  # The images of archives and streams in one archive, compressed like the last of the archives, with
  # `repositories` as all of theirs.
  mergeImages =
    images:
    let
      inputs = lib.toList images;
      archives = builtins.filter (image: !isStream image) inputs;
      last = lib.optionalString (archives != [ ]) "${builtins.elemAt archives (builtins.length archives - 1)}";
    in
    runCommand "merge-docker-images" { inherit last; } (lib.throwIf (inputs == [ ]) "mergeImages: give at least one image" ''
      compression=gzip
      if [ -f "$last" ]; then
        # Without NUL, of which the beginnings that matter have none before.
        LC_ALL=C IFS= read -r -d "" -n 4 magic < "$last" || true
        case $magic in
          $'\x1f\x8b'*) ;;
          $'\x28\xb5\x2f\xfd') compression=zstd ;;
          *) compression=none ;;
        esac
      fi
      ${command} merge ${tools.inLog} ${lib.escapeShellArgs (map source inputs)} \
        --format docker-archive-legacy --compress "$compression" > "$out"
    '');

  # Directories and tars merged into one tree; with onlyDeps, a file that lists them.
  mergeDrvs =
    {
      derivations,
      onlyDeps ? false,
    }:
    runCommand "merge-drvs" { preferLocalBuild = true; } (
      if onlyDeps then
        ''echo ${lib.escapeShellArg (toString (tools.storePaths derivations))} > "$out"''
      else
        ''${command} merge-trees ${lib.escapeShellArgs (tools.storePaths derivations)} -o "$out"''
    );

  # bin/tarsum: Docker's TarSum of a tar on standard input.
  tarsum =
    runCommand "tarsum"
      {
        preferLocalBuild = true;
        meta.mainProgram = "tarsum";
        script = ''
          #!${pkgs.runtimeShell}
          exec ${command} tarsum
        '';
      }
      ''
        mkdir -p "$out/bin"
        printf %s "$script" > "$out/bin/tarsum"
        chmod +x "$out/bin/tarsum"
      '';
}
