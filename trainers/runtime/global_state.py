"""The global switches of torch, numpy and Python that can change a number: at their defaults while a run computes.

A run can be called from a user's process, in which anything can be set. Most thread-local switches (grad and inference
mode, autocast, default device, modes, saved-tensor hooks, numpy's error state) are at their defaults in a new thread,
so `with_default_globals` computes in one. The process-wide switches are set here, and restored.
`tests/unit/test_switches.py` fails when torch has new ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from trainers.base.errors import CONFLICT, Abandoned, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

P = ParamSpec("P")
R = TypeVar("R")

SEED = 0  # of Python's and numpy's own generators, which families should not use
COMPUTING = threading.Lock()  # held by the thread that computes
inside = threading.local()  # `.yes` in that thread


class Switch(NamedTuple):
    """A process-wide switch: its name, its default, and how to read and set it."""

    name: str
    default: Any
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def with_default_globals(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, run in a new thread with every switch at its default.

    Raises TroupeError (exit code 4) if another thread of this process computes, or if a switch that cannot be restored
    is not at its default. An exception in the meantime, such as KeyboardInterrupt, ends the function at its next
    bytecode; the caller does not wait if that takes long, as in an operation of torch.
    """

    @functools.wraps(function)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        nested = getattr(inside, "yes", False)  # called by the computing thread, which waits for it
        if not nested:
            refuse_others()
            if not COMPUTING.acquire(blocking=False):
                hint = "wait until it ends, or use a separate process"
                raise TroupeError(
                    Problem("held", reason="another run is training in this process", hint=hint), CONFLICT
                )
        return _Computation(lambda: function(*arguments, **keywords), function.__name__, nested).result()

    return called


class _Computation(Generic[R]):
    """A function without arguments, running in its own thread; unless `nested` in another one, it releases COMPUTING
    at its end."""

    def __init__(self, function: Callable[[], R], name: str, nested: bool) -> None:
        self.function, self.nested = function, nested
        self.results: list[R] = []
        self.errors: list[BaseException] = []
        self.abandoned, self.done = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._compute, name=f"troupe {name}", daemon=True)

    def _compute(self) -> None:
        inside.yes = True
        try:
            with at_defaults():
                if not self.abandoned.is_set():
                    self.results.append(self.function())
        except BaseException as error:
            self.errors.append(error)
        finally:
            _forget_fonts()
            if not self.nested:
                COMPUTING.release()
            self.done.set()

    def result(self) -> R:
        """What the function returns or raises; an exception that interrupts the wait is raised in its thread too."""
        try:
            self.thread.start()
            while not self.done.wait(WAITS.poll_thread) and self.thread.is_alive():
                pass  # not `join`: if it is interrupted, Python 3.11 considers the thread ended
        except BaseException as error:
            self._abandon(error)
            raise
        if self.errors:
            raise self.errors[0]
        return self.results[0]

    def _abandon(self, error: BaseException) -> None:
        """Stop waiting for the thread: end it, or release the lock if it never started."""
        self.abandoned.set()
        if self.thread.is_alive():
            _raise_in(self.thread, KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else Abandoned)
            self.done.wait(WAITS.end_of_thread)
        elif isinstance(error, RuntimeError) and not self.nested:  # it could not be started
            COMPUTING.release()


def _forget_fonts() -> None:
    """Close the fonts that matplotlib has opened for this thread: it keeps them for each thread that drew a text."""
    fonts: Any = sys.modules.get("matplotlib.font_manager")
    opened: Any = getattr(fonts, "_get_font", None)
    if hasattr(opened, "cache_clear"):
        opened.cache_clear()


def _raise_in(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Raise an exception in another thread, at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind))


