"""`streamNixShellImage` and `buildNixShellImage`: the build environment of a derivation."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from consumers.daemonless import Podman

from .harness import REPOSITORY, Functions, Image, NixError

pytestmark = [pytest.mark.consumers]

# Programs of this machine as packages, and derivations that build with nothing else. bash is linked
# dynamically, so `libraries` have to be where it looks for them, in the sandbox and in the container.
SCOPE = """
let
  bash = pkgs.runCommand "bash" { } "mkdir -p $out/bin; cp /bin/bash $out/bin";
  busybox = pkgs.runCommand "busybox" { } ''
    mkdir -p $out/bin
    cp /bin/busybox $out/bin
    for each in base64 cat chmod env id ls mkdir sleep sort touch; do ln -s busybox $out/bin/$each; done
  '';
  libraries = pkgs.runCommand "libraries" { } ''
    for each in $(ldd /bin/bash | grep -o '/[^ ]*'); do
      mkdir -p $out''${each%/*}
      cp -L $each $out$each
    done
  '';
  cacert = pkgs.runCommand "cacert" { } ''
    mkdir -p $out/etc/ssl/certs; echo bundle > $out/etc/ssl/certs/ca-bundle.crt
  '';
  ours = import REPOSITORY/nix {
    pkgs = import REPOSITORY/nix/minimal.nix {
      inherit (pkgs) stream-image;
      packages = { inherit cacert; bashInteractive = bash; coreutils = busybox; };
    };
  };
  inherit (ours) buildNixShellImage streamNixShellImage;

  stdenv = pkgs.runCommand "stdenv" {
    setup = ''
      set -e
      PATH=${busybox}/bin:${bash}/bin
      export PATH
      for each in $buildInputs; do PATH=$PATH:$each/bin; done
      runHook() { eval "''${!1-}"; }
    '';
  } ''mkdir $out; printf %s "$setup" > $out/setup'';

  builder = builtins.toFile "builder.sh" ''
    if [ -e .attrs.sh ]; then . ./.attrs.sh; out=''${outputs[out]}; fi
    . $stdenv/setup
    mkdir $out
    env -0 | sort -z > $out/environment
    eval "$buildPhase"
    exit 0
  '';

  tool = pkgs.runCommand "tool" { } ''
    mkdir -p $out/bin; printf "#!/bin/sh\\necho the tool\\n" > $out/bin/tool; chmod +x $out/bin/tool
  '';

  attributes = {
    name = "thing-1.0";
    inherit (pkgs.stdenv) system;
    inherit stdenv;
    builder = "${bash}/bin/bash";
    args = [ "-e" builder ];
    buildInputs = [ tool ];
    buildPhase = "cat $textPath graph > $out/result; echo $greeting >> $out/result";
    exportReferencesGraph = [ "graph" tool "other" [ bash ] ];
    greeting = "it's \\"quoted\\"\\nand long";
    shellHook = "hooked=yes";
    text = "kept in a file\\n";
    passAsFile = [ "text" "other" ];
    other = "another";
    numbers = [ 1 2.5 (-3) ];
    nested = [ "a" [ ] [ "b" [ "c" ] ] true false null "d" ];
    yes = true;
    no = false;
    none = null;
    float = 0.1;
    path = ./DATA;
    paths = [ ./DATA ];
    like = { outPath = "/like/a/path"; };
    spelt = { __toString = self: "spelt"; };
    derivation = tool;
  };
  thing = derivation attributes;
  structured = derivation (removeAttrs attributes [ "exportReferencesGraph" "passAsFile" "none" ] // {
    __structuredAttrs = true;
    outputs = [ "out" "dev" ];
    table = { a = 1; b = [ true null ]; };
    exportReferencesGraph.graph = [ tool ];
    buildPhase = ''
      echo "$greeting" > $out/result
      echo "''${table[a]} ''${numbers[@]} ''${outputs[dev]}" >> $out/result
      cat .attrs.json > $out/json
      cat .attrs.sh > $out/sh
      mkdir ''${outputs[dev]}
    '';
  });
in
""".replace("REPOSITORY", str(REPOSITORY))

# Those of the container's own, which a build has otherwise.
OWN = {
    "HOME",
    "NIX_BUILD_CORES",
    "NIX_LOG_FD",
    "NIX_SSL_CERT_FILE",
    "PATH",
    "SHLVL",
    "SSL_CERT_FILE",
    "TERM",
    "_",
}


@pytest.fixture(scope="session")
def scope(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the definitions that all expressions here use."""
    data = tmp_path_factory.mktemp("shell") / "data"
    data.write_text("data", "utf-8")
    return SCOPE.replace("./DATA", str(data))


def variables(text: bytes) -> dict[str, str]:
    """Return the variables that `env -0` has printed."""
    return dict(each.split("=", 1) for each in text.decode().split("\0") if each)


def stated(functions: Functions, expression: str) -> dict[str, Any]:
    """Return the container config of an image, which is not built."""
    change = "old: { passthru = { inherit (old) config; }; }"
    definitions, _, call = expression.rpartition("\nin\n")
    expression = f"{definitions}\nin\n (({call}).override ({change}))"
    found: dict[str, Any] = functions.evaluate(f"{expression}.config")
    return found


def test_environment(functions: Functions, scope: str) -> None:
    """Without it a build in the container would see other attributes than a real one."""
    for more in ("{ }", "{ __ignoreNulls = true; }", '{ outputs = [ "out" "dev" ]; PWD = "/x"; }'):
        made = f"""(derivation (attributes // {{ buildPhase = "[ -z $dev ] || mkdir $dev"; }} // {more}))"""
        built = variables((functions.build(f"{scope} {made}") / "environment").read_bytes())
        config = stated(functions, f"{scope} (streamNixShellImage {{ drv = {made}; }})")
        assert config["Env"] == sorted(config["Env"])
        found = variables("\0".join(config["Env"]).encode())
        for name in ("textPath", "otherPath"):
            assert found.pop(name).endswith(f"-shell-passAsFile-{name.removesuffix('Path')}")
            del built[name]
        assert {name: found[name] for name in found.keys() - OWN} == {
            name: built[name] for name in built.keys() - OWN
        }
        assert found["PWD"] == "/build"
        assert found["TERM"] == "xterm-256color"
        assert found["NIX_BUILD_CORES"] == "1"


def test_precedence(evaluated: Functions, scope: str) -> None:
    """Without it a derivation could not have its own PATH or HOME, or could break the directories."""
    given = '{ PATH = "/p"; NIX_STORE = "/s"; TMP = "/t"; TERM = "dumb"; HOME = null; }'
    arguments = (
        f'{{ drv = derivation (attributes // {given}); homeDirectory = "/home/me"; uid = 7; }}'
    )
    config = stated(evaluated, f"{scope} (streamNixShellImage {arguments})")
    found = variables("\0".join(config["Env"]).encode())
    names = ("PATH", "NIX_STORE", "TMP", "TERM", "HOME")
    assert [found[name] for name in names] == ["/p", "/s", "/build", "xterm-256color", ""]
    assert (config["User"], config["WorkingDir"]) == ("7:1000", "/build")
    plain = stated(
        evaluated, f'{scope} (streamNixShellImage {{ drv = thing; homeDirectory = "/me"; }})'
    )
    found = variables("\0".join(plain["Env"]).encode())
    assert (found["HOME"], found["NIX_STORE"]) == ("/me", "/nix/store")
    shell, program = found["PATH"].split(":")
    assert shell.endswith("-bash/bin")
    assert program.endswith("-buildDerivation/bin")
    assert found["SSL_CERT_FILE"].endswith("-cacert/etc/ssl/certs/ca-bundle.crt")
    assert found["NIX_SSL_CERT_FILE"] == found["SSL_CERT_FILE"]


def test_arguments(evaluated: Functions, scope: str) -> None:
    """Without it a call that worked with dockerTools would name or start its image otherwise."""
    for given, cmd in (
        ("", ["bash", "--rcfile", "nix-shell-rc"]),
        ('command = "x";', ["bash", "--rcfile", "nix-shell-rc"]),
        ('run = "x";', ["bash", "nix-shell-rc"]),
        ('shell = "/bin/zsh";', ["zsh", "--rcfile", "nix-shell-rc"]),
    ):
        found = stated(evaluated, f"{scope} (streamNixShellImage {{ drv = thing; {given} }})")[
            "Cmd"
        ]
        assert [re.sub(".*/([0-9a-z]{32}-)?", "", word) for word in found] == cmd
    image = "(streamNixShellImage { drv = thing; })"
    attributes = f"{{ inherit ({image}) imageName imageTag isExe; ours = {image}.imageTag; }}"
    found = evaluated.evaluate(f"{scope} {attributes}")
    assert found["imageName"] == "thing-1.0-env"
    assert len(found["imageTag"]) == 32
    built = '(buildNixShellImage { drv = thing; compressor = "zstd"; name = "X"; tag = "1"; })'
    found = evaluated.evaluate(f"{scope} {{ inherit ({built}) name imageName imageTag; }}")
    assert found == {"name": "thing-1.0-env.tar.zst", "imageName": "x", "imageTag": "1"}
    with pytest.raises(NixError, match="Can't specify both command and run"):
        evaluated.evaluate(
            f'{scope} (streamNixShellImage {{ drv = thing; command = "a"; run = "b"; }}).name'
        )


def test_shell_at_a_prompt(functions: Functions, scope: str) -> None:
    """Without it the container would start with a shell that does not know the derivation."""
    hook = "PATH=$PATH:/hooked; false"
    drv = f'derivation (attributes // {{ shellHook = "{hook}"; }})'
    stdenv = functions.name(functions.build(f"{scope} stdenv"))
    asked = 'echo "$PATH"; echo "$PS1"; shopt -q execfail && echo "$SHELL"'
    answers = []
    for command in ("null", '"echo commanded; false"'):
        image = f"streamNixShellImage {{ drv = {drv}; command = {command}; }}"
        change = "old: { passthru.rc = builtins.elemAt old.config.Cmd 2; }"
        rc = f'pkgs.runCommand "rc" {{ }} "cp ${{(({image}).override ({change})).rc}} $out"'
        file = functions.name(functions.build(f"{scope} {rc}"))
        run = f"env -i stdenv={stdenv} shellHook='{hook}' bash --rcfile {file} -i"
        answers.append(functions.run("sh", "-c", f"echo '{asked}' | {run} 2> /dev/null || true"))
    path, prompt, shell = answers[0].decode().splitlines()
    assert re.fullmatch(r"\S*-bash/bin:\S*-buildDerivation/bin:\S*-bash/bin:/hooked", path)
    assert "[nix-shell:\\w]$" in prompt
    assert shell.endswith("-bash/bin/bash")
    assert answers[1] == b"commanded\n"


def test_built_image(functions: Functions, scope: str) -> None:
    """Without it the file could hold another image than the executable streams."""
    image = 'buildNixShellImage { drv = thing; compressor = "none"; }'
    built = Image.read(functions.build(f"{scope} {image}").read_bytes())
    tag = functions.evaluate(f"{scope} ({image}).imageTag")
    assert built.tags == [f"thing-1.0-env:{tag}"]
    members = built.members()
    owners = {
        name: (members[name].uid, members[name].mode)
        for name in ("nix", "nix/store", "nix/var/nix", "etc/nix", "build")
    }
    assert {*owners.values()} == {(1000, 0o755)}


RUN = """
echo "$hooked $(type -t runHook) ${NIX_ENFORCE_PURITY-unset} $SHELL $(id -u):$(id -g) $PWD"
tool
touch $HOME/mine 2> /dev/null || touch mine
buildDerivation > log 2>&1 || cat log
cd $out
for each in *; do echo "$each $(base64 -w 0 $each)"; done
"""


def test_container_builds_the_derivation(
    functions: Functions, scope: str, podman: Podman, tmp_path: Path
) -> None:
    """Without it the image could have everything but what makes a build succeed."""
    for drv in ("thing", "structured"):
        script = RUN.replace("$out", "${outputs[out]}" if drv == "structured" else "$out")
        home = "/absent" if drv == "structured" else "/build"
        arguments = f'drv = {drv}; tag = "1"; homeDirectory = "{home}";'
        arguments += f" run = builtins.readFile {tmp_path}/run;"
        more = "old: { contents = old.contents ++ [ libraries ]; }"
        image = f"(streamNixShellImage {{ {arguments} }}).override ({more})"
        (tmp_path / "run").write_text(script, "utf-8")
        real = functions.build(f"{scope} {drv}")
        stream = functions.build(f"{scope} {image}")
        # The outputs are named in it, and made in the container.
        shipped = {*functions.references(stream, every=True)}
        assert shipped >= {"bash", "tool", "stdenv", "builder.sh"}
        assert shipped.isdisjoint({"thing-1.0", "thing-1.0-dev", "copy-file"})
        archive = tmp_path / f"{drv}.tar"
        archive.write_bytes(functions.run(str(stream).removeprefix(str(functions.nix.root))))
        podman.load_file(archive)
        ran = podman.run("thing-1.0-env:1")
        assert ran.returncode == 0, ran.stderr
        first, second, *lines = ran.stdout.splitlines()
        assert re.fullmatch(
            r"yes function unset /nix/store/\S*-bash/bin/bash 1000:1000 /build", first
        )
        assert second == "the tool"
        made = {name: base64.b64decode(data) for name, data in (line.split(" ") for line in lines)}
        assert made.keys() == {path.name for path in real.iterdir()}
        environments = made.pop("environment"), (real / "environment").read_bytes()
        inside, outside = map(variables, environments)
        own = OWN | {"HOSTNAME", "container", "otherPath", "textPath"}
        own |= {"NIX_ATTRS_JSON_FILE", "NIX_ATTRS_SH_FILE"}  # 2.8: outside of the sandbox
        assert {name: inside[name] for name in inside.keys() - own} == {
            name: outside[name] for name in outside.keys() - own
        }
        assert made == {name: (real / name).read_bytes() for name in made}
