/* The LZ routines as Python functions: arguments are matched, borrowed and checked here; nothing is written before
 * everything has been checked, and no arithmetic is done. */
#include "../cuda/lz.h"
#include "args.h"
#include "functions.h"
#include "cuda.h"
#include "lz_args.h"
#include "tensor.h"

/* The arguments that every routine on a batch has. Released by batch_release in every case. */
typedef struct {
    tensor logits, tokens, starts;
    lz_workspace *ws;
    lz_logits lz_logits;
    lz_tokens lz_tokens;
    cuda_history history; /* the same tokens, for CUDA */
} batch;

static void batch_release(module_state *st, batch *b)
{
    tensor_release(&b->logits);
    tensor_release(&b->tokens);
    tensor_release(&b->starts);
    if (b->ws)
        workspace_give_back(st, b->ws);
}

/* 2-D, or 1-D for a single row. */
static int take_tokens(module_state *st, PyObject *object, batch *b)
{
    tensor *t = &b->tokens;
    if (tensor_borrow(st, object, "tokens", t) < 0 || tensor_check_int(t) < 0 || check_rows(t, "length") < 0)
        return -1;
    int columns = t->ndim - 1;
    if (t->shape[columns] > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "tokens: expected at most 2^31 - 1 tokens in a row, got %lld",
                     (long long)t->shape[columns]);
        return -1;
    }
    b->lz_tokens = lz_tokens_of(t->data, t->dtype == DTYPE_INT64, t->ndim, t->shape, t->strides);
    return 0;
}

static int check_start(int64_t start, int64_t length, int64_t row)
{
    if (lz_is_start(start, length))
        return 0;
    PyErr_Format(PyExc_ValueError, "starts: expected positions in [0, %lld], the length of tokens, got %lld for row %lld",
                 (long long)length, (long long)start, (long long)row);
    return -1;
}

/* starts: where the tokens that count begin; None, one position for all rows, or a tensor with one for each, which is
 * borrowed here and read by read_starts. */
static int take_starts(module_state *st, PyObject *object, batch *b)
{
    tensor *t = &b->starts;
    if (!object || object == Py_None)
        return 0;
    if (is_integer(st, object)) {
        int overflow;
        PyObject *index = PyNumber_Index(object);
        if (!index)
            return -1;
        b->lz_tokens.start = PyLong_AsLongLongAndOverflow(index, &overflow);
        Py_DECREF(index);
        if (overflow)
            b->lz_tokens.start = overflow < 0 ? -1 : INT64_MAX;
        return check_start(b->lz_tokens.start, b->lz_tokens.length, 0);
    }
    if (tensor_borrow(st, object, "starts", t) < 0 || tensor_check_int(t) < 0 || tensor_check_device(t, &b->tokens) < 0)
        return -1;
    if (t->ndim > 1 || (t->ndim == 1 && t->shape[0] != b->lz_tokens.rows)) {
        PyErr_Format(PyExc_ValueError,
                     "starts: expected one position, or one for each of the %lld rows, got %d dimensions of "
                     "%lld",
                     (long long)b->lz_tokens.rows, t->ndim, (long long)t->shape[0]);
        return -1;
    }
    return 0;
}

/* Everything has been borrowed: the last checks, and the starts of CPU tensors. */
static int read_starts(batch *b)
{
    const tensor *t = &b->starts;
    if (t->object && on_cuda(t)) {
        b->history.starts = t->data;
        b->history.starts_are_int64 = t->dtype == DTYPE_INT64;
        b->history.starts_stride = t->ndim == 1 ? t->strides[0] : 0;
    }
    if (on_cuda(&b->tokens))
        return 0;
    if (tensor_settle((tensor *const[]){&b->logits, &b->tokens, &b->starts}, 3) < 0)
        return -1;
    if (!t->object)
        return 0;
    int64_t *starts = lz_workspace_block(b->ws, LZ_STARTS, (size_t)b->lz_tokens.rows * sizeof *starts);
    if (!starts) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < b->lz_tokens.rows; i++) {
        starts[i] = tensor_id(t, t->ndim == 1 ? i * t->strides[0] : 0);
        if (check_start(starts[i], b->lz_tokens.length, i) < 0)
            return -1;
    }
    b->lz_tokens.starts = starts;
    return 0;
}

