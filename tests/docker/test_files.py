"""The container files agree with the project and keep to the rules of a hospital host."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from medseg.config.check import load_config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE_FILES = sorted(DOCKER.glob("compose*.yaml"))
TRAINER = {"lightning", "tensorboard"}

each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
each_compose_file = pytest.mark.parametrize("compose", COMPOSE_FILES, ids=lambda path: path.name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Keyword and argument of each instruction, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(keyword.upper(), " ".join(argument.split())) for keyword, argument in pairs]


def last_stage(dockerfile: Path) -> dict[str, str]:
    """The last instruction of each keyword in the stage that becomes the image."""
    found = instructions(dockerfile)
    start = max(index for index, (keyword, _) in enumerate(found) if keyword == "FROM")
    return dict(found[start:])


def services(compose: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(compose.read_text())["services"]
    return content


def main_services() -> list[tuple[str, dict[str, Any]]]:
    return list(services(DOCKER / "compose.yaml").items())


def requirement_names(requirements: list[str]) -> dict[str, str]:
    return {re.split(r"[<>=!~\[; ]", line)[0].lower(): line for line in requirements}


def test_both_images_and_the_compose_file_exist():
    names = {path.name for path in (*DOCKERFILES, *COMPOSE_FILES)}

    assert {"train.Dockerfile", "predict.Dockerfile", "compose.yaml"} <= names


@each_dockerfile
def test_an_image_runs_as_a_numbered_user_that_is_not_root(dockerfile):
    user = last_stage(dockerfile)["USER"]

    # By number: Kubernetes' runAsNonRoot cannot judge a name.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@each_dockerfile
def test_an_image_is_medseg_with_its_command_as_arguments(dockerfile):
    stage = last_stage(dockerfile)

    assert stage["ENTRYPOINT"] == '["python", "-m", "medseg"]'
    assert stage["CMD"].startswith("[")


@each_dockerfile
def test_stages_start_from_the_base_argument_or_from_each_other(dockerfile):
    bases = [argument for keyword, argument in instructions(dockerfile) if keyword == "FROM"]
    stages = {base.split(" AS ")[1] for base in bases if " AS " in base}

    outside = {base.split(" AS ")[0] for base in bases} - stages

    assert outside == {"${BASE}"}


@each_dockerfile
def test_the_default_base_has_a_version(dockerfile):
    found = instructions(dockerfile)

    base = next(text for keyword, text in found if keyword == "ARG" and text.startswith("BASE="))

    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", base)


@each_dockerfile
def test_nothing_is_fetched_but_by_pip_and_every_pip_is_held_to_the_constraints(dockerfile):
    found = instructions(dockerfile)
    environment = " ".join(text for keyword, text in found if keyword == "ENV")
    runs = " ".join(text for keyword, text in found if keyword == "RUN")

    assert "PIP_CONSTRAINT=/src/constraints.txt" in environment
    assert not re.search(r"\b(curl|wget|git|apt-get)\b", runs)
    assert "ADD" not in {keyword for keyword, _ in found}


@each_dockerfile
def test_no_secret_is_copied_or_set(dockerfile):
    text = dockerfile.read_text().lower()

    assert not re.search(r"password|token|api_key|trusted-host|//[^/\s]*@", text)


@each_dockerfile
def test_the_device_is_checked_and_proven_in_the_built_image(dockerfile):
    text = dockerfile.read_text()

    assert "must be cpu or gpu" in text
    assert "torch.version.cuda" in last_stage(dockerfile)["RUN"]


@pytest.mark.skipif(not (ROOT / "medseg").is_dir(), reason="the sources were moved away")
@each_dockerfile
def test_what_is_copied_exists_and_is_let_through_to_the_build(dockerfile):
    copied = [shlex.split(text) for keyword, text in instructions(dockerfile) if keyword == "COPY"]
    sources = {name for words in copied if "--from=" not in words[0] for name in words[:-1]}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}

    assert {name for name in sources if not (ROOT / name).exists()} == set()
    assert sources <= allowed
    assert "*" in ignore


def test_the_prediction_image_has_every_dependency_but_the_trainer():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = requirement_names(project["dependencies"])
    lines = (DOCKER / "predict-requirements.txt").read_text().splitlines()

    listed = requirement_names([line for line in lines if line and not line.startswith("#")])

    assert listed == {name: line for name, line in wanted.items() if name not in TRAINER}


def test_the_prediction_image_installs_medseg_without_its_dependencies_and_proves_it():
    dockerfile = DOCKER / "predict.Dockerfile"
    installs = [text for keyword, text in instructions(dockerfile) if keyword == "RUN"]
    own = [text for text in installs if "/wheel/*.whl" in text]

    assert len(own) == 1
    assert "install --no-deps" in own[0]
    assert "find_spec" in last_stage(dockerfile)["RUN"]
    assert "medseg.inference.predictor" in last_stage(dockerfile)["RUN"]


@each_compose_file
def test_a_compose_file_is_yaml_with_services(compose):
    assert all(isinstance(service, dict) for service in services(compose).values())


@each_compose_file
def test_an_added_compose_file_changes_known_services_only(compose):
    assert set(services(compose)) <= {name for name, _ in main_services()}


def test_the_compose_file_has_the_jobs_as_profiles_and_the_servers_without():
    profiles = {name: service.get("profiles") for name, service in main_services()}

    assert profiles == {
        "train": ["train"],
        "predict": ["predict"],
        "medseg": ["hospital"],
        "prometheus": ["hospital"],
        "tensorboard": None,
        "orthanc": None,
    }


@pytest.mark.parametrize(("name", "service"), main_services())
def test_images_are_pinned(name, service):
    tag = service["image"].split("/")[-1].partition(":")[2]

    assert tag
    assert "latest" not in tag
    # What is not built here has a release number.
    assert "build" in service or re.fullmatch(r"v?\d+(\.\d+)+", tag)


@pytest.mark.parametrize(("name", "service"), main_services())
def test_ports_are_open_to_this_machine_alone(name, service):
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", ["train", "predict"])
def test_jobs_have_no_network_and_few_rights(name):
    job = dict(main_services())[name]

    assert job["network_mode"] == "none"
    assert job["read_only"] is True
    assert job["cap_drop"] == ["ALL"]
    assert job["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in job


@pytest.mark.parametrize("name", ["medseg", "prometheus"])
def test_a_service_of_the_hospital_has_few_rights_and_is_no_root(name):
    service = dict(main_services())[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith(("0", "root"))
    assert service["restart"] == "unless-stopped"


def test_the_options_of_the_hospitals_medseg_fit_the_code():
    words = dict(main_services())["medseg"]["command"]
    options = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]

    config = load_config(options[0], options[1:])

    assert config.service.ae_title == "MEDSEG"
    assert config.service.peers.ORTHANC.port == 4242
    assert dict(main_services())["medseg"]["stop_grace_period"] == "45s"
    assert config.executor.grace_s < 45


@pytest.mark.parametrize("name", ["train", "predict", "tensorboard"])
def test_the_given_images_and_runs_that_are_only_read_cannot_be_written(name):
    mounts = {mount["target"]: mount for mount in dict(main_services())[name]["volumes"]}
    written = {
        "train": {"/project/runs", "/cache"},
        "predict": {"/project/output"},
        "tensorboard": set(),
    }

    assert {target for target, mount in mounts.items() if not mount.get("read_only")} == written[
        name
    ]


@pytest.mark.parametrize("name", ["tensorboard", "orthanc", "medseg", "prometheus"])
def test_servers_have_a_health_check(name):
    check = dict(main_services())[name]["healthcheck"]

    assert check["test"][0] == "CMD"


@pytest.mark.parametrize(("name", "service"), main_services())
def test_what_a_service_is_built_from_exists(name, service):
    if "build" not in service:
        return
    context = (DOCKER / service["build"]["context"]).resolve()

    assert context == ROOT.resolve()
    assert (context / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize(("name", "service"), main_services())
def test_build_arguments_are_those_of_the_dockerfile(name, service):
    if "build" not in service:
        return
    dockerfile = ROOT / service["build"]["dockerfile"]
    arguments = [text for keyword, text in instructions(dockerfile) if keyword == "ARG"]
    defaults = dict(text.split("=", 1) for text in arguments)

    given = service["build"]["args"]

    assert {key: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value) for key, value in given.items()} == (
        defaults
    )


def test_named_volumes_are_declared():
    content = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    mounts = [mount for _, service in main_services() for mount in service["volumes"]]

    used = {mount["source"] for mount in mounts if mount["type"] == "volume"}

    assert used == set(content["volumes"])


def test_the_example_settings_name_every_variable_with_the_default_of_the_compose_file():
    text = (DOCKER / "compose.yaml").read_text()
    defaults = dict(re.findall(r"\$\{(\w+):[-?]([^}]*)\}", text))
    lines = (DOCKER / ".env.example").read_text().splitlines()

    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    # The password has no default: compose refuses to start without one.
    assert "set it in" in defaults.pop("ORTHANC_PASSWORD")
    assert example.pop("ORTHANC_PASSWORD") == ""
    assert example == defaults


def test_settings_with_passwords_stay_out_of_the_repository():
    assert ".env" in (DOCKER / ".gitignore").read_text().splitlines()
