"""Fetches the packages of packages.json from npm, PyPI and Debian, by name, version and hash."""
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

PACKAGES = json.loads((Path(__file__).parent / "packages.json").read_text())
DEBIAN = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian").rstrip("/")
NPM = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")


def folder_of(package):
    return f"{package['name'].lstrip('@').replace('/', '-')}-{package['version']}"


def download(package, scratch):
    name, version = package["name"], package["version"]
    if package.get("index") == "PyPI":
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, f"{name}=={version}"], check=True)
        return next(scratch.glob(f"{name.replace('-', '_')}-{version}*.whl")).read_bytes()
    if package.get("index") == "Debian":
        url = f"{DEBIAN}/{package['path']}"
    else:
        url = f"{NPM}/{name}/-/{name.split('/')[-1]}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def unpack(package, data, folder):
    if package.get("index") == "PyPI":
        zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
        return
    if package.get("index") == "Debian":
        data, outer = member_of_ar(data, b"data.tar.xz"), 2
    else:
        outer = 1
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            # Everything lies in folders of the archive's own.
            member.name = "/".join(member.name.split("/")[outer:])
            if member.name and (member.isfile() or member.isdir()):
                archive.extract(member, folder, filter="data")


def member_of_ar(data, wanted):
    """A file of an archive as deb(5) has it: headers of 60 bytes, contents at even places."""
    at = len(b"!<arch>\n")
    while at < len(data):
        name, size = data[at : at + 16].strip(b" /"), int(data[at + 48 : at + 58])
        if name == wanted:
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise SystemExit(f"the package has no {wanted.decode()}")


def fetch(into):
    """Puts each package into a folder of its own, unless it is there."""
    into.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        folder = into / folder_of(package)
        if folder.exists():
            continue
        print(f"fetching {package['name']} {package['version']}", flush=True)
        data = download(package, into)
        if (found := hashlib.sha256(data).hexdigest()) != package["sha256"]:
            raise SystemExit(f"{package['name']} {package['version']} has the hash {found}, not {package['sha256']}")
        partial = folder.with_suffix(".partial")
        unpack(package, data, partial)
        partial.rename(folder)
