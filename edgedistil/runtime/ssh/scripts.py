"""Scripts that run on a board when it is opened."""

from __future__ import annotations

# Removes folders older than a day (a newer one may belong to another connection) and makes a new
# one: not in /tmp, which is memory on newer systems and would falsify what is measured.
OPEN_SCRIPT = """
umask 077
for program in timeout sha256sum mktemp find; do
  command -v $program >/dev/null 2>&1 || echo "lacks=$program"
done
find "$HOME" /var/tmp -maxdepth 1 -type d \
  \\( -name '.edgedistil.??????' -o -name 'edgedistil.??????' \\) \
  -user "$(id -un)" -mmin +1440 -exec rm -rf {} + 2>/dev/null
folder=$(mktemp -d "$HOME/.edgedistil.XXXXXX" 2>/dev/null)
[ -n "$folder" ] || folder=$(mktemp -d /var/tmp/edgedistil.XXXXXX) || exit 1
mkdir "$folder/files" "$folder/scratch"
echo "folder=$folder"
command -v python3 >/dev/null 2>&1 || exit 0
echo "python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
exit 0
"""

# Reads the versions without importing the packages: onnxruntime 1.21.0 dies of SIGILL at import on
# ARMv8.0 (docs/log.md#onnxruntime-121-on-armv80). The version of a package that was installed
# without metadata is in its source.
DESCRIBE_SCRIPT = """
import importlib.util, json, platform, re, runpy, sys
from importlib import metadata
facts = runpy.run_path(sys.argv[1])["read_identity"]()
def version(module, distributions):
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pass
    spec = importlib.util.find_spec(module)
    if not spec or not spec.origin:
        return None
    with open(spec.origin, encoding="utf-8") as file:
        match = re.search(r"__version__\\s*=\\s*[\\"']([^\\"']+)", file.read())
    return match.group(1) if match else "unknown version"
facts["numpy"] = version("numpy", ["numpy"])
facts["onnxruntime"] = version("onnxruntime", ["onnxruntime", "onnxruntime-gpu"])
facts["libc"] = " ".join(platform.libc_ver())
print(json.dumps(facts))
"""