@contextlib.contextmanager
def at_defaults() -> Iterator[None]:
    """Inside, every process-wide switch is at its default; all are restored afterwards, whatever was set inside."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(legacy=False)
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        stack.callback(torch.set_num_threads, threads)
        stack.callback(np.random.set_state, states[1])
        stack.callback(random.setstate, states[0])
        warnings.filters[:] = [one for one in warnings.filters if one[0] != "error"]  # type: ignore[index]
        torch.set_flush_denormal(False)  # of this thread, which inherits it
        for switch in switches():
            stack.callback(switch.write, switch.read())
            switch.write(switch.default)
        random.seed(SEED)
        np.random.seed(SEED)
        yield


def refuse_others() -> None:
    """Raise TroupeError (exit code 4) if something that cannot be restored could change what a run computes: hooks on
    all modules or optimizers, and disabled kernels. They belong to the caller, and no worker has them."""
    import torch
    from torch.nn.modules import module
    from torch.optim import optimizer

    hooked = "a global hook in this process changes what runs compute"
    found = [
        Problem("global-switch", f"torch.{where}.{name}", hooked, "remove it first")
        for where, there, names in (
            ("nn.modules.module", module, MODULE_HOOKS),
            ("optim.optimizer", optimizer, OPTIMIZER_HOOKS),
        )
        for name, registry in names.items()
        if getattr(there, registry, None)
    ]
    kernels: Any = getattr(getattr(torch.backends, "python_native", None), "_get_filter_state", None)
    if kernels is not None and any(vars(kernels()).values()):
        reason = "some kernels are switched off in this process, which changes what runs compute"
        found.append(Problem("global-switch", "torch.backends.python_native", reason, "switch them on first"))
    attention: Any = sys.modules.get("torch.nn.attention")
    chosen = getattr(attention, "current_flash_attention_impl", lambda: None)()
    if chosen is not None:
        reason, hint = f"{chosen} is selected in this process only", "call restore_flash_attention_impl first"
        found.append(Problem("global-switch", "torch.nn.attention.activate_flash_attention_impl", reason, hint))
    if found:
        raise TroupeError(found, CONFLICT)


MODULE_HOOKS = {
    "register_module_forward_pre_hook": "_global_forward_pre_hooks",
    "register_module_forward_hook": "_global_forward_hooks",
    "register_module_full_backward_pre_hook": "_global_backward_pre_hooks",
    "register_module_full_backward_hook": "_global_backward_hooks",
    "register_module_buffer_registration_hook": "_global_buffer_registration_hooks",
    "register_module_module_registration_hook": "_global_module_registration_hooks",
    "register_module_parameter_registration_hook": "_global_parameter_registration_hooks",
}
OPTIMIZER_HOOKS = {
    "register_optimizer_step_pre_hook": "_global_optimizer_pre_hooks",
    "register_optimizer_step_post_hook": "_global_optimizer_post_hooks",
}


@functools.cache
def switches() -> tuple[Switch, ...]:
    """Every process-wide switch, in the order in which they are set; they are restored in reverse order.

    An unset precision falls back to that of its backend, then to that of all backends, so more general ones come first.
    """
    import torch

    cuda, cudnn, mkldnn, mha = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn, torch.backends.mha
    nnpack: Any = torch.backends.nnpack
    found: list[Switch | None] = [
        Switch("default_dtype", torch.float32, torch.get_default_dtype, torch.set_default_dtype),
        Switch("default_tensor_type", "torch.FloatTensor", lambda: torch.empty(0).type(), _set_tensor_type),
        Switch("deterministic_algorithms", (0, False), _deterministic, lambda to: _set_deterministic(*to)),
        _attribute("utils.deterministic.fill_uninitialized_memory", True),
        Switch("detect_anomaly", (False, True), _anomaly, lambda to: torch.autograd.set_detect_anomaly(*to)),
        _attribute("backends.fp32_precision", "none"),
        _attribute("backends.cudnn.fp32_precision", "none"),
        Switch("backends.mkldnn.fp32_precision", "none", lambda: mkldnn.fp32_precision, _set_mkldnn_precision),
        *(_attribute(f"backends.{name}.fp32_precision", "none") for name in PRECISIONS),
        Switch("backends.cudnn.allow_tf32", True, _cudnn_allows, lambda to: setattr(cudnn, "allow_tf32", to)),
        Switch("float32_matmul_precision", "highest", _matmul_precision, torch.set_float32_matmul_precision),
        *(_attribute(f"backends.{name}.fp32_precision", value) for name, value in PRECISIONS.items()),
        *(_attribute(f"backends.{name}", value) for name, value in ATTRIBUTES.items()),
        _attribute("backends.opt_einsum.enabled", torch.backends.opt_einsum.is_available()),
        *(_reductions(cuda.matmul, number) for number in ("fp16", "bf16")),
        *(
            Switch(f"backends.cuda.{name}", True, getattr(cuda, f"{name}_enabled"), getattr(cuda, f"enable_{name}"))
            for name in ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
        ),
        Switch(
            "backends.cuda.fp16_bf16_reduction_math_sdp",
            False,
            cuda.fp16_bf16_reduction_math_sdp_allowed,
            cuda.allow_fp16_bf16_reduction_math_sdp,
        ),
        *(
            _preferred(cuda, name)
            for name in ("preferred_linalg_library", "preferred_blas_library", "preferred_rocm_fa_library")
        ),
        Switch("backends.mha.fastpath", True, mha.get_fastpath_enabled, mha.set_fastpath_enabled),
        Switch("backends.nnpack", True, _nnpack, nnpack.set_flags),
        _attribute("backends.quantized.engine", _engine()),
        *(
            Switch(
                f"__future__.{name}",
                False,
                getattr(torch.__future__, f"get_{name}"),
                getattr(torch.__future__, f"set_{name}"),
            )
            for name in ("overwrite_module_params_on_conversion", "swap_module_params_on_conversion")
        ),
        Switch("jit.fusion_strategy", FUSION, _fusion, _set_fusion),
        Switch("jit.onednn_fusion", False, torch.jit.onednn_fusion_enabled, torch.jit.enable_onednn_fusion),
        _tunable(torch.cuda),
    ]
    return tuple(switch for switch in found if switch is not None)


PRECISIONS = {
    "cudnn.conv": "tf32", "cudnn.rnn": "tf32", "cuda.matmul": "none", "mkldnn.matmul": "none", "mkldnn.conv": "none",
    "mkldnn.rnn": "none",
}  # fmt: skip
ATTRIBUTES = {
    "cudnn.enabled": True, "cudnn.deterministic": False, "cudnn.benchmark": False, "cudnn.benchmark_limit": 10,
    "cudnn.depthwise_kernel": "auto", "miopen.immediate": False, "mkldnn.enabled": True, "mkldnn.deterministic": False,
    "mkldnn.allow_tf32": None, "opt_einsum.strategy": "auto",
    "cuda.matmul.allow_fp16_accumulation": False, "cuda.matmul.prefer_cublaslt_grouped_gemm": False,
}  # fmt: skip


def _attribute(path: str, default: Any) -> Switch | None:
    """A switch that is an attribute of torch; None if this torch does not have it."""
    import torch

    of: Any = torch
    *way, name = path.split(".")
    try:
        for part in way:
            of = getattr(of, part)
        now = getattr(of, name)
    except (AttributeError, RuntimeError):
        return None
    if now is None or default is None:  # the backend is not built in
        return None
    return Switch(path, default, lambda: getattr(of, name), lambda to: setattr(of, name, to))


def _set_tensor_type(name: str) -> None:
    """Set the device that it implies, while the default dtype is float32; torch warns that it is deprecated."""
    import torch

    if torch.empty(0).type() != name:
        with warnings.catch_warnings(action="ignore"):
            torch.set_default_tensor_type(name)


FUSION = [("STATIC", 2), ("DYNAMIC", 10)]  # of scripted networks


def _fusion() -> Any:
    now = _set_fusion(FUSION)
    _set_fusion(now)
    return now


def _set_fusion(strategy: Any) -> Any:
    """Set it and return the previous value; torch warns each time that it is deprecated."""
    import torch

    with warnings.catch_warnings(action="ignore"):
        return torch.jit.set_fusion_strategy(strategy)


def _deterministic() -> tuple[int, bool]:
    """The mode, and whether compiled code follows it, which torch stores separately."""
    import torch

    compiling: Any = sys.modules.get("torch._inductor.config")
    return torch.get_deterministic_debug_mode(), compiling is not None and bool(compiling.deterministic)


def _set_deterministic(mode: int, compiled: bool) -> None:
    import torch

    torch.set_deterministic_debug_mode(mode)
    compiling: Any = sys.modules.get("torch._inductor.config")
    if compiling is not None:
        compiling.deterministic = compiled


def _anomaly() -> tuple[bool, bool]:
    import torch

    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_mkldnn_precision(value: str) -> None:
    import torch

    mkldnn: Any = torch.backends.mkldnn
    mkldnn.set_flags(_fp32_precision=value)  # its attribute would set that of all backends


def _read_as(read: Callable[[], Any], candidates: tuple[dict[str, str], ...]) -> Any:
    """The value of an older switch, which torch reports only if the newer ones that it stands for agree with it."""
    import torch

    for precisions in candidates:
        for name, value in precisions.items():
            backend, _, operation = name.partition(".")
            getattr(getattr(torch.backends, backend), operation).fp32_precision = value
        with contextlib.suppress(RuntimeError):
            return read()
    raise AssertionError("a switch of float32's precision cannot be read")


def _cudnn_allows() -> bool:
    import torch

    values = [{"cudnn.conv": value, "cudnn.rnn": value} for value in ("tf32", "none")]
    return bool(_read_as(lambda: torch.backends.cudnn.allow_tf32, tuple(values)))


def _matmul_precision() -> str:
    import torch

    pairs = (("ieee", "ieee"), ("tf32", "tf32"), ("tf32", "bf16"))
    values = [{"cuda.matmul": one, "mkldnn.matmul": other} for one, other in pairs]
    return str(_read_as(torch.get_float32_matmul_precision, tuple(values)))


def _reductions(matmul: Any, number: str) -> Switch:
    name = f"allow_{number}_reduced_precision_reduction"

    def read() -> tuple[bool, bool]:
        return getattr(matmul, name), getattr(matmul, f"{name}_split_k", True)

    return Switch(f"backends.cuda.matmul.{name}", (True, True), read, lambda to: setattr(matmul, name, to))


def _preferred(cuda: Any, name: str) -> Switch:
    prefer = getattr(cuda, name)
    return Switch(f"backends.cuda.{name}", "default", prefer, prefer)


def _nnpack() -> bool:
    import torch

    nnpack: Any = torch.backends.nnpack
    (enabled,) = nnpack.set_flags(True)
    nnpack.set_flags(enabled)
    return bool(enabled)


def _engine() -> str | None:
    """The default quantization engine of torch."""
    import torch

    known = torch.backends.quantized.supported_engines
    return next((name for name in ("x86", "fbgemm", "qnnpack", "none") if name in known), None)


def _tunable(cuda: Any) -> Switch | None:
    """Whether matrix products are timed to select the fastest kernel: on GPUs only."""
    if not cuda.is_available():
        return None
    return Switch("cuda.tunable", False, cuda.tunable.is_enabled, cuda.tunable.enable)
