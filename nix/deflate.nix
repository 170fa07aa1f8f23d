# The Python module `deflate`, which nixpkgs does not have: libdeflate, for `--compress gzip`.
#
# With the libdeflate that its source contains, not that of nixpkgs: another version compresses to
# other bytes, and an image must have the same bytes whoever builds it.
{
  lib,
  buildPythonPackage,
  fetchPypi,
  cmake,
  ninja,
  scikit-build-core,
}:

buildPythonPackage rec {
  pname = "deflate";
  version = "0.9.0";
  pyproject = true;

  src = fetchPypi {
    inherit pname version;
    hash = "sha256-li4Kbx6jqUuQCo6gzhOPqSv8uv2luGNnEEoln/zTRis=";
  };

  build-system = [ scikit-build-core ];

  nativeBuildInputs = [ cmake ninja ];
  dontUseCmakeConfigure = true; # scikit-build-core runs CMake

  pythonImportsCheck = [ "deflate" ];

  meta = {
    description = "Python wrapper for libdeflate";
    homepage = "https://github.com/dcwatson/deflate";
    license = lib.licenses.mit;
  };
}
