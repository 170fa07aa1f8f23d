# streamImageIndex: an image for several platforms, of one that is streamed for each.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  inherit (tools) hashPart isGiven runCommand;

  # The confs of images as one document: each has all of its keys.
  joined =
    baseName: images:
    runCommand "${baseName}-conf.json" { preferLocalBuild = true; } ''
      separator='{"platforms": ['
      for conf in ${lib.escapeShellArgs (map (image: image.conf) images)}; do
        printf %s "$separator"
        cat "$conf"
        separator=,
      done > "$out"
      printf ']}\n' >> "$out"
    '';
in

{
  streamImageIndex = lib.makeOverridable (
    {
      name,
      tag ? null,
      # Of streamLayeredImage or buildLayeredImage: a list, or a set such as one by system.
      images,
      passthru ? { },
    }:
    let
      baseName = baseNameOf name;
      given = if builtins.isList images then images else builtins.attrValues images;
      streams = map (image: image.stream or image) given;
      # All have the name and the tag of the whole. A derived tag follows from what they are without it.
      named = arguments: map (image: image.override ({ inherit name; } // arguments)) streams;
      imageTag = if isGiven tag then tag else hashPart (joined baseName (named { tag = null; }));
    in
    assert lib.assertMsg (given != [ ]) "streamImageIndex: give at least one image";
    tools.executable {
      inherit baseName imageTag passthru;
      imageName = lib.toLower name;
      conf = joined baseName (named { tag = imageTag; });
    }
  );
}
