"""An engine's image from its locked wheels, beside a simulated GPU: `make test-image-gpu`.

ENGINE is vllm (the default) or sglang. The driver is mounted where the container runtime mounts
it; `simulated_gpu` says what stands in for it. It takes 25 GB of disk.
"""

import json
import os
import shutil
import tarfile

import pytest

from simulated_gpu.gpu import FOLDER, GPUS, SOURCES, build_libraries, host_environment
from tests.gpu.sglang.conftest import ANSWER, tokens
from tests.image.conftest import REPOSITORY, Image
from tests.image.test_image import layers
from tests.support.environment import ROOT

ENGINE = os.environ.get("ENGINE", "vllm")
MAX_LAYER_BYTES = 5_000_000_000
MAX_IMAGE_BYTES = {"vllm": 7_300_000_000, "sglang": 8_200_000_000}[ENGINE]
ENGINES_FILES = {"vllm": "vllm/benchmarks/lib", "sglang": "sglang/lang"}[ENGINE]
RUN = ("run", "--rm", "--network=none")
# What a hardened host gives a container: another user than root, nothing to write to but /tmp.
RESTRICTED = ("--user=1000:1000", "--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL")
LIBRARY_FOLDER = "/usr/lib/x86_64-linux-gnu"
WARMED = {  # the exit code; by key without its hash, the folders in an archive
    "vllm": (0, {"NVIDIA-H100-80GB-HBM3-sm90-driver580.95.05-vllm0.32.0": {"vllm"}}),
    "sglang": (12, {}),
}
ENGINE_LAYERS = ("cuda", "torch", "dependencies", "engine")
# Prints the files that two packages install with different contents.
COLLISIONS = """
from importlib.metadata import distributions
seen = {}
for package in distributions():
    for file in package.files or ():
        if file.hash and file.suffix != ".pyc":
            seen.setdefault(str(file), {})[file.hash.value] = package.name
print([path for path, owners in seen.items() if len(owners) > 1 and path.startswith("cuda/")])
"""


@pytest.fixture(scope="session")
def image(docker, build):
    """The image with the AWQ demo model, and FlashInfer's kernels for an H100."""
    options = [f"MODEL_NAME={REPOSITORY}", "KERNELS=9.0a"]
    arguments = [word for option in options for word in ("--build-arg", option)]
    done = build("llm-worker-gpu", *arguments, engine=ENGINE)
    [inspected] = json.loads(docker("image", "inspect", "llm-worker-gpu").stdout)
    return Image("llm-worker-gpu", done.stdout + done.stderr, inspected, 0)


@pytest.fixture(scope="session")
def gpu(tmp_path_factory):
    """Options of `docker run` that do what `--gpus all` does, and a simulated engine."""
    folder = tmp_path_factory.mktemp("driver")
    folder.chmod(0o755)
    build_libraries(folder)
    mounts = [f"{folder / name}:{LIBRARY_FOLDER}/{name}:ro" for name in SOURCES]
    mounts.append(f"{FOLDER}:/opt/simulated/{FOLDER.name}:ro")
    host = host_environment(folder, GPUS["h100"], engine=ENGINE)
    host["PYTHONPATH"] = "/opt/worker:" + host["PYTHONPATH"].replace(
        str(FOLDER.parent), "/opt/simulated"
    )
    del host["LD_LIBRARY_PATH"]  # the driver is where the loader looks
    variables = {
        **host,
        "SIMULATED_TOKENS": json.dumps(tokens(ANSWER)),
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "SGLANG_LOGGING_LEVEL": "ERROR",
    }
    environment = [f"--env={name}={value}" for name, value in variables.items()]
    return [*(f"--volume={mount}" for mount in mounts), *environment]


def python(docker, image, code: str, *options: str) -> str:
    """Run Python code in a container, without a GPU."""
    done = docker(*RUN, *options, "--entrypoint=python3", image.tag, "-c", code)
    return done.stdout.strip()


