# Stands for nixpkgs' phases of a Python application; see nixpkgs-stub.nix.
export HOME=$PWD
cp -r "$src" source
chmod -R u+w source
cd source
# Without --ignore-installed, pip would uninstall the package from `python`.
"$python" -m pip install --quiet --ignore-installed --no-index --no-build-isolation --no-deps --no-compile \
    --disable-pip-version-check --root-user-action=ignore --prefix="$out" .
site=("$out"/lib/python*/site-packages)

# nixpkgs fails if the wheel requires what `dependencies` does not have.
"$interpreter" -I - "$site" <<'END'
import os, re, sys
from importlib.metadata import distributions

(wheel,) = distributions(path=sys.argv[1:])
required = {re.match(r"[\w-]+", each)[0] for each in wheel.requires if "extra ==" not in each}
given = set(os.environ["dependencies"].split())
if required != given:
    sys.exit(f"the wheel requires {sorted(required)}, the package has {sorted(given)}")
END

packages=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd "$out" # not beside the sources
for module in $pythonImportsCheck; do
    PYTHONPATH=$site:$packages "$interpreter" -c "import $module"
done

path='$PATH'
set -- $makeWrapperArgs
while [ $# -gt 0 ]; do
    [ "$2 $3" = "PATH :" ]
    case $1 in
        --prefix) path=$4:$path ;;
        --suffix) path=$path:$4 ;;
        *) exit 1 ;;
    esac
    shift 4
done
for program in "$out"/bin/*; do
    name=${program##*/}
    sed -e "1s|.*|#!$interpreter|" \
        -e "1a import sys; sys.path[:0] = ['$site', '$packages']" "$program" > "$out/bin/.$name-wrapped"
    cat > "$program" <<END
#!/bin/bash
PATH="$path"
export PATH PYTHONNOUSERSITE=true
exec -a "\$0" "$out/bin/.$name-wrapped" "\$@"
END
    chmod +x "$program" "$out/bin/.$name-wrapped"
done
