"""rayjob.yaml: its fields are those that KubeRay and Kubernetes publish, and its command is one that troupe takes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.parser import Command, parse
from cluster.inspection.preflight import SHARED_MEMORY
from cluster.ray_jobs import prepare_job
from trainers.base.timeouts import WAITS
from trainers.base.version import __version__

ROOT = Path(__file__).parents[2]
SHARED = "/shared"
KINDS: dict[str, dict[str, str]] = {}
for group in ("ray.io/v1", "core/v1"):
    KINDS |= json.loads(Path(__file__).with_name("kuberay_fields.json").read_text())[group]


@pytest.fixture
def job() -> dict[str, Any]:
    (found,) = yaml.safe_load_all((ROOT / "rayjob.yaml").read_text())
    return found


def unknown(there: Any, kind: str, path: str = "") -> Iterator[str]:
    """The paths in `there`, an object of this kind, that are not published, or hold what such a field does not."""
    if not isinstance(there, dict):
        yield f"{path}: no {kind}"
        return
    for name, value in there.items():
        here = f"{path}.{name}" if path else name
        field = KINDS[kind].get(name)
        if field is None:
            yield here
        elif field == "map":
            yield from (f"{here}.{key}: no text" for key, one in value.items() if not isinstance(one, str))
        elif field in KINDS:
            several = value if isinstance(value, list) else [value]
            for number, one in enumerate(several):
                yield from unknown(one, field, f"{here}[{number}]" if several is value else here)
        elif isinstance(value, dict):  # of a value, or of an object whose fields are not known here
            yield from (f"{here}.{key}" for key in value)


def test_every_field_is_one_that_is_published(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert list(unknown(job, "RayJob")) == []


@pytest.mark.parametrize(
    ("place", "name", "value", "told"),
    [
        ("", "backofLimit", 3, "spec.backofLimit"),
        ("rayClusterSpec.authOptions", "token", "mine", "spec.rayClusterSpec.authOptions.token"),
        ("rayClusterSpec.headGroupSpec.rayStartParams", "num-cpus", 0, "rayStartParams.num-cpus: no text"),
        (
            "rayClusterSpec.workerGroupSpecs.0.template.spec.volumes.1.emptyDir",
            "size",
            "1Gi",
            "volumes[1].emptyDir.size",
        ),
        ("rayClusterSpec.headGroupSpec.template.spec.containers.0", "images", "mine", "containers[0].images"),
        ("", "entrypoint", {"command": "troupe"}, "spec.entrypoint.command"),
        ("", "rayClusterSpec", "mine", "spec.rayClusterSpec: no RayClusterSpec"),
    ],
)
def test_a_field_that_is_not_published_is_named(
    job: dict[str, Any], place: str, name: str, value: Any, told: str
) -> None:
    here: Any = job["spec"]
    for part in place.split(".") if place else ():
        here = here[int(part)] if part.isdigit() else here[part]
    here[name] = value
    (found,) = unknown(job, "RayJob")
    assert found.endswith(told)


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """What the head and the workers are made from."""
    inside = job["spec"]["rayClusterSpec"]
    return [one["template"]["spec"] for one in (inside["headGroupSpec"], *inside["workerGroupSpecs"])]


def test_it_wants_a_token_and_ends_and_is_tried_again(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > spec["ttlSecondsAfterFinished"]


def test_a_stop_leaves_it_as_long_to_save_as_a_job_of_submit(job: dict[str, Any]) -> None:
    variables = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": str(WAITS.job_saves)}


def test_its_ray_is_one_that_the_package_takes_and_its_image_has(job: dict[str, Any]) -> None:
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f'"ray[default,tune]>={version.rpartition(".")[0]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"'ray[default,tune]=={version}'" in (ROOT / "rayjob.yaml").read_text()
    assert f"'ray[default,tune]=={version}'" in (ROOT / "ray_config.yaml").read_text()
    assert len({one["image"] for pod in pods(job) for one in pod["containers"]}) == 1


def test_all_pods_see_one_volume_and_have_memory_to_share(job: dict[str, Any]) -> None:
    for pod in pods(job):
        (container,) = pod["containers"]
        places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[places[SHARED]]["persistentVolumeClaim"] == {"claimName": "troupe"}
        memory = volumes[places["/dev/shm"]]["emptyDir"]
        assert memory["medium"] == "Memory"
        assert int(memory["sizeLimit"].removesuffix("Gi")) << 30 > SHARED_MEMORY
        assert container["resources"]["limits"] == container["resources"]["requests"]


def carried_out(entrypoint: str, folder: Path) -> Command:
    """The command that the entrypoint starts, with `folder` in the place of the volume.

    As it is carried out: KubeRay's shell takes it apart, `ray job submit` puts it together, and the shell of Ray's job
    starts it. The same where it goes to Ray as it is.
    """
    troupe = folder / "bin" / "troupe"
    troupe.parent.mkdir(exist_ok=True)
    troupe.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    troupe.chmod(0o755)
    entrypoint = entrypoint.replace(SHARED, str(folder))
    surroundings = {**os.environ, "PATH": f"{troupe.parent}:{os.environ['PATH']}"}
    apart = subprocess.run(["bash", "-c", f"printf '%s\\0' {entrypoint} ;"], capture_output=True, text=True, check=True)
    said = []
    for line in (subprocess.list2cmdline(apart.stdout.split("\0")[:-1]), entrypoint):
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=surroundings, check=True)
        assert done.stderr == ""
        said.append(done.stdout.splitlines())
    assert said[0] == said[1]
    found = parse(said[0])
    assert found.problems == []
    return found


def test_the_first_attempt_begins_and_a_later_one_goes_on(job: dict[str, Any], tmp_path: Path) -> None:
    spec = job["spec"]
    name, runs = spec["metadata"]["run"], tmp_path / "runs"
    first = carried_out(spec["entrypoint"], tmp_path)
    assert prepare_job.prepare_job(first.request, runs) == first.names[0]  # type: ignore[arg-type]
    assert first.options["name"] == [name]
    run = runs / name
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    later = carried_out(spec["entrypoint"], tmp_path)
    assert later.options["resume"] == [name]
    assert not later.names
    assert not later.settings
    for said in (first, later):
        assert said.verb == spec["metadata"]["verb"] == "train"
        assert said.options["address"] == ["auto"]
        assert said.options["runs-dir"] == [str(runs)]
        assert said.options["data-dir"] == [str(tmp_path / "data")]


def test_its_workers_have_room_and_troupe_knows_it_as_a_job(job: dict[str, Any], tmp_path: Path) -> None:
    spec = job["spec"]
    assert spec["metadata"]["troupe"] == __version__
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    settings = carried_out(spec["entrypoint"], tmp_path).settings
    assert settings["device"] == "cuda"
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert int(settings["workers"]) == group["replicas"] * int(limits["nvidia.com/gpu"])
    assert int(limits["cpu"]) >= int(limits["nvidia.com/gpu"])


def test_what_its_comments_and_the_document_type_are_words_of_troupe() -> None:
    texts = [(ROOT / name).read_text() for name in ("rayjob.yaml", "docs/cluster.md")]
    typed_there = [
        line
        for text in texts
        for line in re.findall(r"^(?:#  |   ) (troupe .*--address http://127.*?)(?:  +#.*)?$", text, re.M)
    ]
    assert len(typed_there) >= 4
    for line in typed_there:
        assert parse(shlex.split(line)[1:]).problems == [], line
