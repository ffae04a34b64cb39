"""No switch that a caller has set decides a number, and all are put back."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentences import Sentences
from torch.utils._python_dispatch import TorchDispatchMode

from cluster import sample, train
from cluster.backend.process_pool import LocalGroup
from cluster.inspection.verify import train_quietly
from trainers.base.errors import CONFLICT, Abandoned, TroupeError
from trainers.drawing.decoration import Decorations
from trainers.run import Plan
from trainers.runtime import global_state
from trainers.storage import checkpoint
from trainers.storage.tensors import bits_of, named_tensors

# Torch's public switches that apply to a whole process or thread: where they are, and what decides about each.
# "put back": it is in switches.switches(). "thread": a new thread has it at its default. Anything else says why it
# cannot change what a run computes.
LOADS, SHOWN, SPEED = "it is about files that are read", "it changes what is shown", "it changes speed or memory"
KNOWN = {
    "torch.set_anomaly_enabled": "put back", "torch.set_autocast_cache_enabled": "thread",
    "torch.set_autocast_cpu_dtype": "thread", "torch.set_autocast_cpu_enabled": "thread",
    "torch.set_autocast_dtype": "thread", "torch.set_autocast_enabled": "thread",
    "torch.set_autocast_gpu_dtype": "thread", "torch.set_autocast_ipu_dtype": "thread",
    "torch.set_autocast_ipu_enabled": "thread", "torch.set_autocast_xla_dtype": "thread",
    "torch.set_autocast_xla_enabled": "thread", "torch.set_default_device": "thread",
    "torch.set_default_dtype": "put back", "torch.set_default_tensor_type": "put back",
    "torch.set_deterministic_debug_mode": "put back", "torch.set_float32_matmul_precision": "put back",
    "torch.set_flush_denormal": "thread", "torch.set_grad_enabled": "thread",
    "torch.set_num_interop_threads": "the engine starts no such work", "torch.set_num_threads": "a run sets its own",
    "torch.set_printoptions": SHOWN, "torch.set_rng_state": "a run seeds its own", "torch.set_warn_always": SHOWN,
    "torch.use_deterministic_algorithms": "put back",
    "torch.enable_grad": "thread", "torch.autograd.enable_grad": "thread",
    "torch.autograd.grad_mode.enable_grad": "thread",
    "torch.autograd.enforce_grad_layout_policy": "thread",
    "torch.autograd.graph.allow_mutation_on_saved_tensors": "thread",
    "torch.autograd.graph.set_override_stale_capture_stream": SPEED, "torch.compiler.allow_in_graph": SPEED,
    "torch.autograd.set_detect_anomaly": "put back", "torch.autograd.set_grad_enabled": "thread",
    "torch.autograd.set_multithreading_enabled": "thread",
    "torch.autograd.grad_mode.set_grad_enabled": "thread",
    "torch.autograd.grad_mode.set_multithreading_enabled": "thread",
    "torch.autograd.grad_mode.enforce_grad_layout_policy": "thread",
    "torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch": SHOWN,
    "torch.__future__.set_overwrite_module_params_on_conversion": "put back",
    "torch.__future__.set_swap_module_params_on_conversion": "put back",
    "torch.utils.deterministic.fill_uninitialized_memory": "put back",
    "torch.compiler.set_default_backend": "a run that compiles names its own",
    "torch.compiler.set_stance": "a run that compiles sets it",
    "torch.compiler.set_enable_guard_collectives": SPEED,
    "torch.cuda.set_device": "thread", "torch.cuda.set_per_process_memory_fraction": SPEED,
    "torch.cuda.set_rng_state": "a run seeds its own", "torch.cuda.set_rng_state_all": "a run seeds its own",
    "torch.cuda.set_stream": "thread", "torch.cuda.set_sync_debug_mode": SHOWN, "torch.cuda.use_mem_pool": SPEED,
    "torch.cuda.tunable.enable": "put back",
    **dict.fromkeys(
        [f"torch.cuda.tunable.set_{name}" for name in (
            "cublaslt_requested_algo_count", "filename", "max_tuning_duration", "max_tuning_iterations",
            "numerical_check_tolerances", "rotating_buffer_size")],
        "it counts only while tunable is on",
    ),
    "torch.nn.attention.activate_flash_attention_impl": "refused",
    "torch.jit.set_fusion_strategy": "put back", "torch.jit.enable_onednn_fusion": "put back",
    "torch.jit.set_module": "it names modules",
    "torch.backends.fp32_precision": "put back",
    "torch.backends.python_native.enable_dispatch_keys": "refused",
    "torch.backends.python_native.enable_operations": "refused",
    **{f"torch.backends.{name}.fp32_precision": "put back" for name in global_state.PRECISIONS},
    "torch.backends.cuda.matmul.allow_tf32": "it is float32_matmul_precision, by another name",
    **{f"torch.backends.cuda.matmul.{name}": "put back"
       for name in ("allow_bf16_reduced_precision_reduction", "allow_fp16_accumulation",
                    "allow_fp16_reduced_precision_reduction", "prefer_cublaslt_grouped_gemm")},
    "torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp": "put back",
    "torch.backends.cuda.enable_cudnn_sdp": "put back", "torch.backends.cuda.enable_flash_sdp": "put back",
    "torch.backends.cuda.enable_math_sdp": "put back", "torch.backends.cuda.enable_mem_efficient_sdp": "put back",
    "torch.backends.cuda.preferred_blas_library": "put back",
    "torch.backends.cuda.preferred_linalg_library": "put back",
    "torch.backends.cuda.preferred_rocm_fa_library": "put back",
    "torch.backends.cudnn.allow_tf32": "put back", "torch.backends.cudnn.benchmark": "put back",
    "torch.backends.cudnn.benchmark_limit": "put back", "torch.backends.cudnn.depthwise_kernel": "put back",
    "torch.backends.cudnn.deterministic": "put back", "torch.backends.cudnn.enabled": "put back",
    "torch.backends.cudnn.fp32_precision": "put back",
    "torch.backends.mha.set_fastpath_enabled": "put back", "torch.backends.miopen.immediate": "put back",
    "torch.backends.mkldnn.allow_tf32": "put back", "torch.backends.mkldnn.deterministic": "put back",
    "torch.backends.mkldnn.enabled": "put back", "torch.backends.mkldnn.fp32_precision": "put back",
}  # fmt: skip


def public_switches() -> Iterator[str]:
    """By their names: set_..., use_..., enable_..., allow_..., preferred_..., and attributes that set something."""
    import torch.backends.python_native
    import torch.compiler
    import torch.cuda.tunable
    import torch.nn.attention

    roots = [torch, torch.autograd, torch.autograd.grad_mode, torch.autograd.graph, torch.__future__, torch.compiler,
             torch.cuda, torch.cuda.tunable, torch.nn.attention, torch.jit]  # fmt: skip
    roots += [module for name, module in sys.modules.items() if name.startswith("torch.backends") and "._" not in name]
    for module in roots:
        attributes = {**vars(type(module)), **vars(module)}
        for name, value in attributes.items():
            begins = name.startswith(("set_", "use_", "enable", "allow_", "preferred_", "activate_", "enforce_"))
            kind = type(value).__name__
            if (begins and callable(value) and name != "set_flags") or kind == "ContextProp":
                yield f"{module.__name__}.{name}"
            elif kind in ("_FP32Precision", "cuBLASModule"):  # which name their attributes nowhere else
                for inside in re.findall(r'name == "(\w+)"', inspect.getsource(type(value).__setattr__)):
                    yield f"{module.__name__}.{name}.{inside}"
    yield "torch.utils.deterministic.fill_uninitialized_memory"


def test_torch_has_no_switches_that_nobody_has_looked_at() -> None:
    assert set(public_switches()) - KNOWN.keys() == set(), (
        "decide about them in KNOWN, and put them into trainers/runtime/global_state.py"
    )


OTHER: dict[str, Any] = {
    "default_dtype": torch.float64, "deterministic_algorithms": (1, True), "detect_anomaly": (True, False),
    "float32_matmul_precision": "medium", "backends.cudnn.benchmark_limit": 3,
    "backends.cudnn.depthwise_kernel": "cudnn", "backends.quantized.engine": "qnnpack",
    "jit.fusion_strategy": [("STATIC", 1)],
    "backends.cuda.preferred_linalg_library": "magma", "backends.cuda.preferred_blas_library": "cublaslt",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": (False, True),
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": (False, True),
}  # fmt: skip


def another(switch: global_state.Switch) -> Any:
    """Another value than its default; None where this machine knows no other."""
    if switch.name in OTHER:
        return OTHER[switch.name]
    if switch.name.endswith("fp32_precision"):
        return "ieee"
    return not switch.default if isinstance(switch.default, bool) else None


def state() -> dict[str, str]:
    """What torch tells of every switch, in the words of whoever set them."""

    def told(read: Callable[[], Any]) -> str:
        try:
            return str(read())
        except RuntimeError as error:  # older and newer switches of one thing disagree
            return str(error)[:60]

    precisions = [f"backends.{name}.fp32_precision" for name in global_state.PRECISIONS]
    found = {name: told(lambda name=name: eval(f"torch.{name}")) for name in (*precisions, "backends.cudnn.allow_tf32")}
    found["float32_matmul_precision"] = told(torch.get_float32_matmul_precision)
    plain = [one for one in global_state.switches() if one.name not in found]
    return found | {one.name: told(one.read) for one in plain}


def told() -> str:
    return json.dumps(state())


@pytest.fixture(scope="module")
def untouched() -> dict[str, str]:
    """What a fresh process has."""
    code = (
        "import sys; sys.path[:0] = ['tests/unit', 'tests']; import test_switches as t; print(t.json.dumps(t.state()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})  # fmt: skip
    return dict(json.loads(answer.stdout.splitlines()[-1]))


@pytest.fixture
def put_back() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with global_state.at_defaults():
            yield


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("name", sorted({one.name for one in global_state.switches()}))
def test_a_switch_that_a_caller_has_set_is_as_in_a_fresh_process_and_put_back(
    name: str, untouched: dict[str, str]
) -> None:
    switch = next(one for one in global_state.switches() if one.name == name)
    wanted = another(switch)
    if wanted is None:
        pytest.skip("no other value of it is known here")
    try:
        switch.write(wanted)
    except RuntimeError as error:
        pytest.skip(f"cannot be set here ({str(error).splitlines()[0][:60]})")
    before = state()
    found = global_state.with_default_globals(state)()
    assert {key: value for key, value in found.items() if value != untouched[key]} == {}
    assert state() == before


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("newer", ["backends.fp32_precision", "backends.mkldnn.matmul.fp32_precision"])
def test_older_and_newer_switches_that_disagree_are_put_back(newer: str, untouched: dict[str, str]) -> None:
    torch.set_float32_matmul_precision("high")
    next(one for one in global_state.switches() if one.name == newer).write("bf16")
    before = state()
    assert global_state.with_default_globals(state)() == untouched
    assert state() == before


def looked() -> tuple[Any, ...]:
    small = torch.tensor([1e-310], dtype=torch.float64, device="cpu")
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"), torch.get_default_device().type, float(small * 1.0) == 0.0,
        np.geterr()["over"], torch._C._len_torch_dispatch_stack(),
        [one for one in warnings.filters if one[0] == "error"],
    )  # fmt: skip


class Counted(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a mode of the caller's saw what a run computes")


def test_modes_of_the_callers_thread_do_not_count() -> None:
    before = looked()
    with ExitStack() as held:
        held.callback(torch.set_flush_denormal, False)
        held.callback(torch.set_autocast_dtype, "cpu", torch.bfloat16)
        held.callback(torch.set_default_device, None)
        held.enter_context(np.errstate(all="raise"))
        held.enter_context(warnings.catch_warnings())
        held.enter_context(torch.autocast("cpu", torch.float16))
        held.enter_context(torch.inference_mode())
        warnings.simplefilter("error")
        torch.set_flush_denormal(True)
        torch.set_default_device("meta")
        inside = looked()
        held.enter_context(Counted())
        found = global_state.with_default_globals(looked)()
    assert inside[:7] == (False, True, True, torch.float16, "meta", True, "raise")
    assert found[:-1] == before[:-1]
    assert found[-1] == []


def test_nothing_is_said_where_switches_are_put_back() -> None:
    """As torch does of those that it calls deprecated, to whoever runs `verify`, which computes in float64 too."""
    torch.set_warn_always(True)  # it says each thing once, as a rule
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            global_state.with_default_globals(torch.set_default_dtype)(torch.float64)
    finally:
        torch.set_warn_always(False)
    assert [str(one.message) for one in said] == []


def test_pythons_and_numpys_generators_are_seeded_and_put_back() -> None:
    def drawn() -> tuple[float, float]:
        return random.random(), float(np.random.random())

    random.seed(3)
    np.random.seed(3)
    first = global_state.with_default_globals(drawn)()
    after = drawn()
    random.seed(3)
    np.random.seed(3)
    assert drawn() == after
    assert global_state.with_default_globals(drawn)() == first


def test_a_hook_for_all_modules_is_refused_by_its_name(sentences: Sentences) -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, given, found: found)
    try:
        with pytest.raises(TroupeError) as refused:
            global_state.with_default_globals(looked)()
    finally:
        handle.remove()
    assert refused.value.code == CONFLICT
    assert [(one.code, one.about) for one in refused.value.problems] == [
        ("global-switch", "torch.nn.modules.module.register_module_forward_hook")
    ]
    sentences(refused.value.problems)
    global_state.with_default_globals(looked)()


def test_a_kernel_that_is_switched_off_is_refused(sentences: Sentences) -> None:
    native = torch.backends.python_native
    native.triton.enabled = False
    try:
        with pytest.raises(TroupeError) as refused:
            global_state.with_default_globals(looked)()
    finally:
        native.triton.enabled = True
    assert refused.value.code == CONFLICT
    assert [(one.code, one.about) for one in refused.value.problems] == [
        ("global-switch", "torch.backends.python_native")
    ]
    sentences(refused.value.problems)


def test_what_comes_while_a_function_computes_ends_it() -> None:
    begun, ended = threading.Event(), []

    def endless() -> None:
        begun.set()
        try:
            while True:
                pass
        except BaseException as error:
            ended.append(type(error))
            raise

    threading.Thread(target=lambda: (begun.wait(), signal.raise_signal(signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt):
        global_state.with_default_globals(endless)()
    assert ended == [KeyboardInterrupt]
    global_state.with_default_globals(looked)()


def test_an_error_that_comes_meanwhile_is_taken_for_no_failure_of_a_decoration() -> None:
    begun, said, ended = threading.Event(), list[str](), list[type[BaseException]]()

    def endless() -> None:
        try:
            with Decorations(said.append).making("curves.png"):
                begun.set()
                while True:
                    pass
        except BaseException as error:
            ended.append(type(error))
            raise

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, late)
    threading.Thread(target=lambda: (begun.wait(), signal.raise_signal(signal.SIGUSR1))).start()
    try:
        with pytest.raises(TimeoutError):
            global_state.with_default_globals(endless)()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (said, ended) == ([], [Abandoned])


def test_a_thread_that_cannot_be_started_keeps_nobody_else_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            global_state.with_default_globals(looked)()
    global_state.with_default_globals(looked)()


TINY: dict[str, Any] = {"data": "digits", "image_size": 16, "width": 4, "latent_dim": 8, "batch_size": 8,
                        "microbatch_size": 4, "steps": 2, "device": "cpu", "evaluate_every": 0}  # fmt: skip


def tensors(path: str | Path) -> list[Any]:
    return [(name, bits_of(tensor).tolist()) for name, tensor in named_tensors(checkpoint.load(Path(path))["networks"])]


def test_a_run_and_its_samples_in_a_process_that_has_set_everything_are_those_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: LocalGroup
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = train("dcgan", name="plain", **TINY)
    sample("plain", count=4, out="plain.png")
    with ExitStack() as held:
        held.enter_context(global_state.at_defaults())
        held.callback(torch.set_default_device, None)
        torch.backends.mkldnn.enabled = False
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.autograd.set_detect_anomaly(True)
        held.enter_context(torch.autocast("cpu"))
        held.enter_context(torch.no_grad())
        torch.set_default_device("meta")
        threads = torch.get_num_threads()
        odd = train("dcgan", name="odd", **TINY)
        sample("odd", count=4, out="odd.png")
        assert not torch.backends.mkldnn.enabled
        assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float64, threads)
    assert tensors(odd["checkpoint"]) == tensors(plain["checkpoint"])
    assert Path("odd.png").read_bytes() == Path("plain.png").read_bytes()
    settings = json.loads(Path("runs/plain/settings.json").read_text())["settings"]
    plan = Plan("dcgan", {**settings, "workers": 2}, tmp_path / "two", tmp_path)
    pool.run(train_quietly, plan, workers=2)
    assert tensors(tmp_path / "two/checkpoints/step_00000002") == tensors(plain["checkpoint"])


SETTER = """
import torch
from trainers.families.dcgan.training import DCGAN


