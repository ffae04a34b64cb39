"""The global switches of torch, numpy and Python that can change a number: at their defaults while a run computes.

A run may be called from somebody's process, in which anything may have been set. Most switches that a thread has of its
own (grad and inference mode, autocast, default device, modes, hooks of saved tensors, numpy's error state) are at their
defaults in a new thread, so `fresh` computes in one. The switches of the whole process are set here, and put back.
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

from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

P = ParamSpec("P")
R = TypeVar("R")

SEED = 0  # of Python's and numpy's own generators, which families are asked not to use
COMPUTING = threading.Lock()  # held by the thread that computes
inside = threading.local()  # `.yes` in that thread


class Abandoned(BaseException):
    """Nobody waits for what computes any more. No Exception, which something on its way might take for a failure."""


class Switch(NamedTuple):
    """A switch of the whole process: what it is called, its default, and how it is read and set."""

    name: str
    default: Any
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def fresh(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, in a thread of its own, in which every switch is at its default.

    Raises TroupeError: exit code 4 where another thread of this process computes, or where a switch that cannot be
    put back is not at its default. An exception that comes meanwhile, such as KeyboardInterrupt, ends the function at
    its next bytecode; where that takes long, as in an operation of torch, nobody waits for it.
    """

    @functools.wraps(function)
    def called(*arguments: P.args, **words: P.kwargs) -> R:
        nested = getattr(inside, "yes", False)  # called by what computes, which waits for it
        if not nested:
            refuse_others()
            if not COMPUTING.acquire(blocking=False):
                hint = "wait until it ends, or use a separate process"
                raise TroupeError(Problem("held", reason="another run is training in this process", hint=hint), CONFLICT)
        return _Computation(lambda: function(*arguments, **words), function.__name__, nested).result()

    return called


class _Computation(Generic[R]):
    """A function without arguments, under way in a thread of its own; unless `nested` in another one, it releases
    COMPUTING at its end."""

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
        """What the function returns or raises; an exception that comes here meanwhile is raised in its thread too."""
        try:
            self.thread.start()
            while not self.done.wait(WAITS.look_at_thread) and self.thread.is_alive():
                pass  # and no `join`: where that is interrupted, Python 3.11 takes the thread for one that has ended
        except BaseException as error:
            self._abandon(error)
            raise
        if self.errors:
            raise self.errors[0]
        return self.results[0]

    def _abandon(self, error: BaseException) -> None:
        """Nobody waits for the thread any more: end it, or release what it never took over."""
        self.abandoned.set()
        if self.thread.is_alive():
            _raise_in(self.thread, Abandoned if isinstance(error, Exception) else type(error))
            self.done.wait(WAITS.end_of_thread)
        elif isinstance(error, RuntimeError) and not self.nested:  # it could not be started
            COMPUTING.release()


def _forget_fonts() -> None:
    """Close the fonts that matplotlib has opened for this thread: it keeps them for each that ever drew a text."""
    fonts: Any = sys.modules.get("matplotlib.font_manager")
    opened: Any = getattr(fonts, "_get_font", None)
    if hasattr(opened, "cache_clear"):
        opened.cache_clear()


def _raise_in(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Raise an exception in another thread, at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind))


@contextlib.contextmanager
def at_defaults() -> Iterator[None]:
    """Inside, every switch of the process is at its default; all are as before afterwards, whatever was set inside."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(legacy=False)
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as held, warnings.catch_warnings():
        held.callback(torch.set_num_threads, threads)
        held.callback(np.random.set_state, states[1])
        held.callback(random.setstate, states[0])
        warnings.filters[:] = [one for one in warnings.filters if one[0] != "error"]  # type: ignore[index]
        torch.set_flush_denormal(False)  # of this thread, which inherits it
        for switch in switches():
            held.callback(switch.write, switch.read())
            switch.write(switch.default)
        random.seed(SEED)
        np.random.seed(SEED)
        yield


def refuse_others() -> None:
    """Raise TroupeError (exit code 4) where what cannot be put back could change what a run computes: hooks on all
    modules or optimizers, and kernels that were switched off. They are their caller's, and in no worker."""
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
    """Every switch of the process, in the order in which they are set; they are put back in the other one.

    A precision that is not set is that of its backend, and that of all backends: so the more general ones come first.
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
    """A switch that is an attribute of torch; None where this torch has no such one."""
    import torch

    of: Any = torch
    *way, name = path.split(".")
    try:
        for part in way:
            of = getattr(of, part)
        now = getattr(of, name)
    except (AttributeError, RuntimeError):
        return None
    if now is None or default is None:  # of a backend that is not built in
        return None
    return Switch(path, default, lambda: getattr(of, name), lambda to: setattr(of, name, to))


def _set_tensor_type(name: str) -> None:
    """Set the device that it stands for, while the default dtype is float32; torch says that it is deprecated."""
    import torch

    if torch.empty(0).type() != name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_default_tensor_type(name)


FUSION = [("STATIC", 2), ("DYNAMIC", 10)]  # of scripted networks


def _fusion() -> Any:
    now = _set_fusion(FUSION)
    _set_fusion(now)
    return now


def _set_fusion(strategy: Any) -> Any:
    """Set it, and tell what was before; torch says each time that it is deprecated."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.set_fusion_strategy(strategy)


def _deterministic() -> tuple[int, bool]:
    """The mode, and whether what is compiled follows it, which torch keeps apart."""
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
    mkldnn.set_flags(_fp32_precision=value)  # its attribute sets that of all backends


def _read_as(read: Callable[[], Any], candidates: tuple[dict[str, str], ...]) -> Any:
    """What an older switch is at, which torch tells only where the newer ones, that it stands for, agree with it."""
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
    """The engine of quantized numbers that torch takes where nobody chooses one."""
    import torch

    known = torch.backends.quantized.supported_engines
    return next((name for name in ("x86", "fbgemm", "qnnpack", "none") if name in known), None)


def _tunable(cuda: Any) -> Switch | None:
    """Whether products of matrices are timed, and the fastest way taken: on GPUs only."""
    if not cuda.is_available():
        return None
    return Switch("cuda.tunable", False, cuda.tunable.is_enabled, cuda.tunable.enable)