/* The arguments of a routine that only reads. */
static int take_history(module_state *st, PyObject *tokens, PyObject *starts, batch *b)
{
    b->ws = workspace_take(st);
    return !b->ws || take_tokens(st, tokens, b) < 0 || tensor_check_device(&b->tokens, NULL) < 0 ||
                   take_starts(st, starts, b) < 0
               ? -1
               : read_starts(b);
}

static int take_batch(module_state *st, PyObject *logits, PyObject *tokens, PyObject *starts, batch *b)
{
    if (!b->ws)
        b->ws = workspace_take(st);
    if (!b->ws || take_logits(st, logits, &b->logits, &b->lz_logits) < 0 || take_tokens(st, tokens, b) < 0 ||
        tensor_check_device(&b->tokens, &b->logits) < 0)
        return -1;
    if (b->lz_logits.rows != b->lz_tokens.rows || b->logits.ndim != b->tokens.ndim) {
        PyErr_Format(PyExc_ValueError, "tokens: expected as many rows as logits, %lld (%d-D), got %lld (%d-D)",
                     (long long)b->lz_logits.rows, b->logits.ndim, (long long)b->lz_tokens.rows, b->tokens.ndim);
        return -1;
    }
    if (check_apart(&b->tokens, &b->logits) < 0 || take_starts(st, starts, b) < 0 ||
        (b->starts.object && check_apart(&b->starts, &b->logits) < 0))
        return -1;
    return read_starts(b);
}

/* Where a batch on a device is launched. Returns 0, or -1 with an exception. */
static int begin_on_cuda(module_state *st, batch *b, cuda_call *call)
{
    b->history.tokens = &b->lz_tokens;
    return cuda_begin(st, (tensor *const[]){b->logits.object ? &b->logits : &b->tokens, &b->tokens, &b->starts}, 3, call);
}

static int fail_window(int32_t window, int64_t most, const char *rest)
{
    if (most < 0)
        PyErr_Format(PyExc_ValueError,
                     "window: expected %s and tokens that fit the shared memory of the CUDA device, got so many that no "
                     "window does",
                     rest);
    else
        PyErr_Format(PyExc_ValueError,
                     "window: expected at most %lld tokens, which is what fits the shared memory of the CUDA device with "
                     "this %s, got %d",
                     (long long)most, rest, (int)window);
    return -1;
}

static int penalize_on_cuda(module_state *st, batch *b, const lz_penalty *p)
{
    cuda_call call;
    cuda_status status;
    int64_t most;
    if (begin_on_cuda(st, b, &call) < 0)
        return -1;
    if (!cuda_lz_fits(call.device, p, &b->lz_tokens, &most))
        return fail_window(p->window, most, "buffer");
    CUDA_RUN(status, cuda_lz_penalize(call.device, call.stream, p, &b->lz_logits, b->history, &call.error));
    return cuda_end(&call, status);
}

static int dry_on_cuda(module_state *st, batch *b, const lz_dry *dry)
{
    cuda_call call;
    cuda_status status;
    int64_t most;
    if (cuda_check_ids("sequence_breakers", dry->n_breakers, CUDA_MOST_IDS) < 0 || begin_on_cuda(st, b, &call) < 0)
        return -1;
    if (!cuda_dry_fits(call.device, dry, &b->lz_tokens, &most))
        return fail_window(dry->window, most, "list of breakers");
    CUDA_RUN(status, cuda_dry_penalize(call.device, call.stream, dry, &b->lz_logits, b->history, &call.error));
    return cuda_end(&call, status);
}

