"""llama-cpp-python as far as RPCLlama uses it, on a model of two layers in NumPy: keys are the tokens themselves, so that
what it says depends on which tokens are in its cache, and on nothing else."""

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np

VOCAB, LAYERS, HEADS, TRAINED = 31, 2, 3, 4096
PAD = 32  # cells that attention is computed for are a multiple of this

random = np.random.default_rng(0)
QUERY_KEY = 2 * random.normal(size=(LAYERS, HEADS, VOCAB, VOCAB))
HEARD = random.normal(size=(LAYERS, HEADS, VOCAB, VOCAB)).astype(np.float32)
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


def attention(layer, query, position, tokens, positions):
    """[HEADS, n], of the token `query` at `position` to these."""
    x = QUERY_KEY[layer, :, query][:, tokens] - 0.02 * (position - np.asarray(positions))
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


class Tensors:
    """ggml's functions, on arrays that have a name. `kind` is what is wrong with them."""

    def __init__(self):
        self.held, self.kind = {}, None

    def show(self, callback, user, name, array):
        address = len(self.held) + 1
        self.held[address] = (ctypes.create_string_buffer(name.encode()), np.ascontiguousarray(array, np.float32))
        if callback(address, True, user):
            assert callback(address, False, user), "false would end the computation"
        del self.held[address]

    def functions(self, kinds):
        def array(address):
            return self.held[address][1]

        def read(address, to, offset, size):
            assert offset + size <= array(address).nbytes
            ctypes.memmove(to, array(address).ctypes.data + offset, size)

        bodies = (
            lambda address: ctypes.addressof(self.held[address][0]),
            lambda address: array(address).size,
            lambda address: array(address).size // array(address).shape[-1],
            lambda address: array(address).nbytes // (2 if self.kind == "half" else 1),
            lambda address: self.kind != "strided",
            read,
        )
        self.kept = [kind(body) for kind, body in zip(kinds.values(), bodies, strict=True)]
        return [ctypes.cast(function, ctypes.c_void_p).value for function in self.kept]


class Memory:
    """llama_kv_cache for one sequence, cell by cell."""

    def __init__(self, size, ubatch):
        self.size, self.ubatch, self.head, self.refuses = size, ubatch, 0, False
        self.cells = [None] * size  # or (position, token)

    def place(self, tokens):
        """The cells for these, or None where there is no room."""
        used = sum(cell is not None for cell in self.cells)
        at = 0 if self.head > used + 2 * len(tokens) else self.head
        found = []
        for _ in range(2 * self.size):
            if at >= self.size:
                at = 0
            if self.cells[at] is None and at not in found:
                found.append(at)
            at += 1
            if len(found) == len(tokens):
                return found
        return None

    def seq_rm(self, start, stop):
        if self.refuses and stop >= 0:
            return False
        stop = stop if stop >= 0 else 1 << 40
        gone = [i for i, cell in enumerate(self.cells) if cell is not None and start <= cell[0] < stop]
        for i in gone:
            self.cells[i] = None
        if gone:
            self.head = min(self.head, gone[0])
        return True

    def last(self):
        return max((cell[0] for cell in self.cells if cell is not None), default=-1)


