# buildImage and buildImageWithNixDb: an image with one new layer. mkPureLayer, mkRootLayer and
# runWithOverlay: such a layer alone.
#
# The layer's own files are made first, by `customise`: copies of contents, and what commands make. Nix
# finds what they refer to, and the image is planned and written in one build: the closure follows the
# layer's own files in the same layer, without the store paths that the base image has.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  inherit (tools) command runCommand writeText;

  # The derivation `name` of a layer's own files: a directory with layer.tar and its checksum. The other
  # arguments are those of a specification, as buildImage and runWithOverlay have them.
  makeLayer =
    name:
    {
      contents ? null,
      fromImage ? null,
      includeNixDB ? false,
      ...
    }@arguments:
    let
      contentPaths = tools.storePaths contents;
      # Commands that are not in the image, and have the programs of a build.
      outside = lib.filterAttrs (
        key: _: builtins.elem key [ "extraCommands" "preMount" "postMount" "postUmount" ]
      ) arguments;
      database = lib.optionalAttrs includeNixDB {
        inherit includeNixDB;
        references_graph = ".attrs.json";
        roots = contentPaths;
      };
    in
    runCommand name {
      __structuredAttrs = true;
      exportReferencesGraph.graph = lib.optionals includeNixDB (map tools.inStore contentPaths);
      spec = builtins.toJSON (
        tools.given (
          builtins.removeAttrs arguments [ "contents" ]
          // builtins.mapAttrs (_: tools.withSetup) outside
          // database
          // {
            name = "layer"; # of no image, and not in the layer
            store_dir = builtins.storeDir;
            fromImage = tools.baseImage fromImage;
            layering = "single";
            copyToRoot = contentPaths;
            conflicts = "last";
            customisation_mtime = tools.stdenvEpoch;
          }
        )
      );
    } ''
      ${tools.findAttributes}
      ${tools.onSpec "customise" name} -o "$out"
    '';

  buildImage = lib.makeOverridable (
    {
      name,
      tag ? null,
      fromImage ? null,
      fromImageName ? null,
      fromImageTag ? null,
      copyToRoot ? null,
      keepContentsDirlinks ? false,
      config ? null,
      architecture ? pkgs.stdenv.hostPlatform.go.GOARCH,
      extraCommands ? "",
      uid ? 0,
      gid ? 0,
      runAsRoot ? null,
      # These two were for a virtual machine, and have no effect.
      diskSize ? 1024,
      buildVMMemorySize ? 512,
      created ? "1970-01-01T00:00:01Z",
      compressor ? "gz",
      includeNixDB ? false,
      # Deprecated.
      contents ? null,
    }@buildArgs:
    let
      imageName = lib.toLower name;
      imageTag = if tools.isGiven tag then tag else tools.hashPart image;
      chosen = tools.chosenCompressor name compressor;
      inDockerImage = message: "in docker image ${name}: ${message}";

      configJson = writeText "${baseNameOf name}-config.json" (
        builtins.toJSON {
          inherit architecture config created;
          os = "linux";
        }
      );

      layer = makeLayer "docker-layer-${baseNameOf name}" {
        inherit
          architecture
          extraCommands
          fromImage
          fromImageName
          fromImageTag
          includeNixDB
          keepContentsDirlinks
          runAsRoot
          ;
        contents = if copyToRoot != null then copyToRoot else contents;
        # Commands that run as root give files their owners.
        owner = if runAsRoot == null then { inherit uid gid; } else null;
      };

      image =
        runCommand "docker-image-${baseNameOf name}.tar${chosen.extension}"
          {
            __structuredAttrs = true;
            inherit imageName;
            exportReferencesGraph.graph = [
              "${configJson}"
              "${layer}"
            ];
            spec = builtins.toJSON (
              tools.given {
                inherit
                  architecture
                  config
                  created
                  fromImageName
                  fromImageTag
                  ;
                name = imageName;
                store_dir = builtins.storeDir;
                fromImage = tools.baseImage fromImage;
                layering = "single";
                customisation_layer = layer;
                customisation_mtime = tools.stdenvEpoch;
                mtime = tools.stdenvEpoch;
                references_graph = ".attrs.json";
                roots = [
                  configJson
                  layer
                ];
                unshipped = [
                  configJson
                  layer
                ];
              }
            );
            imageTag = tag;
            passthru = {
              inherit buildArgs imageTag layer;
            };
          }
          ''
            ${tools.findAttributes}
            ${tools.findTag}
            ${tools.onSpec "plan" (baseNameOf name)} --repo-tag "$imageName:$imageTag" -o conf.json
            ${command} conf.json ${tools.inLog} --format docker-archive-legacy --compress ${chosen.compression} > "$out"
          '';
    in
    lib.warnIf (contents != null) (inDockerImage "The contents parameter is deprecated. Use copyToRoot for contents that are copied into the root file system, for example the buildEnv of your packages.")
      (
        lib.throwIf (contents != null && copyToRoot != null)
          (inDockerImage "You can not specify both contents and copyToRoot.")
          image
      )
  );
in

{
  inherit buildImage;

  buildImageWithNixDb = arguments: buildImage (arguments // { includeNixDB = true; });

  # The layer of an image without runAsRoot. `baseJson`, the image's config, is not in it.
  mkPureLayer =
    {
      name,
      baseJson ? null,
      contents ? null,
      keepContentsDirlinks ? false,
      extraCommands ? "",
      uid ? 0,
      gid ? 0,
    }:
    makeLayer "docker-layer-${name}" {
      inherit contents extraCommands keepContentsDirlinks;
      owner = { inherit uid gid; };
    };

  # The layer of an image with runAsRoot.
  mkRootLayer =
    {
      name,
      runAsRoot,
      baseJson ? null,
      fromImage ? null,
      fromImageName ? null,
      fromImageTag ? null,
      diskSize ? 1024,
      buildVMMemorySize ? 512,
      contents ? null,
      keepContentsDirlinks ? false,
      extraCommands ? "",
    }:
    makeLayer "docker-layer-${name}" {
      inherit
        contents
        extraCommands
        fromImage
        fromImageName
        fromImageTag
        keepContentsDirlinks
        runAsRoot
        ;
    };

  # The layer of what commands change in an image. In the directory where the commands start, they find
  # the layer as `layer` before and after, and in between the image with the layer over it as `mnt`.
  runWithOverlay =
    {
      name,
      fromImage ? null,
      fromImageName ? null,
      fromImageTag ? null,
      diskSize ? 1024,
      buildVMMemorySize ? 512,
      preMount ? "",
      postMount ? "",
      postUmount ? "",
    }:
    makeLayer name {
      inherit
        fromImage
        fromImageName
        fromImageTag
        postMount
        postUmount
        preMount
        ;
    };
}