static PyObject *periods_on_cuda(module_state *st, batch *b, const lz_loop *loop)
{
    dl_managed_tensor_versioned *periods;
    cuda_call call;
    cuda_status status;
    if (begin_on_cuda(st, b, &call) < 0 ||
        tensor_allocate(&b->tokens, DTYPE_INT64, b->tokens.ndim - 1, b->tokens.shape, &periods) < 0)
        return NULL;
    CUDA_RUN(status, cuda_periods(call.device, call.stream, loop, b->history, tensor_memory(periods), &call.error));
    if (cuda_end(&call, status) == 0)
        return tensor_hand_over(&b->tokens, periods);
    tensor_drop(periods);
    return NULL;
}

static PyObject *evidence_on_cuda(module_state *st, batch *b, const lz_evidence *evidence)
{
    dl_managed_tensor_versioned *lengths;
    cuda_call call;
    cuda_status status;
    int64_t most;
    if (begin_on_cuda(st, b, &call) < 0)
        return NULL;
    if (!cuda_evidence_fits(call.device, evidence, &b->lz_tokens, &most)) {
        fail_window(evidence->window, most, "kernel");
        return NULL;
    }
    if (tensor_allocate(&b->tokens, DTYPE_INT64, b->tokens.ndim - 1, b->tokens.shape, &lengths) < 0)
        return NULL;
    CUDA_RUN(status,
             cuda_loop_evidence(call.device, call.stream, evidence, b->history, tensor_memory(lengths), &call.error));
    if (cuda_end(&call, status) == 0)
        return tensor_hand_over(&b->tokens, lengths);
    tensor_drop(lengths);
    return NULL;
}

#define RUN(work, call) RUN_UNLOCKED_IF((work) >= GIL_MIN_WORK, call)

static int64_t work_of(const lz_tokens *tokens, int64_t window)
{
    return tokens->rows * (window < tokens->length ? window : tokens->length);
}

#define CUDA_STARTS_DOC                                                                                                     \
    "    A tensor on a CUDA device is not looked at before the launch: positions are clamped to [0, T] there.\n\n"
#define CUDA_DOC(limits)                                                                                                    \
    "Notes\n-----\n"                                                                                                        \
    "CUDA tensors: all on one device; one launch on the stream that their library works on, nothing waits for it, and it\n" \
    "can be captured in a graph after warmup(device). Of libraries without DLPack's exchange API, such as torch before\n"   \
    "2.10, nobody knows that stream: the call waits until it is done, and can't be captured. " limits "\n\n"

/* clang-format off */
#define OPTION(kind, name, standard, ...) ", " #name "=" SIGNATURE_##kind(standard)
const char doc_lz_penalize[] =
    "lz_penalize_($module, /, logits, tokens, options=None, *, starts=None"
#include "../lz/options.def"
    ")\n--\n\n"
    "Makes what a Lempel-Ziv coder could code cheaply, a repetition, less likely. In place.\n\n"
    "    logits[b, a] -= strength * (log2 V - D_b(a))\n\n"
    "where D_b(a) is the number of bits, at most log2 V, by which the LZSS code of row b's text grows when token a comes\n"
    "next (LZ penalty, arXiv 2504.20131; derived from the coder, see docs). Tokens outside the window keep their logits.\n\n"
    "Parameters\n----------\n"
    "logits : tensor [B, V] or [V]\n"
    "    float32, float16, bfloat16 or float64, written in place, rounded once. Any strides without overlap; no memory of\n"
    "    the others.\n"
    "tokens : tensor [B, T] or [T]\n"
    "    int32 or int64 ids, oldest first. Ids outside [0, V) take part in matching and are never written to.\n"
    "options : LZOptions, optional\n"
    "    What is to be done, with ids in [0, V).\n"
    "starts : int, int tensor [B], or None\n"
    "    Position of each row's first token that counts, usually the prompt's length. Default 0.\n" CUDA_STARTS_DOC
    "strength, window, buffer, ... : optional\n"
    "    As in LZOptions, in the place of what `options` say.\n\n"
    "Returns\n-------\n"
    "logits, the same object.\n\n" CUDA_DOC(
        "The window and the buffer have to fit the shared\n"
        "memory of a block, 4,000 tokens on Turing and 14,000 on Hopper. Results are the CPU's to the last bit.")
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted.";
/* clang-format on */