class Setter(DCGAN):
    def networks(self):
        torch.backends.mkldnn.enabled = False
        return super().networks()

    def phases(self, step):
        assert not torch.backends.mkldnn.enabled
        assert torch.get_float32_matmul_precision() == "highest"
        return super().phases(step)


torch.set_float32_matmul_precision("medium")
"""


def test_what_a_family_sets_is_set_in_every_worker_and_put_back(tmp_path: Path, pool: LocalGroup) -> None:
    folder = tmp_path / "families" / "setter"
    folder.mkdir(parents=True)
    config = "from trainers.families.dcgan.config import Config as Of\n\n\nclass Config(Of):\n    summary = 'sets'\n"
    (folder / "config.py").write_text(config)
    (folder / "training.py").write_text(SETTER)
    words: dict[str, Any] = {"families": [tmp_path / "families"], "runs_dir": tmp_path / "runs"}
    first = train("setter", name="first", **words, **TINY)
    second = train("setter", name="second", **words, **TINY)  # its module is imported already
    assert torch.backends.mkldnn.enabled
    assert torch.get_float32_matmul_precision() == "highest"
    settings = json.loads((tmp_path / "runs/first/settings.json").read_text())["settings"]
    plan = Plan("setter", {**settings, "workers": 2}, tmp_path / "two", tmp_path, (tmp_path / "families",))
    pool.run(train_quietly, plan, workers=2)
    for run in (second["checkpoint"], tmp_path / "two/checkpoints/step_00000002"):
        assert tensors(run) == tensors(first["checkpoint"])
