"""The image with zstd, as a builder writes and pushes it with the options of docs/image.md."""

import json
import tarfile

import pytest

from tests.image.conftest import REPOSITORY, Builder, secret_file
from tests.image.docker_engine import running_docker_with_containerd_store

OPTIONS = "compression=zstd,oci-mediatypes=true,force-compression=true"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


@pytest.fixture(scope="module")
def archive(hub, tmp_path_factory):
    """The CPU image as an archive."""
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    with running_docker_with_containerd_store() as docker:
        output = f"--output=type=oci,dest={path},{OPTIONS}"
        build = Builder(docker, hub, secret_file(tmp_path_factory))
        build("llm-worker", "--build-arg", f"MODEL_NAME={REPOSITORY}", output)
    with tarfile.open(path) as opened:
        yield opened
    path.unlink()


def read(archive: tarfile.TarFile, name: str) -> dict:
    return json.loads(archive.extractfile(name).read())


def blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def test_each_layer_is_compressed_with_zstd(archive):
    """And is a frame of zstd in truth, as the manifest says."""
    [described] = read(archive, "index.json")["manifests"]
    layers = read(archive, blob(described["digest"]))["layers"]
    print(*(f"{layer['size'] / 1e6:.1f} MB" for layer in layers), sep="\n")
    assert {layer["mediaType"] for layer in layers} == {ZSTD}
    for layer in layers:
        magic = archive.extractfile(blob(layer["digest"])).read(4)
        assert magic == b"\x28\xb5\x2f\xfd"
        assert archive.getmember(blob(layer["digest"])).size == layer["size"]