PyObject *py_lz_penalize(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"lz_penalize_",
                                  2,
                                  3,
                                  4 + LZ_OPTIONS,
                                  {NAME(logits), NAME(tokens), NAME(options), NAME(starts)
#define OPTION(kind, name, ...) , NAME(name)
#include "../lz/options.def"
                                  }};
    module_state *st = state_of(module);
    PyObject *v[4 + LZ_OPTIONS], *result = NULL;
    const lz_penalty *p;
    lz_penalty store;
    batch b = {0};
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_options(st, v[2], v + 4, &store, &p) < 0 ||
        take_batch(st, v[0], v[1], v[3], &b) < 0 || check_ids(p, b.lz_logits.vocab) < 0)
        goto done;
    if (!lz_is_off(p) && on_cuda(&b.logits)) {
        if (penalize_on_cuda(st, &b, p) < 0)
            goto done;
    } else if (!lz_is_off(p)) {
        if (lz_reserve(b.ws, p, b.lz_tokens.length) < 0) {
            PyErr_NoMemory();
            goto done;
        }
        RUN(work_of(&b.lz_tokens, lz_context(p)), lz_current_kernels()->penalize(p, &b.lz_logits, &b.lz_tokens, b.ws));
    }
    result = Py_NewRef(v[0]);
done:
    batch_release(st, &b);
    return result;
}

const char doc_dry_penalize[] =
    "dry_penalize_($module, /, logits, tokens, *, multiplier=0.8, base=1.75, allowed_length=2, window=1024, "
    "sequence_breakers=(), "
    "starts=None)\n--\n\n"
    "DRY: a token that would prolong a repetition of n tokens pays, if n >= allowed_length, in place,\n\n"
    "    multiplier * base ** (n - allowed_length)    nats\n\n"
    "(Weidmann's sampler, arXiv 2608.22761). Repetitions are looked for in the last `window` tokens and do not reach "
    "across\n"
    "a breaker.\n\n"
    "Parameters\n----------\n"
    "logits : tensor [B, V] or [V]\n"
    "    float32, float16, bfloat16 or float64, written in place, rounded once. Any strides without overlap.\n"
    "tokens : tensor [B, T] or [T]\n"
    "    int32 or int64 ids, oldest first.\n"
    "multiplier, base : float\n"
    "    Finite and > 0, except that a multiplier of 0 changes nothing. Penalties are capped at the largest float32.\n"
    "allowed_length : int, default 2\n"
    "    Shortest repetition that is penalised, in tokens, >= 1.\n"
    "window : int, default 1024\n"
    "    Tokens that are looked at; 0 switches the penalty off.\n"
    "sequence_breakers : iterable of int, int, or None\n"
    "    Ids that end a repetition, such as those of newlines, and that are never penalised.\n"
    "starts : int, int tensor [B], or None\n"
    "    Position of each row's first token that counts. Default 0.\n" CUDA_STARTS_DOC "Returns\n-------\n"
    "logits, the same object.\n\n" CUDA_DOC("The window has to fit the shared memory of a block, 4,500\n"
                                            "tokens on Turing and 16,000 on Hopper; there are at most 896 breakers. Results "
                                            "are the CPU's to the last bit.") "Raises\n------\n"
                                                                              "TypeError, ValueError\n"
                                                                              "    Before anything is written, naming the "
                                                                              "argument, what came and what is wanted.";

