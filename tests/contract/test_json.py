"""What `--json` prints: one object for every verb and however it ends, as docs/json_schema.json says."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonschema
import pytest
from searches import make_search
from sentences import Sentences

from cluster import train
from cluster.cli import main, verbs
from cluster.cli.parser import options_of
from cluster.ray_jobs import dashboard, submission
from cluster.requests.models import REQUESTS
from cluster.searching import launch_search
from cluster.terminal.answers import Answer, as_json, as_record
from trainers.base.errors import CONFLICT, ENVIRONMENT, FAILED, STOPPED, USAGE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SCHEMA = json.loads((DOCS / "json_schema.json").read_text())
AS_THE_SCHEMA = jsonschema.Draft202012Validator(SCHEMA)
OLD = ROOT / "tests" / "faults" / "old" / "run_of_0.1.0"
SMALL = {"batch_size": 8, "microbatch_size": 2, "device": "cpu", "steps": 2}
GAN = {
    **SMALL,
    "image_size": 16,
    "width": 4,
    "latent_dim": 8,
    "features": "pixels",
    "num_eval_samples": 16,
    "evaluate_every": 0,
}
URL = "http://head:8265"
PRINTED = "epoch 1\nrun: stopped and saved\n"  # by a job


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def valid(text: str) -> dict[str, Any]:
    """The one object that was printed, which is as the schema says."""
    answer: dict[str, Any] = json.loads(text, parse_constant=no_json)
    AS_THE_SCHEMA.validate(answer)
    return answer


class Said(NamedTuple):
    code: int
    answer: dict[str, Any]
    result: Any
    err: str


def texts(answer: dict[str, Any]) -> list[str]:
    """What is wrong, a line each."""
    return [error["text"] for error in answer["errors"]]


def said(*words: str) -> Said:
    """What a command with --json answers."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.command([*words, "--json"])
    answer = valid(out.getvalue())
    assert answer["exit_code"] == code
    assert [line for line in texts(answer) if line not in err.getvalue() and answer["result"] is None] == []
    return Said(code, answer, answer["result"], err.getvalue())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs and a search: look at them, never change them."""
    folder = tmp_path_factory.mktemp("made")
    train("classifier", name="mlp", model="mlp", data="digits", runs_dir=folder / "runs", **SMALL)
    train("dcgan", name="gan", data="digits", runs_dir=folder / "runs", **GAN)
    make_search(folder / "runs", "search", trials=2)
    shutil.copytree(OLD, folder / "runs" / "old")
    (folder / "runs" / "damaged").mkdir()
    (folder / "runs" / "damaged" / "settings.json").write_text("{")
    return folder


@pytest.fixture
def room(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, from which those runs are seen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(made / "runs")
    return tmp_path


def test_the_schema_is_one_and_knows_every_verb() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]["verb"]["enum"]) == {*REQUESTS, None}
    cased = {case["if"]["properties"].get("verb", {}).get("const", "") for case in SCHEMA["allOf"]} - {""}
    assert cased == {*REQUESTS, None}, "each verb's result has a shape"
    assert [verb for verb in REQUESTS if "json" not in {option.name for option in options_of(verb)}] == []


def test_runs_tell_steps_seconds_and_bytes_as_numbers(room: Path) -> None:
    rows = {row["name"]: row for row in said("runs").result["runs"]}
    assert rows.keys() == {"mlp", "gan", "search", "old", "damaged"}
    assert (rows["mlp"]["step"], rows["mlp"]["steps"], rows["mlp"]["state"]) == (2, 2, "finished")
    assert rows["mlp"]["seconds"] > 0
    assert rows["mlp"]["bytes"] > 10_000
    assert (rows["search"]["kind"], rows["search"]["trials"], rows["search"]["trials_ended"]) == ("search", 2, 2)
    assert (rows["damaged"]["state"], rows["damaged"]["step"]) == ("damaged", None)
    assert "settings.json" in rows["damaged"]["note"]
    assert [row["name"] for row in said("runs", "search").result["runs"]] == ["search/0001", "search/0002"]


def test_removed_runs_tell_the_bytes_that_are_free(room: Path) -> None:
    shutil.copytree(OLD, room / "others" / "one", ignore=shutil.ignore_patterns(".keep"))
    (row,) = said("runs", "--remove", "one", "--runs-dir", "others").result["removed"]
    assert row["name"] == "one"
    assert row["bytes"] > 10_000


def test_train_answers_the_same_for_a_new_run_and_for_one_that_had_ended(room: Path) -> None:
    words = [f"{key}={value}" for key, value in SMALL.items()]
    told = said("train", "classifier", "model=mlp", "data=digits", "--runs-dir", "others", *words)
    assert "training 2 steps of 8 samples" in told.err
    assert told.result["steps"] == 2
    assert told.result["metrics"]["eval_accuracy"] == said("evaluate", "mlp").result["metrics"]["eval_accuracy"]
    assert said("train", "--resume", "mlp").result.keys() == told.result.keys()
    assert said("train", "--resume", "old").result.keys() == told.result.keys()


def test_a_verdict_and_its_pictures(room: Path) -> None:
    told = said("evaluate", "gan", "--out", "seen").result
    assert told["verdict"]["numbers"]["recall"].keys() == {"generated", "real"}
    assert [Path(path).exists() for path in told["pictures"]] == [True, True]


def test_a_search_tells_its_points(room: Path) -> None:
    found = make_search(room / "others", trials=3)
    found.terms["final"] = {"run": "search-final", "of": "search/0001", "metrics": {"eval_frechet_distance": math.nan}}
    found.trials[0].value = math.inf
    result = valid(as_json("search", Answer(launch_search.result_of(found), "")))["result"]
    assert len(result["points"]) == 3
    assert result["final"]["metrics"] == {"eval_frechet_distance": None}


@pytest.mark.slow
def test_a_dry_run_of_a_search_tells_its_trials_by_steps_that_it_makes(room: Path) -> None:
    words = ("model=mlp", "learning_rate=0.01,0.1", "steps=2", "data=digits", "device=cpu", "--space", "none")
    dry = said("search", "classifier", *words, "--dry-run").result
    assert dry["fixed"]["steps"] == 2
    assert dry["trials"] == [{"learning_rate": 0.01}, {"learning_rate": 0.1}]
    assert dry["steps_of_a_trial"] == 2


def test_the_best_trials_tell_their_values_and_steps(room: Path) -> None:
    found = make_search(room / "others", trials=2)
    for trial in found.trials:
        shutil.rmtree(found.folder(trial).path)
        shutil.copytree(room / "runs" / "gan", found.folder(trial).path)
    told = said("sample", "search", "--top", "2", "--count", "4", "--runs-dir", "others").result
    assert told["trials"] == [{"name": f"search/000{n}", "value": float(n), "step": 2} for n in (1, 2)]
    best = said("export", "search", "--best", "--runs-dir", "others").result
    assert (best["trial"], best["metric"], best["value"]) == ("search/0001", "eval_frechet_distance", 1.0)


def test_verify_tells_each_proof(room: Path) -> None:
    told = said("verify", "classifier", "model=mlp", "workers=2")
    assert told.result["passed"]
    assert [proof["grad_sync"] for proof in told.result["checks"]] == ["exact", "ddp"]
    assert "mlp, exact in float32: equal" in told.err


def test_a_proof_that_failed_is_a_result_with_a_mistake_and_infinity_is_null(
    monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    difference = {"tensor": "a", "largest": math.nan, "relative": math.inf}
    proof = {"variant": "mlp", "grad_sync": "ddp", "precision": "float64", "tolerance": 1e-9, "passed": False,
             "largest": [difference], "why": ""}  # fmt: skip
    result = {"family": "classifier", "workers": 2, "passed": False, "checks": [proof]}
    monkeypatch.setattr("cluster.inspection.verify.verify", lambda *words: result)
    told = said("verify", "classifier")
    assert (told.code, [one["code"] for one in told.answer["errors"]]) == (FAILED, ["not-proven"])
    sentences(texts(told.answer))
    assert told.result["checks"][0]["largest"] == [{"tensor": "a", "largest": None, "relative": None}]


QUICK = {
    "sample": ("sample", "gan", "--count", "4", "--out", "x.png"),
    "export": ("export", "gan", "--out", "x"),
    "predict": ("predict", "mlp", str(ROOT / "docs" / "digits.png")),
    "report": ("report", "gan", "search", "--out", "page"),
    "logs": ("logs", "mlp"),
    "logs of one that has ended, followed": ("logs", "mlp", "--follow"),
    "check": ("check", "classifier", "data=digits", "device=cpu"),
    "families": ("families",),
    "datasets": ("datasets", "--data-dir", "data"),
    "env": ("env",),
    "train --dry-run": ("train", "dcgan", "schedule=one_cycle", "--dry-run"),
    "verify --dry-run": ("verify", "dcgan", "--dry-run"),
    "help of a verb": ("train", "dcgan", "--help"),
    "help": ("--help",),
    "version": ("--version",),
}


@pytest.mark.parametrize("case", QUICK)
def test_every_other_verb_answers_as_the_schema_says(room: Path, case: str) -> None:
    told = said(*QUICK[case])
    assert (told.code, told.answer["errors"]) == (0, [])


def test_logs_are_in_the_object_and_what_is_followed_is_on_stderr_as_it_comes(room: Path) -> None:
    (log,) = said("logs", "mlp").result["logs"]
    assert log["rank"] == 0
    assert "worker 0 of 1" in log["text"]
    told = said("logs", "mlp", "--follow")
    assert told.result["logs"] == [log]
    assert told.err == log["text"]


def test_numbers_that_json_does_not_know_are_null_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"libraries": {"a": math.nan}, "more": [1.5, (math.inf, -math.inf), {"x": [math.nan]}]}
    text = as_json(None, Answer(result, ""))
    assert json.loads(text, parse_constant=no_json)["result"] == {
        "libraries": {"a": None}, "more": [1.5, [None, None], {"x": [None]}],
    }  # fmt: skip


WRONG = {
    "no such verb": (("trian", "dcgan"), USAGE),
    "wrong words": (("train", "dcgan", "steps=many", "--bogus"), USAGE),
    "json with a value": (("train", "dcgan", "--json=yes"), USAGE),
    "no such run": (("evaluate", "nobody"), USAGE),
    "nobody works on it": (("stop", "mlp"), CONFLICT),
    "name in use": (("train", "dcgan", "--name", "mlp"), CONFLICT),
    "no room": (
        ("train", "dcgan", "data=digits", "workers=4000", "batch_size=8000", "microbatch_size=2"),
        ENVIRONMENT,
    ),
    "no dashboard": (("jobs", "--address", "http://127.0.0.1:9"), ENVIRONMENT),
    "no address": (("submit", "train", "dcgan", "steps=many"), USAGE),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_an_object_too_with_all_its_lines_and_the_exit_code(room: Path, case: str) -> None:
    words, code = WRONG[case]
    told = said(*words)
    assert (told.code, told.result) == (code, None)
    assert told.err.splitlines() == [f"troupe: {line}" for line in texts(told.answer)]


def test_a_check_that_finds_something_wrong_is_a_result_with_mistakes(room: Path) -> None:
    told = said("check", "dcgan", "data=digits", "workers=4000", "batch_size=8000", "microbatch_size=2")
    assert told.code == ENVIRONMENT
    assert told.result["failed"] == len(told.answer["errors"]) == 1
    (found,) = [one for one in told.result["findings"] if one["code"] is not None]
    assert found["code"] == told.answer["errors"][0]["code"] == "no-room"


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [(KeyboardInterrupt(), STOPPED, "interrupted"), (ValueError("made up"), FAILED, "internal")],
    ids=["interrupt", "bug"],
)
def test_an_interrupt_and_a_bug_of_ours_are_objects_too_and_nothing_else_is_on_stdout(
    monkeypatch: pytest.MonkeyPatch, sentences: Sentences, error: BaseException, code: int, kind: str
) -> None:
    def ends(*words: Any) -> Answer:
        print("said by a library")
        raise error

    monkeypatch.setitem(verbs.VERBS, "env", verbs.Verb(ends))
    told = said("env")
    assert (told.code, told.result) == (code, None)
    assert [one["code"] for one in told.answer["errors"]] == [kind]
    assert str(error) in texts(told.answer)[0]
    if kind == "interrupted":  # a bug is told with its place
        sentences(texts(told.answer))
    assert told.err.startswith("said by a library\n")


class Cluster:
    """What Ray's client of jobs asks of a cluster: jobs end at once, checks are carried out here."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.printed: dict[str, str] = {}

    def submit_job(self, entrypoint: str, submission_id: str, metadata: Any = None, **more: Any) -> str:
        words = shlex.split(entrypoint)[3:]
        text = f"{PRINTED}{as_record(Answer(None, None, STOPPED, saved=True))}\n"
        if words[0] == "check":
            out = io.StringIO()
            del words[words.index("--address") :][:2]
            with redirect_stdout(out), redirect_stderr(out):
                main.command([word for word in words if word not in ("--address", "auto")])
            text = f"a line of Ray's\n{out.getvalue()}"
        self.printed[submission_id] = text
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id, metadata=metadata, status=SimpleNamespace(value="RUNNING"), start_time=1000,
            end_time=None, message="", driver_exit_code=None,
        )  # fmt: skip
        return submission_id

    def ended(self, job: str, state: str, code: int) -> None:
        self.jobs[job].status.value, self.jobs[job].driver_exit_code, self.jobs[job].end_time = state, code, 2000

    def ask(self, question: str, *words: Any) -> Any:
        (job,) = words or ("",)
        if question == "list_jobs":
            return list(self.jobs.values())
        if question == "get_job_logs":
            if self.jobs[job].status.value == "RUNNING":
                self.ended(job, "FAILED", 3)
            return self.printed[job]
        if question == "stop_job":
            return self.ended(job, "STOPPED", 130)
        if question == "get_job_status":
            return SimpleNamespace(value="SUCCEEDED")
        return self.jobs.pop(job) if question == "delete_job" else self.jobs[job]


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    one = object.__new__(dashboard.Dashboard)
    one.address, one.client = URL, cluster
    monkeypatch.setattr(one, "call", cluster.ask, raising=False)
    reach: Callable[[str], Any] = lambda address: one  # noqa: E731
    monkeypatch.setattr(dashboard, "reach", reach)
    monkeypatch.setattr(submission, "reach", reach)
    return cluster


