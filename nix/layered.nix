# streamLayeredImage, and what is made of it: buildLayeredImage, buildLayeredImageWithNixDb.
#
# An image's specification is text. With commands, the customisation layer is built first, by
# `customise`; links alone stay in the conf, as a recipe. `plan` makes the conf in a build: Nix has found
# what the image refers to, and says so in the references graph.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  inherit (tools)
    command
    given
    runCommand
    stdenvEpoch
    writeText
    ;

  streamLayeredImage = lib.makeOverridable (
    {
      name,
      tag ? null,
      fromImage ? null,
      contents ? [ ],
      config ? { },
      architecture ? pkgs.stdenv.hostPlatform.go.GOARCH,
      created ? "1970-01-01T00:00:01Z",
      mtime ? "1970-01-01T00:00:01Z",
      uid ? 0,
      gid ? 0,
      uname ? "root",
      gname ? "root",
      maxLayers ? 100,
      extraCommands ? "",
      fakeRootCommands ? "",
      enableFakechroot ? false,
      includeStorePaths ? true,
      includeNixDB ? false,
      layeringPipeline ? null,
      passthru ? { },
      debug ? false, # of dockerTools' enableFakechroot; has no effect

      # Not in dockerTools. The keys of a specification that docs/plan.md describes, and two more.
      previous ? null, # the conf of the build before, or a JSON file with its store_layers
      layering ? if previous == null then "auto" else "stable",
      fromImageName ? null,
      fromImageTag ? null,
      copyToRoot ? [ ],
      keepContentsDirlinks ? false,
      conflicts ? "first",
      directories ? null,
      users ? null,
      groups ? null,
      owner ? null,
      perms ? null,
      labels ? null,
      annotations ? null,
      base_config ? null,
      base_history ? null,
      skip_base_paths ? null,
      network ? null, # of the commands, in a build that has one
      unsandboxed ? false, # run commands in Nix's sandbox alone, where it allows no other in it
    }:
    assert lib.assertMsg (layeringPipeline != null || maxLayers > 1)
      "the maxLayers argument of dockerTools.buildLayeredImage function must be greater than 1 (current value: ${toString maxLayers})";
    assert lib.assertMsg (enableFakechroot -> !pkgs.stdenv.hostPlatform.isDarwin)
      "cannot use enableFakechroot because it is not portable to Darwin; build the image for Linux, or use paths relative to the current directory in fakeRootCommands";
    let
      baseName = baseNameOf name;
      imageName = lib.toLower name;
      imageTag = if tools.isGiven tag then tag else tools.hashPart conf;
      contentPaths = tools.storePaths contents;

      baseJson = writeText "${baseName}-base.json" (
        builtins.toJSON ({
          inherit architecture config;
          os = "linux";
        }
        # Labels may name store paths as well.
        // lib.optionalAttrs (labels != null) { inherit labels; })
      );

      copies = tools.storePaths copyToRoot;

      recipe = {
        inherit
          conflicts
          directories
          groups
          owner
          perms
          users
          ;
        contents = contentPaths;
        copyToRoot = copies;
        keepContentsDirlinks = if keepContentsDirlinks then true else null;
        customisation_mtime = stdenvEpoch;
      };

      # Commands run in a build, once. Copies and a database, which is of the contents' closure, are made
      # there as well, so that streaming needs neither.
      isMade =
        tools.isGiven extraCommands || tools.isGiven fakeRootCommands || includeNixDB || copies != [ ];

      layer =
        runCommand "${baseName}-customisation-layer"
          {
            __structuredAttrs = true;
            exportReferencesGraph.graph = lib.optionals includeNixDB (map tools.inStore contentPaths);
            spec = builtins.toJSON (
              given (
                recipe
                // {
                  inherit
                    enableFakechroot
                    fromImageName
                    fromImageTag
                    includeNixDB
                    network
                    ;
                  name = imageName;
                  store_dir = builtins.storeDir;
                  fromImage = baseImage;
                  extraCommands = tools.withSetup extraCommands;
                  fakeRootCommands = tools.withSetup fakeRootCommands;
                }
                // lib.optionalAttrs includeNixDB {
                  references_graph = ".attrs.json";
                  roots = contentPaths;
                }
              )
            );
          }
          ''
            ${tools.findAttributes}
            ${tools.onSpec "customise" baseName} ${
              lib.optionalString unsandboxed "--unsandboxed"
            } -o "$out"
          '';

      baseImage = tools.baseImage fromImage;

      spec = {
        inherit
          annotations
          architecture
          base_config
          base_history
          config
          created
          fromImageName
          fromImageTag
          gid
          gname
          includeStorePaths
          labels
          layering
          layeringPipeline
          maxLayers
          mtime
          skip_base_paths
          uid
          uname
          ;
        name = imageName;
        fromImage = baseImage;
        store_dir = builtins.storeDir;
        references_graph = ".attrs.json";
        roots = [ baseJson ] ++ lib.optional isMade layer;
        # In dockerTools, both are derivations and take part in the layering.
        unshipped = [ baseJson "customisation_layer" ];
      }
      // (if isMade then { customisation_layer = layer; } else recipe);

      conf =
        runCommand "${baseName}-conf.json"
          {
            __structuredAttrs = true;
            inherit imageName;
            exportReferencesGraph.graph = lib.optionals includeStorePaths (
              [ "${baseJson}" ] ++ (if isMade then [ "${layer}" ] else map tools.inStore contentPaths)
            );
            spec = builtins.toJSON (given spec);
            imageTag = tag;
            preferLocalBuild = true;
          }
          ''
            ${tools.findAttributes}
            ${tools.findTag}
            ${tools.onSpec "plan" baseName} --repo-tag "$imageName:$imageTag" ${
              lib.optionalString (previous != null) "--previous ${previous}"
            } > "$out"
          '';
    in
    tools.executable {
      inherit
        baseName
        conf
        imageName
        imageTag
        ;
      passthru = passthru // {
        # The digests of the layers, for whoever has this from a binary cache: it refers to nothing.
        layerDigests =
          runCommand "${baseName}-layer-digests.json" { }
            ''${command} digests ${tools.inLog} ${conf} > "$out"'';
      };
    }
  );

  buildLayeredImage = lib.makeOverridable (
    {
      name,
      compressor ? "gz",
      ...
    }@arguments:
    let
      stream = streamLayeredImage (builtins.removeAttrs arguments [ "compressor" ]);
      chosen = tools.chosenCompressor name compressor;
    in
    runCommand "${baseNameOf name}.tar${chosen.extension}" {
      inherit (stream) imageName;
      preferLocalBuild = true;
      passthru = builtins.removeAttrs stream.passthru [ "bin" "isExe" ] // { inherit stream; };
    } ''${stream} ${tools.inLog} --compress ${chosen.compression} > "$out"''
  );
in

{
  inherit streamLayeredImage buildLayeredImage;

  buildLayeredImageWithNixDb = arguments: buildLayeredImage (arguments // { includeNixDB = true; });
}