PyObject *py_dry_penalize(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"dry_penalize_",
                                  2,
                                  2,
                                  8,
                                  {NAME(logits), NAME(tokens), NAME(multiplier), NAME(base), NAME(allowed_length),
                                   NAME(window), NAME(sequence_breakers), NAME(starts)}};
    module_state *st = state_of(module);
    PyObject *v[8], *result = NULL;
    lz_dry dry = {.multiplier = 0.8f, .base = 1.75f, .allowed_length = 2, .window = 1024};
    batch b = {0};
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_float(v[2], "multiplier", 1, &dry.multiplier) < 0 ||
        arg_float(v[3], "base", 0, &dry.base) < 0 || arg_int(v[4], "allowed_length", 1, &dry.allowed_length) < 0 ||
        arg_int(v[5], "window", 0, &dry.window) < 0 || !(b.ws = workspace_take(st)) ||
        arg_ids(v[6], "sequence_breakers", b.ws, &dry.breakers, &dry.n_breakers) < 0 ||
        take_batch(st, v[0], v[1], v[7], &b) < 0)
        goto done;
    if (dry.multiplier > 0 && dry.window > 0 && on_cuda(&b.logits)) {
        if (dry_on_cuda(st, &b, &dry) < 0)
            goto done;
    } else if (dry.multiplier > 0 && dry.window > 0) {
        if (lz_reserve_dry(b.ws, &dry, b.lz_tokens.length) < 0) {
            PyErr_NoMemory();
            goto done;
        }
        RUN(work_of(&b.lz_tokens, dry.window), lz_current_kernels()->dry(&dry, &b.lz_logits, &b.lz_tokens, b.ws));
    }
    result = Py_NewRef(v[0]);
done:
    batch_release(st, &b);
    return result;
}

/* One text and options: the arguments of codelength_deltas and token_bits. */
enum { N_TEXT = 3 + LZ_OPTIONS };
static int take_text(module_state *st, PyObject *const *v, batch *b, lz_penalty *store, const lz_penalty **p, int32_t *vocab)
{
    if (arg_int(v[1], "vocab_size", 1, vocab) < 0 || arg_options(st, v[2], v + 3, store, p) < 0 ||
        !(b->ws = workspace_take(st)) || take_tokens(st, v[0], b) < 0 || tensor_check_cpu(&b->tokens) < 0)
        return -1;
    if (b->tokens.ndim != 1) {
        PyErr_Format(PyExc_ValueError, "tokens: expected shape [length], got %d dimensions", b->tokens.ndim);
        return -1;
    }
    if (lz_reserve(b->ws, *p, b->lz_tokens.length) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return read_starts(b);
}

/* clang-format off */
#define OPTION(kind, name, standard, ...) ", " #name "=" SIGNATURE_##kind(standard)
const char doc_codelength_deltas[] =
    "codelength_deltas($module, /, tokens, vocab_size, options=None, *"
#include "../lz/options.def"
    ")\n--\n\n"
    "D(a), the bits by which a sliding-window Lempel-Ziv code grows when token a comes next, for each a that is cheaper "
    "than a\n"
    "literal. Every id that is not listed costs log2(vocab_size) bits. Equation: see lz_penalize_.\n\n"
    "Parameters\n----------\n"
    "tokens : tensor [T]\n"
    "    int32 or int64 ids, oldest first.\n"
    "vocab_size : int\n"
    "    Ids are in [0, vocab_size).\n"
    "options, window, buffer, cost, min_match, ...\n"
    "    As for lz_penalize_; no other than these four make a difference.\n\n"
    "Returns\n-------\n"
    "ids : tensor [K], int64\n"
    "    Distinct, in no particular order; of the library that `tokens` came from.\n"
    "bits : tensor [K], float32\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

PyObject *py_codelength_deltas(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"codelength_deltas", 2, 3, N_TEXT, {
        NAME(tokens), NAME(vocab_size), NAME(options)
#define OPTION(kind, name, ...) , NAME(name)
#include "../lz/options.def"
    }};
    module_state *st = state_of(module);
    PyObject *v[N_TEXT], *ids = NULL, *bits = NULL, *result = NULL;
    const lz_penalty *p;
    lz_penalty store;
    batch b = {0};
    int32_t vocab = 0, *listed, n;
    float *listed_bits;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || take_text(st, v, &b, &store, &p, &vocab) < 0)
        goto done;
    n = lz_current_kernels()->deltas(p, vocab, &b.lz_tokens, b.ws, &listed, &listed_bits);
    int64_t shape[1] = {n}, *wide = lz_workspace_block(b.ws, LZ_IDS, (size_t)n * sizeof *wide);
    if (!wide) {
        PyErr_NoMemory();
        goto done;
    }
    for (int32_t i = 0; i < n; i++)
        wide[i] = listed[i];
    ids = tensor_new(st, &b.tokens, DTYPE_INT64, 1, shape, wide);
    bits = ids ? tensor_new(st, &b.tokens, DTYPE_FLOAT32, 1, shape, listed_bits) : NULL;
    result = bits ? PyTuple_Pack(2, ids, bits) : NULL;
