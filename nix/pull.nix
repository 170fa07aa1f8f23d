# pullImage: an image from a registry, as a docker-archive whose hash is known beforehand.
#
# skopeo fetches it and `stream-image pull` writes the archive, so that its hash holds for every version
# of skopeo. `stream-image prefetch` prints the arguments, and puts the archive into the store under the
# name that it has here: then nothing is fetched.
{
  pkgs,
  lib,
  tools,
  ...
}:

let
  # The variables that a fixed output may take from whoever builds: proxies, as curl and Go read them,
  # and where credentials are.
  proxies = [
    "http_proxy"
    "https_proxy"
    "ftp_proxy"
    "all_proxy"
    "no_proxy"
  ];
  impureEnvVars =
    proxies
    ++ [
      "HTTP_PROXY"
      "HTTPS_PROXY"
      "ALL_PROXY"
      "NO_PROXY"
      "REGISTRY_AUTH_FILE"
    ];

  # As in stream/tools/prefetch.py.
  archiveName =
    name: tag: "docker-image-${builtins.replaceStrings [ "/" ":" ] [ "-" "-" ] "${name}-${tag}"}.tar";

  isPrivate = file: builtins.isString file && !builtins.hasContext file;
in

{
  pullImage =
    {
      imageName,
      # Of the image's manifest, or of an index: then os, arch and variant choose.
      imageDigest,
      # Of the archive, exactly one of them. The second is a SHA-256 in any notation.
      hash ? null,
      sha256 ? null,
      os ? "linux",
      arch ? pkgs.stdenv.hostPlatform.go.GOARCH,
      variant ? null,
      # In the archive.
      finalImageName ? imageName,
      finalImageTag ? "latest",
      # With false, plain HTTP and any certificate will do.
      tlsVerify ? true,
      # The credentials: a file that builds can read, for which it has to be in `extra-sandbox-paths`.
      authFile ? null,
      name ? archiveName finalImageName finalImageTag,
    }:
    assert lib.assertMsg ((hash == null) != (sha256 == null))
      "pullImage ${imageName}: give one of hash and sha256; stream-image prefetch prints it";
    assert lib.assertMsg (authFile == null || isPrivate authFile)
      "pullImage ${imageName}: authFile must be a string without a store path; everybody could read the credentials in the store";
    let
      outputHash = if hash != null then hash else sha256;
      hasAlgorithm = builtins.match "(md5|sha1|sha256|sha512|blake3)[-:].*" outputHash != null;
      options = {
        "--os" = os;
        "--arch" = arch;
        "--variant" = variant;
        "--tls-verify" = if tlsVerify then null else "false";
        "--authfile" = authFile;
        "--repo-tag" = "${finalImageName}:${finalImageTag}";
      };
      given = lib.filterAttrs (_option: value: value != null) options;
      words = builtins.concatLists (lib.mapAttrsToList (option: value: [ option value ]) given);
    in
    tools.runCommand name
      (
        {
          inherit imageDigest impureEnvVars outputHash;
          imageName = finalImageName;
          imageTag = finalImageTag;
          outputHashMode = "flat";
          nativeBuildInputs = [ pkgs.buildPackages.skopeo ];
          SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
          preferLocalBuild = true;
        }
        // lib.optionalAttrs (!hasAlgorithm) { outputHashAlgo = "sha256"; }
      )
      ''
        ${tools.command} pull ${tools.inLog} ${lib.escapeShellArgs ([ "${imageName}@${imageDigest}" ] ++ words)} > "$out"
      '';
}