class Context:
    def __init__(self, params):
        self.params, self.ctx = params, self
        size = -(-params.n_ctx // PAD) * PAD
        self.memory, self.logits, self.decodes, self.fails = Memory(size, params.n_ubatch), None, 0, False

    def kv_cache_seq_rm(self, sequence, start, stop):
        return self.memory.seq_rm(start, stop)

    def kv_cache_clear(self):
        self.memory.cells, self.memory.head = [None] * self.memory.size, 0

    def decode(self, tokens, start):
        memory = self.memory
        if self.fails or start != memory.last() + 1:
            raise RuntimeError("llama_decode returned -1")
        before = list(memory.cells), memory.head
        parts = [tokens[i : i + memory.ubatch] for i in range(0, len(tokens), memory.ubatch)]
        for i, part in enumerate(parts):
            cells = memory.place(part)
            if cells is None:
                memory.cells, memory.head = before
                raise RuntimeError("llama_decode returned 1")
            first = start + i * memory.ubatch
            for at, cell in enumerate(cells):
                memory.cells[cell] = (first + at, part[at])
            memory.head = cells[-1] + 1
            self._compute(part, first)
        self.decodes += len(tokens)

    def _compute(self, tokens, first):
        held = [(i, *cell) for i, cell in enumerate(self.memory.cells) if cell is not None]
        width = -(-(max(i for i, _, _ in held) + 1) // PAD) * PAD
        said = np.zeros(VOCAB, np.float32)
        for layer in range(LAYERS):
            weights = np.zeros((HEADS, len(tokens), width), np.float32)
            for at, token in enumerate(tokens):
                seen = [(i, p, t) for i, p, t in held if p <= first + at]
                cells, positions, ids = map(list, zip(*seen, strict=True))
                weights[:, at, cells] = attention(layer, token, first + at, ids, positions)
            for head in range(HEADS):
                last = np.array([weights[head, -1, i] for i, _, _ in held])
                said += last @ HEARD[layer, head, [t for _, _, t in held]]
            if self.params.cb_eval:
                self._show(f"norm-{layer}", np.ones((1, 3)))
                if not self.params.flash_attn:
                    self._show(f"kq_soft_max-{layer}", weights)
                self._show(f"kq_soft_max-{layer} (copied)", weights)
        self.logits = said

    def _show(self, name, array):
        TENSORS.show(self.params.cb_eval, self.params.cb_eval_user_data, name, array)


TENSORS = Tensors()


class Llama:
    """Reads, and goes on from what it has read, as 0.3.36 does."""

    model_says = {}  # of llama_model_...
    metadata = {}

    def __init__(self, model_path, *, n_ctx=512, n_batch=64, n_ubatch=16, flash_attn=False, draft_model=None, **options):
        self._stack = None
        self._model = SimpleNamespace(n_ctx_train=lambda: TRAINED, model=dict(self.model_says))
        self.n_batch = min(n_ctx, n_batch)
        self.context_params = SimpleNamespace(cb_eval=None, cb_eval_user_data=None)
        self.context_params.n_ctx, self.context_params.flash_attn = n_ctx, flash_attn
        self.context_params.n_ubatch = min(n_ubatch, self.n_batch)
        self._ctx = Context(self.context_params)
        self._n_ctx = self.n_ctx()
        self.n_tokens, self._requires_eval, self.draft_model, self.closed = 0, True, draft_model, False
        self.input_ids = np.zeros(n_ctx, np.intc)

    ctx = property(lambda self: self._ctx.ctx)
    model = property(lambda self: self._model.model)
    _input_ids = property(lambda self: self.input_ids[: self.n_tokens])

    def n_ctx(self):
        return self._ctx.memory.size

    def reset(self):
        self.n_tokens, self._requires_eval = 0, True

    def set_cache(self, cache):
        self.cache = cache

    def close(self):
        self.closed = True

    def __del__(self):
        self.close()

    def eval(self, tokens):
        self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1)
        for i in range(0, len(tokens), self.n_batch):
            batch = tokens[i : i + self.n_batch]
            self._ctx.decode(batch, self.n_tokens)
            self.input_ids[self.n_tokens : self.n_tokens + len(batch)] = batch
            self.n_tokens += len(batch)
            self._requires_eval = False

    def generate(self, tokens, *, reset=True, logits_processor=None):
        tokens = list(tokens)
        if reset and self.n_tokens:
            same = 0
            while same < min(self.n_tokens, len(tokens)) and self.input_ids[same] == tokens[same]:
                same += 1
            if same == self.n_tokens == len(tokens) and not self._requires_eval:
                reset, tokens, same = False, [], 0
            elif same == len(tokens):
                same -= 1
            if same:
                self._ctx.kv_cache_seq_rm(-1, same, -1)
                reset, tokens, self.n_tokens, self._requires_eval = False, tokens[same:], same, True
        if reset:
            self.reset()
        while True:
            self.eval(tokens)
            scores = self._ctx.logits.copy()
            for processor in logits_processor or ():
                scores[:] = processor(self._input_ids, scores)
            sent = yield int(scores.argmax())
            tokens = [int(scores.argmax()), *(sent or ())]


def modules():
    """What to put into sys.modules."""
    package, formats = ModuleType("llama_cpp"), ModuleType("llama_cpp.llama_chat_format")
    formats.Llava15ChatHandler = type("Llava15ChatHandler", (), {})
    formats.MTMDChatHandler = type("MTMDChatHandler", (), {})
    package.Llama, package.llama_chat_format = Llama, formats
    package.ggml_backend_sched_eval_callback = CALLBACK
    package.llama_n_ctx = lambda ctx: ctx.memory.size
    package.llama_n_ubatch = lambda ctx: ctx.memory.ubatch
    package.llama_model_n_swa = lambda model: model.get("n_swa", 0)
    for name in ("is_recurrent", "is_hybrid", "has_encoder"):
        setattr(package, f"llama_model_{name}", lambda model, name=name: model.get(name, False))
    return {"llama_cpp": package, "llama_cpp.llama_chat_format": formats}