done:
    Py_XDECREF(ids);
    Py_XDECREF(bits);
    batch_release(st, &b);
    return result;
}

#define OPTION(kind, name, standard, ...) ", " #name "=" SIGNATURE_##kind(standard)
const char doc_token_bits[] =
    "token_bits($module, /, tokens, vocab_size, options=None, *"
#include "../lz/options.def"
    ")\n--\n\n"
    "What codelength_deltas gives for each token that came, after those before it: float64 bits [T]. Arguments as there.";
/* clang-format on */

PyObject *py_token_bits(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"token_bits",
                                  2,
                                  3,
                                  N_TEXT,
                                  {NAME(tokens), NAME(vocab_size), NAME(options)
#define OPTION(kind, name, ...) , NAME(name)
#include "../lz/options.def"
                                  }};
    module_state *st = state_of(module);
    PyObject *v[N_TEXT], *result = NULL;
    const lz_penalty *p;
    lz_penalty store;
    batch b = {0};
    int32_t vocab = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || take_text(st, v, &b, &store, &p, &vocab) < 0)
        goto done;
    double *bits = lz_workspace_block(b.ws, LZ_IDS, (size_t)b.lz_tokens.length * sizeof *bits);
    if (!bits) {
        PyErr_NoMemory();
        goto done;
    }
    RUN(work_of(&b.lz_tokens, p->window) * b.lz_tokens.length,
        lz_current_kernels()->token_bits(p, vocab, &b.lz_tokens, b.ws, bits));
    result = tensor_new(st, &b.tokens, DTYPE_FLOAT64, 1, b.tokens.shape, bits);
done:
    batch_release(st, &b);
    return result;
}

const char doc_repetition_period[] =
    "repetition_period($module, /, tokens, *, ngram=30, count=20, max_period=512, starts=None)\n--\n\n"
    "The period of the loop that each row has fallen into: the smallest p <= max_period such that the last\n"
    "ngram + (count - 1) * p tokens repeat with period p, so that the n-gram that ends the row stands `count` times in a "
    "row\n"
    "(the criterion of arXiv 2512.12895, 20 times the same 30-gram, for exact loops). 0 where there is none.\n\n"
    "Parameters\n----------\n"
    "tokens : tensor [B, T] or [T]\n"
    "    int32 or int64 ids, oldest first.\n"
    "ngram : int, default 30\n"
    "    Tokens, >= 1.\n"
    "count : int, default 20\n"
    "    Times, >= 2.\n"
    "max_period : int, default 512\n"
    "    Longest period that is looked for, in tokens, >= 1.\n"
    "starts : int, int tensor [B], or None\n"
    "    Position of each row's first token that counts. Default 0.\n" CUDA_STARTS_DOC "Returns\n-------\n"
    "periods : tensor [B] or [], int64, of the library that `tokens` came from\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

