"""Workers: they read tokens and run models; the one here sums moments over a unit of tokens.

A worker keeps the loaded models between calls and nothing else, so that any worker may compute any
work, again if need be, with the same bits.
"""

import gc
import socket
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from universal_ray.corpus.rows import TokenCorpus, kept_mask
from universal_ray.errors import MemoryShortError, ResourceError
from universal_ray.models.capture import Capture, Take
from universal_ray.models.site import Site
from universal_ray.models.source import ModelSource
from universal_ray.planning.items import Model
from universal_ray.runtime.arithmetic import fix_arithmetic, keep_freed_memory, tensor_float32
from universal_ray.runtime.hardware import check_same, named
from universal_ray.runtime.measure import machine_bytes
from universal_ray.runtime.staging import Staging
from universal_ray.storage.store import Store


@dataclass(frozen=True)
class Assignment:
    """What every worker of a stage is told once."""

    store_url: str
    nonce: str
    corpus: TokenCorpus
    sources: dict[str, ModelSource]
    """by identity"""
    excluded: tuple[int, ...]
    """ids that do not count"""
    sites: tuple[Site, ...]
    dtype: str
    batch_rows: int
    threads: int
    device: str


SHORT = (
    "can't allocate memory",  # the host's allocator
    "CUDA error: out of memory",  # a kernel's launch, or page-locked memory of the host
    "CUBLAS_STATUS_ALLOC_FAILED",  # what libraries take for themselves
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""How torch says that memory is short, where the kind of the error does not."""


@contextmanager
def refused_memory() -> Iterator[None]:
    """Raise MemoryShortError where a GPU or the machine has no memory left to give."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not (short or any(sentence in str(error) for sentence in SHORT)):
            raise
        line = str(error).strip().splitlines()[0]
        raise MemoryShortError(f"{socket.gethostname()} has no memory left: {line}") from None


class Worker:
    """Lives in a process of its own; holds one GPU, or `threads` CPU threads, and the models that
    it has loaded.

    Of its calls only one at a time computes.
    """

    def __init__(self, assignment: Assignment):
        fix_arithmetic(assignment.threads)
        keep_freed_memory()
        if assignment.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("a worker sees no GPU: check cluster.device and the node's driver")
        self.told = assignment
        self.store = Store(assignment.store_url)
        self.store.check_nonce(assignment.nonce)
        check_same(self.store, assignment.device)
        self.hardware = named(assignment.device)
        self._captures: dict[str, Capture] = {}
        self._staging = Staging()
        self._lock = threading.Lock()

    def memory(self) -> tuple[str, float]:
        """Its host, and the bytes of its GPU, or of its machine where it has none."""
        if self.told.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()  # else what the stage before has used counts as taken
            return socket.gethostname(), float(torch.cuda.mem_get_info()[0])
        return socket.gethostname(), float(machine_bytes())

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Alone at computing, with the threads it was given."""
        with self._lock, refused_memory():
            # The pool of an actor's threads starts each with torch's own number of threads.
            torch.set_num_threads(self.told.threads)
            yield

    def do(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a plain function over the store."""
        with self.computing():
            function(*arguments)

    def keep(self, identities: Container[str]) -> None:
        """Let go of all loaded models but these."""
        others = [each for each in self._captures if each not in identities]
        for identity in others:
            del self._captures[identity]
        if others:
            gc.collect()  # a model and its hooks hold each other

    def read(self, model: Model, tokens_BP: torch.Tensor, take: Take) -> None:
        """Give `take` the values [T, D] of every layer, at each site that the assignment names, as
        the model makes them.
        """
        told = self.told
        if model.identity not in self._captures:
            self._captures[model.identity] = Capture(
                told.sources[model.identity],
                told.device,
                getattr(torch, told.dtype.removeprefix("t")),
                tuple(dict.fromkeys(told.sites)),
            )
        with tensor_float32(told.dtype == "tfloat32" and told.device == "cuda"):
            self._captures[model.identity].read(tokens_BP, take)

    def read_layers(
        self, model: Model, tokens_BP: torch.Tensor, take: Callable[..., None]
    ) -> None:
        """Give `take` each layer's index and its values [T, D], float32, one for every site that
        the assignment names, in that order, when the model has made the last.
        """
        names = [site.name for site in self.told.sites]
        made: dict[int, dict[str, torch.Tensor]] = {}

        def collect(site: str, layer: int, x_TD: torch.Tensor) -> None:
            shown = made.setdefault(layer, {})
            shown[site] = x_TD.float()
            if len(shown) == len({*names}):
                del made[layer]
                take(layer, *(shown[name] for name in names))

        self.read(model, tokens_BP, collect)

    def tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, P] on the device, and which of them count [T], on the CPU."""
        tokens_BP = torch.from_numpy(self.told.corpus.read(start, stop))
        kept_T = kept_mask(tokens_BP, self.told.excluded)
        if self.told.device == "cuda":
            tokens_BP = tokens_BP.pin_memory().to("cuda", non_blocking=True)
        return tokens_BP, kept_T

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in ordinary memory of the host; what lies there already, itself."""
        return self._staging.copy(tensor) if tensor.is_cuda else tensor