@pytest.mark.parametrize("options", [(), RESTRICTED], ids=["root", "restricted"])
def test_docker_run_answers_test_input_json(docker, image, gpu, options):
    done = docker(*RUN, *options, *gpu, image.tag, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ANSWER in done.stdout
    assert f"model {REPOSITORY} (awq) from the image" in done.stdout


def test_builder_warm_leaves_an_archive_for_this_gpu(docker, image, gpu, tmp_path):
    """vLLM keeps what it knows of the model's class; SGLang's simulated engine compiles nothing."""
    options = (*gpu, f"--volume={tmp_path}:/out", "--entrypoint=python3")
    done = docker(*RUN, *options, image.tag, "-m", "builder", "warm", "--out", "/out", check=False)
    names = {path.name.rpartition("-")[0]: names_in(path) for path in tmp_path.glob("*.tar")}
    assert (done.returncode, names) == WARMED[ENGINE], done.stdout + done.stderr


def names_in(archive):
    with tarfile.open(archive) as tar:
        return {name.partition("/")[0] for name in tar.getnames()}


def test_without_a_driver_it_says_so(docker, image):
    """In one line, instead of what the engine says of a device that it cannot infer."""
    done = docker(*RUN, *RESTRICTED, image.tag, check=False)
    assert (done.returncode, done.stderr) == (
        4,
        "There is no NVIDIA driver in this container: start it with `--gpus all`, on a host with "
        "an NVIDIA GPU.\n",
    )


def test_the_container_runtime_is_told_what_to_mount(image):
    """The variables of NVIDIA's own images; and CUDA_HOME is a toolkit with a compiler."""
    variables = dict(entry.split("=", 1) for entry in image.inspected["Config"]["Env"])
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert variables["NVIDIA_REQUIRE_CUDA"] == "cuda>=13.0"
    assert variables["CUDA_HOME"].endswith("/nvidia/cu13")


def test_the_stub_is_where_only_the_linker_looks(docker, image):
    code = """
import ctypes, os
print(os.path.isfile(os.environ["CUDA_HOME"] + "/lib64/stubs/libcuda.so"))
for name in ("libcuda.so.1", "libcuda.so"):
    try:
        print(ctypes.CDLL(name))
    except OSError as error:
        print(error)
"""
    assert python(docker, image, code).splitlines() == [
        "True",
        *(
            f"{name}: cannot open shared object file: No such file or directory"
            for name in ("libcuda.so.1", "libcuda.so")
        ),
    ]


@pytest.mark.parametrize(
    ("architecture", "baked"), [("9.0a", True), ("8.9", False)], ids=["baked", "another"]
)
def test_flashinfers_kernels_are_in_the_image(docker, image, architecture, baked):
    """FlashInfer finds them itself, and compiles for a GPU that the build did not name."""
    code = (
        "from flashinfer.jit.sampling import gen_sampling_module as sampling; "
        "print(sampling().get_library_path())"
    )
    options = [*RESTRICTED, "--env=HOME=/tmp", f"--env=FLASHINFER_CUDA_ARCH_LIST={architecture}"]
    path = python(docker, image, code, *options)
    site_packages = "/opt/venv/lib/python3.11/site-packages"
    provided = f"{site_packages}/flashinfer_jit_cache/modules/sampling/sampling.so"
    assert (path == provided) is baked


def test_no_package_replaces_the_modules_of_another_one(docker, image):
    assert python(docker, image, COLLISIONS) == "[]"


def test_the_sizes(docker, image):
    """Of the image and of each layer, without the model, which is 0.1 GB."""
    sizes = [size for _, size in layers(docker, image.tag)]
    assert max(sizes) < MAX_LAYER_BYTES
    assert sum(sizes) < MAX_IMAGE_BYTES


def test_a_new_engine_ships_its_own_wheels(docker, build, image, tmp_path):
    """All wheels are installed again, as on another machine, and one layer of four is another."""
    context = tmp_path / "changed"
    context.mkdir()
    for name in ("builder", "requirements"):
        shutil.copytree(ROOT / name, context / name)
    shutil.copy(ROOT / "Dockerfile", context)
    with (context / "requirements/pruned.txt").open("a") as file:
        file.write(f"{ENGINES_FILES}\n")
    build("changed-engine", "--target=gpu", context=context, engine=ENGINE)
    before, after = layers(docker, image.tag), layers(docker, "changed-engine")
    first = len(after) - len(ENGINE_LAYERS)
    changed = [
        name
        for name, old, new in zip(ENGINE_LAYERS, before[first:], after[first:], strict=False)
        if old[0] != new[0]
    ]
    assert changed == ["engine"]


def test_the_page_of_licences_is_the_images(docker, image):
    page = docker(
        *RUN,
        f"--volume={ROOT / 'builder'}:/opt/licenses/builder:ro",
        "--workdir=/opt/licenses",
        "--entrypoint=python3",
        image.tag,
        "-m",
        "builder.licenses",
    ).stdout
    assert page == (ROOT / f"docs/licenses/{ENGINE}.md").read_text()