SUBMIT = ("submit", "train", "dcgan", "data=digits", "--name", "run", "--runs-dir", "/shared/runs", "--address", URL)


def test_jobs_of_a_cluster(room: Path, head: Cluster) -> None:
    sent = said(*SUBMIT, "--skip-checks").result
    assert (sent["name"], sent["job"], sent["ended"]) == ("run", "run", None)
    assert sent["bytes"] > 100_000
    (job,) = said("jobs", "--address", URL).result["jobs"]
    assert (job["state"], job["began"], job["ended"], job["exit_code"]) == ("RUNNING", 1.0, None, None)
    stopped = said("stop", "run", "--address", URL)
    assert (stopped.code, stopped.result["saved"], stopped.result["job"]["exit_code"]) == (0, True, 130)
    logs = said("logs", "run", "--address", URL).result
    assert logs["logs"] == [{"rank": None, "text": PRINTED}]
    assert logs["job"]["state"] == "STOPPED"


def test_a_job_that_is_followed_ends_the_command_as_it_ended(room: Path, head: Cluster, sentences: Sentences) -> None:
    told = said(*SUBMIT, "--skip-checks", "--follow")
    assert (told.code, told.result["ended"]["state"]) == (3, "FAILED")
    assert [(one["code"], one["about"]) for one in told.answer["errors"]] == [("job-failed", "run")]
    sentences(texts(told.answer))
    assert "epoch 1\n" in told.err
    followed = said("logs", "run", "--address", URL, "--follow")
    assert (followed.code, followed.result["logs"][0]["text"]) == (3, PRINTED)