PyObject *py_repetition_period(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "repetition_period", 1, 1, 5, {NAME(tokens), NAME(ngram), NAME(count), NAME(max_period), NAME(starts)}};
    module_state *st = state_of(module);
    PyObject *v[5], *result = NULL;
    lz_loop loop = {30, 20, 512};
    batch b = {0};
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[1], "ngram", 1, &loop.ngram) < 0 ||
        arg_int(v[2], "count", 2, &loop.count) < 0 || arg_int(v[3], "max_period", 1, &loop.max_period) < 0 ||
        take_history(st, v[0], v[4], &b) < 0)
        goto done;
    if (on_cuda(&b.tokens)) {
        result = periods_on_cuda(st, &b, &loop);
        goto done;
    }
    int64_t *periods = lz_workspace_block(b.ws, LZ_IDS, (size_t)b.lz_tokens.rows * sizeof *periods);
    if (!periods || lz_reserve_loop(b.ws, &loop, b.lz_tokens.length) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    RUN(work_of(&b.lz_tokens, loop.max_period), lz_current_kernels()->periods(&loop, &b.lz_tokens, periods, b.ws));
    result = tensor_new(st, &b.tokens, DTYPE_INT64, b.tokens.ndim - 1, b.tokens.shape, periods);
done:
    batch_release(st, &b);
    return result;
}

const char doc_loop_evidence[] =
    "loop_evidence($module, /, tokens, *, gram=6, window=512, starts=None)\n--\n\n"
    "How surely each row is in a loop: the length of the longest string of its last `window` tokens all of whose\n"
    "`gram`-grams stand there at least for the third time. 0 if no gram does.\n\n"
    "A gram stands for the third time if two older grams of the window are equal to it; a string of n such grams, each a\n"
    "token further, has n + gram - 1 tokens. A quotation or a copy stands for the second time. In a loop of period p the\n"
    "evidence grows with every token from the third turn on, up to window - 2 * p. Nothing before the window is read.\n\n"
    "Parameters\n----------\n"
    "tokens : tensor [B, T] or [T]\n"
    "    int32 or int64 ids, oldest first.\n"
    "gram : int, default 6\n"
    "    Tokens, 1 to 64.\n"
    "window : int, default 512\n"
    "    Tokens, >= 0. On a CUDA device they have to fit the shared memory of a block, as for lz_penalize_.\n"
    "starts : int, int tensor [B], or None\n"
    "    Position of each row's first token that counts. Default 0.\n" CUDA_STARTS_DOC "Returns\n-------\n"
    "evidence : tensor [B] or [], int64, of the library that `tokens` came from\n"
    "    Tokens.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

PyObject *py_loop_evidence(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"loop_evidence", 1, 1, 4, {NAME(tokens), NAME(gram), NAME(window), NAME(starts)}};
    module_state *st = state_of(module);
    PyObject *v[4], *result = NULL;
    lz_evidence evidence = {LZ_GRAM, 512};
    batch b = {0};
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[1], "gram", 1, &evidence.gram) < 0 ||
        arg_int(v[2], "window", 0, &evidence.window) < 0)
        goto done;
    if (!lz_is_gram(evidence.gram)) {
        PyErr_Format(PyExc_ValueError, "gram: expected an integer from 1 to %d, got %R", LZ_MOST_GRAM, v[1]);
        goto done;
    }
    if (take_history(st, v[0], v[3], &b) < 0)
        goto done;
    if (on_cuda(&b.tokens)) {
        result = evidence_on_cuda(st, &b, &evidence);
        goto done;
    }
    int64_t *lengths = lz_workspace_block(b.ws, LZ_IDS, (size_t)b.lz_tokens.rows * sizeof *lengths);
    if (!lengths || lz_reserve_evidence(b.ws, &evidence, b.lz_tokens.length) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    RUN(work_of(&b.lz_tokens, evidence.window), lz_current_kernels()->evidence(&evidence, &b.lz_tokens, lengths, b.ws));
    result = tensor_new(st, &b.tokens, DTYPE_INT64, b.tokens.ndim - 1, b.tokens.shape, lengths);
done:
    batch_release(st, &b);
    return result;
}
