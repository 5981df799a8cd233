"""The KubeRay manifests: against schemas, and against the study that they run."""

import copy
import json
import shlex
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helpers_experiments import costs
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from universal_ray.cli.options import composed as compose
from universal_ray.config.study import Study, check
from universal_ray.planning.capacity import GIB
from universal_ray.planning.costs import disk_at_once, host_bytes

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
SIZES = ["small", "medium"]
KUBERNETES = kubernetes_validate.latest_version()
GPUS = {"small": (40, 80), "medium": (80, 141)}
"""GB of the GPUs that each size may run on."""
TIB = 2**40


def replace(document: Any, path: str, value: Any) -> None:
    """`replace` of JSON Patch (RFC 6902): what it names must be there."""
    *parents, last = path.removeprefix("/").split("/")
    for name in parents:
        document = document[int(name) if isinstance(document, list) else name]
    key = int(last) if isinstance(document, list) else last
    document[key]
    document[key] = value


def built(folder: Path) -> list[dict]:
    """The documents of a kustomization of resources and patches that replace, as kustomize does."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}
    documents = []
    for name in kustomization["resources"]:
        path = folder / name
        found = built(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
        documents += copy.deepcopy(json.loads(json.dumps(list(found))))
    for patch in kustomization.get("patches", []):
        [target] = [each for each in documents if each["kind"] == patch["target"]["kind"]]
        for step in yaml.safe_load(patch["patch"]):
            assert step.pop("op") == "replace"
            replace(target, **step)
    return documents


def of_kind(kind: str, size: str) -> dict:
    [found] = [each for each in built(KUBERAY / size) if each["kind"] == kind]
    return found


def rayjob_errors(manifest: dict) -> list[str]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema"
    text = (folder / f"v{KUBERNETES}-local-strict" / "_definitions.json").read_text()
    registry = Resource.from_contents(json.loads(text)) @ Registry()
    schema = yaml.safe_load((Path(__file__).parent / "rayjob.schema.yaml").read_text())
    base = "https://kubernetes.io/api/rayjob/v1"
    validator = Draft202012Validator({**schema, "$id": base}, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize("size", SIZES)
def test_manifests_follow_their_schemas(size):
    assert rayjob_errors(of_kind("RayJob", size)) == []
    kubernetes_validate.validate(of_kind("PersistentVolumeClaim", size), KUBERNETES, strict=True)


WORKER = "/spec/rayClusterSpec/workerGroupSpecs/0"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("/spec/backoffLimit", "4", "'4'"),
        ("/spec", {"entrypoint": "x"}, "under any of"),
        ("/spec/shutdownAfterJobFinishes", False, "True was expected"),
        ("/spec/rayClusterSpec/authOptions/mode", "none", "'none'"),
        ("/spec/rayClusterSpec/headGroupSpec/rayStartParams", {"num-cpus": 0}, "0 is not"),
        (f"{WORKER}/replicas", "1", "'1'"),
        (f"{WORKER}/template/spec/containers/0", {"image": "x"}, "'name' is a required"),
        (f"{WORKER}/template/spec/containers/0/env/0", {"name": "A", "vale": "B"}, "'vale'"),
        (f"{WORKER}/template/spec/initContainers/0/args", "x", "'x'"),
        (f"{WORKER}/template/spec/tolerations", {}, "{}"),
    ],
)
def test_a_fault_in_a_manifest_is_found(path, value, named):
    manifest = of_kind("RayJob", "small")
    replace(manifest, path, value)
    assert any(named in error for error in rayjob_errors(manifest))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("size", SIZES)
def test_kustomize_builds_the_same(size):
    command = ["kubectl", "kustomize", str(KUBERAY / size)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    by_kind = {each["kind"]: each for each in yaml.safe_load_all(made)}
    assert by_kind == {each["kind"]: each for each in built(KUBERAY / size)}


def composed(options: list[str]) -> Study:
    """The study of a command line."""
    study = compose(options, "config", Study)
    check(study)
    return study


def entrypoint(size: str) -> tuple[Path, Study]:
    """The file a RayJob runs, and the study it asks for."""
    python, script, *options = shlex.split(of_kind("RayJob", size)["spec"]["entrypoint"])
    assert python == "python"
    return ROOT / Path(script).relative_to("/app"), composed(options)


def groups(size: str) -> tuple[dict, dict]:
    """The pods of the head and of the workers."""
    cluster = of_kind("RayJob", size)["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]


@pytest.mark.parametrize("size", SIZES)
def test_the_entrypoint_is_a_study_in_the_volume_on_the_cluster_of_the_job(size):
    script, study = entrypoint(size)
    assert script.is_file()
    assert study.cluster.address == "auto"
    head, workers = groups(size)
    for pod in (head, workers):
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        claims = {each["name"]: each.get("persistentVolumeClaim") for each in pod["volumes"]}
        assert study.run.dir.startswith("/data/")
        claim = of_kind("PersistentVolumeClaim", size)
        assert claims[mounts["/data"]] == {"claimName": claim["metadata"]["name"]}
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("size", SIZES)
def test_workers_find_their_models_offline_where_the_prefetch_left_them(size):
    _, pod = groups(size)
    [fetch], [container] = pod["initContainers"], pod["containers"]
    before = {each["name"]: each["value"] for each in fetch["env"]}
    after = {each["name"]: each["value"] for each in container["env"]}
    assert "HF_HUB_OFFLINE" not in before
    assert after == {**before, "HF_HUB_OFFLINE": "1"}
    cache = [mount for mount in fetch["volumeMounts"] if mount in container["volumeMounts"]]
    assert before["HF_HOME"].startswith(cache[0]["mountPath"])
    script, *options = fetch["args"]
    assert (ROOT / script).is_file()
    assert composed(options).models == entrypoint(size)[1].models


@pytest.mark.parametrize("size", SIZES)
def test_the_cluster_has_what_the_study_asks_for(size):
    _, study = entrypoint(size)
    cluster = of_kind("RayJob", size)["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [group] = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    asked = group["template"]["spec"]["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"]
    assert group["replicas"] == study.cluster.workers
    assert int(asked["limits"]["nvidia.com/gpu"]) == 1
    assert int(asked["limits"]["cpu"]) >= study.cluster.threads


@pytest.mark.parametrize("size", SIZES)
def test_volume_and_memory_hold_what_the_plan_says(size, tmp_path):
    """Of all stages, on the smallest GPUs that the recipe is for, with a fifth to spare."""
    _, study = entrypoint(size)
    workers = f"cluster.workers={study.cluster.workers}"
    taken = [
        costs(f"gpt2_{size}", tmp_path / str(gigabytes), workers,
              f"cluster.memory={gigabytes * 1e9 / GIB}")[1]
        for gigabytes in GPUS[size]
    ]  # fmt: skip
    claim = of_kind("PersistentVolumeClaim", size)["spec"]["resources"]["requests"]["storage"]
    most = max(map(disk_at_once, taken))
    assert most * 1.2 < int(claim.removesuffix("Ti")) * TIB < most * 2
    memory = groups(size)[1]["containers"][0]["resources"]["limits"]["memory"]
    assert max(map(host_bytes, taken)) * 1.2 < int(memory.removesuffix("Gi")) * GIB


@pytest.mark.parametrize("size", SIZES)
def test_a_job_is_retried_on_a_cluster_with_a_token_that_goes_when_it_ends(size):
    spec = of_kind("RayJob", size)["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}" in pins


@pytest.mark.parametrize("size", SIZES)
def test_no_container_has_more_rights_than_it_needs(size):
    for pod in groups(size):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