def test_what_a_cluster_finds_of_itself_comes_back_from_among_what_its_job_printed(room: Path, head: Cluster) -> None:
    words = ("check", "dcgan", "data=digits", "device=cpu", "--address", URL, "--runs-dir", str(room / "there"))
    found = said(*words)
    assert found.code == 0
    assert [one["what"] for one in found.result["findings"]] == ["versions", "room", *["this machine"] * 3]
    wrong = said(*words, "workers=4000", "batch_size=8000", "microbatch_size=2")
    assert (wrong.code, wrong.result["failed"]) == (ENVIRONMENT, 1)
    refused = said(*words[:1], "nobody", *words[2:])
    assert refused.result["findings"][0]["message"].startswith("nobody: no such family")
    assert refused.result["findings"][0]["code"] == "unknown-family"


EXAMPLES = re.findall(r"^## ([a-z]+).*?\n(.*?)(?=^## |\Z)", (DOCS / "json.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("verb", REQUESTS)
def test_the_documents_have_an_example_for_each_verb_that_is_as_the_schema_says(verb: str) -> None:
    (text,) = [text for name, text in EXAMPLES if name == verb]
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        valid(json.dumps({"troupe": "0", "verb": verb, "exit_code": 0, "result": json.loads(block), "errors": []}))


@pytest.mark.parametrize("verb", REQUESTS)
def test_help_has_the_schema_of_what_a_verb_takes(verb: str) -> None:
    named = ["dcgan"] if REQUESTS[verb].takes_settings() and verb not in ("sample", "submit") else []
    schema = said(verb, *named, "--help").result["arguments"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {*schema["properties"]} == {*REQUESTS[verb].fields("name", "option", "settings")}
    if named:
        rate = schema["properties"]["settings"]["properties"]["learning_rate"]
        assert (rate["type"], rate["exclusiveMinimum"]) == ("number", 0)
