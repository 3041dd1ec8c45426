/* Decode attention as a Python function: arguments are matched, borrowed and checked here; nothing is written before
 * everything has been checked. */
#include <math.h>

#include "../cache/check.h"
#include "args.h"
#include "cache_args.h"
#include "functions.h"

enum { QUERIES, KEYS, VALUES, LENGTHS, STARTS, PADS, SCALE, SOFTCAP, OUT, LSE, N_ARGUMENTS };

/* What is borrowed for a call, by the number of its argument; zero if it isn't. */
typedef struct {
    tensor t[N_ARGUMENTS];
    cache_array queries, keys, values, out, lse;
    int64_t batch, heads;
    int ragged;
    cache_span *spans; /* PyMem_RawFree them */
} attend_call;

static int check_cpu(const tensor *t)
{
    if (t->device.type == DL_CPU)
        return 0;
    PyErr_Format(
        PyExc_ValueError,
        "%s: expected a tensor on cpu, got one on a device, for which PyTorch's scaled_dot_product_attention is meant",
        t->name);
    return -1;
}

static int take_layout(module_state *st, PyObject *const *v, attend_call *c)
{
    tensor *keys = &c->t[KEYS], *starts = &c->t[STARTS], *lengths = &c->t[LENGTHS], *pads = &c->t[PADS];
    const int given = (v[STARTS] && v[STARTS] != Py_None) + 2 * (v[LENGTHS] && v[LENGTHS] != Py_None);
    if (tensor_borrow(st, v[KEYS], "keys", keys) < 0)
        return -1;
    c->ragged = keys->ndim == 2;
    tensor_release(keys);
    if (c->ragged) {
        if (take_slots(st, v[KEYS], "keys", &c->t[QUERIES], keys, &c->keys) < 0 ||
            take_slots(st, v[VALUES], "values", keys, &c->t[VALUES], &c->values) < 0)
            return -1;
        if (given != 3) {
            PyErr_Format(PyExc_TypeError, "%s: expected a tensor [batch, heads] with keys of shape [slots, size], got none",
                         given == 1 ? "lengths" : "starts");
            return -1;
        }
        if (take_counts(st, v[STARTS], "starts", 0, 1, starts) < 0)
            return -1;
        c->heads = starts->shape[1];
        if (check_equal("starts", "rows", starts->shape[0], "queries", c->batch) < 0)
            return -1;
    } else {
        if (given & 1) {
            PyErr_SetString(PyExc_TypeError,
                            "starts: expected none with keys of shape [batch, heads, tokens, size], got one");
            return -1;
        }
        if (take_array(st, v[KEYS], "keys", &c->t[QUERIES], keys, &c->keys) < 0 ||
            take_array(st, v[VALUES], "values", keys, &c->t[VALUES], &c->values) < 0 ||
            check_equal("keys", "rows", c->keys.batch, "queries", c->batch) < 0 ||
            check_equal("values", "rows", c->values.batch, "keys", c->keys.batch) < 0 ||
            check_equal("values", "heads", c->values.heads, "keys", c->keys.heads) < 0)
            return -1;
        c->heads = c->keys.heads;
    }
    if (check_equal("values", "tokens", c->values.tokens, "keys", c->keys.tokens) < 0 ||
        check_equal("keys", "numbers a token", c->keys.size, "queries", c->queries.size) < 0 ||
        check_groups(&c->queries, c->heads, c->ragged ? "starts" : "keys") < 0)
        return -1;
    if (given & 2) {
        if (take_counts(st, v[LENGTHS], "lengths", !c->ragged, 1, lengths) < 0 ||
            check_equal("lengths", "rows", lengths->shape[0], "queries", c->batch) < 0 ||
            (lengths->ndim == 2 &&
             check_equal("lengths", "heads", lengths->shape[1], c->ragged ? "starts" : "keys", c->heads) < 0))
            return -1;
    }
    if (v[PADS] && v[PADS] != Py_None &&
        (take_counts(st, v[PADS], "pads", 1, 0, pads) < 0 ||
         check_equal("pads", "rows", pads->shape[0], "queries", c->batch) < 0))
        return -1;
    return 0;
}

/* Where each head's entries lie, checked as they are copied: another thread may write to the tensors meanwhile. Returns how
 * many numbers are to be read, at most, or -1 with an exception. */
static double take_spans(attend_call *c)
{
    const tensor *starts = &c->t[STARTS], *lengths = &c->t[LENGTHS], *pads = &c->t[PADS];
    const int64_t tokens = c->keys.tokens;
    double entries = 0;
    c->spans = PyMem_RawMalloc((size_t)(c->batch * c->heads) * sizeof *c->spans);
    if (!c->spans) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t b = 0; b < c->batch; b++) {
        for (int64_t head = 0; head < c->heads; head++) {
            const int64_t start = count_at(starts, b, head, 0);
            if (check_count(starts, start, tokens, "the slots of keys", b, head) < 0)
                return -1;
            const int64_t length = count_at(lengths, b, head, tokens), first = count_at(pads, b, head, 0);
            if (check_count(lengths, length, tokens - start,
                            c->ragged ? "the slots of keys from this head's first on" : "the tokens of keys", b, head) < 0 ||
                check_count(pads, first, tokens, c->ragged ? "the slots of keys" : "the tokens of keys", b, head) < 0)
                return -1;
            c->spans[b * c->heads + head] = (cache_span){
                b * c->keys.batch_stride + head * c->keys.head_stride + start * c->keys.token_stride,
                b * c->values.batch_stride + head * c->values.head_stride + start * c->values.token_stride, first, length};
            entries += length > first ? (double)(length - first) : 0;
        }
    }
    return entries * (double)(c->keys.size + c->values.size);
}

static int take_out(module_state *st, PyObject *object, attend_call *c)
{
    tensor *out = &c->t[OUT];
    if (take_array(st, object, "out", &c->t[QUERIES], out, &c->out) < 0 || tensor_check_writable(out) < 0 ||
        check_as_queries("out", &c->out, &c->queries) < 0 ||
        check_equal("out", "numbers a token", c->out.size, "values", c->values.size) < 0)
        return -1;
    for (int i = QUERIES; i <= VALUES; i++)
        if (check_apart(out, &c->t[i]) < 0)
            return -1;
    return 0;
}

static int take_lse(module_state *st, PyObject *object, attend_call *c)
{
    tensor *lse = &c->t[LSE];
    if (tensor_borrow(st, object, "lse", lse) < 0 || tensor_check_device(lse, &c->t[QUERIES]) < 0 ||
        check_ndim(lse, 3, "[batch, heads, tokens]") < 0 || tensor_check_writable(lse) < 0)
        return -1;
    if (lse->dtype != DTYPE_FLOAT32)
        return tensor_fail_dtype(lse, "float32");
    c->lse = cache_numbers_of(lse->data, lse->shape, lse->strides);
    if (check_as_queries("lse", &c->lse, &c->queries) < 0)
        return -1;
    for (int i = QUERIES; i < LSE; i++)
        if (c->t[i].object && check_apart(lse, &c->t[i]) < 0)
            return -1;
    return 0;
}

const char doc_attend[] =
    "attend($module, /, queries, keys, values, *, lengths=None, starts=None, pads=None, scale=None, softcap=0.0, out=None,\n"
    "       lse=None)\n"
    "--\n\n"
    "The attention of new tokens to a cache of keys and values on the CPU:\n\n"
    "    out[b, h, i] = sum over t of w[t] * v[b, h // G, t]\n"
    "    w = softmax over t in [pads[b], length - q + 1 + i) of scale * <q[b, h, i], k[b, h // G, t]>\n\n"
    "with G = Hq / Hkv: the q tokens are the last ones in the cache and each sees what is before it, and itself. Computed "
    "in\n"
    "float32 whatever the dtype, and rounded once. A query that sees nothing gets zeros; what it doesn't see has no "
    "influence,\n"
    "NaN and infinities neither. Of what it sees, a product of NaN or +infinity makes its output NaN, one of -infinity "
    "weighs\n"
    "nothing, and if all are -infinity it is NaN, as in PyTorch's softmax. Nothing depends on the number of threads.\n\n"
    "Parameters\n----------\n"
    "queries : tensor [B, Hq, q, D]\n"
    "    float32, float16 or bfloat16, after rotary embedding; contiguous last dimension, as in all that follow.\n"
    "keys : tensor [B, Hkv, T, D], or [S, D]\n"
    "    Of the same dtype; Hq is a multiple of Hkv. In the second form heads have lengths of their own: that of row b and\n"
    "    head h is keys[starts[b, h] : starts[b, h] + lengths[b, h]].\n"
    "values : tensor [B, Hkv, T, Dv], or [S, Dv]\n"
    "    As keys; Dv is mostly D.\n"
    "lengths : tensor [B] or [B, Hkv], int64, optional\n"
    "    Tokens in the cache, with the new ones; default T. [B, Hkv], and not optional, with keys [S, D].\n"
    "starts : tensor [B, Hkv], int64\n"
    "    Only with keys [S, D]: the slot of each head's first token. Heads may share slots.\n"
    "pads : tensor [B], int64, optional\n"
    "    How many tokens at the start of each row are padding, which no query sees.\n"
    "scale : float, optional\n"
    "    Default 1 / sqrt(D).\n"
    "softcap : float, default 0.0\n"
    "    If > 0, products x become softcap * tanh(x / softcap), as in Gemma 2, after scale.\n"
    "out : tensor [B, Hq, q, Dv], optional\n"
    "    Where to write to, of the dtype of queries; may be a transposed view, but not memory of queries, keys or "
    "values.\n"
    "lse : tensor [B, Hq, q], float32, optional\n"
    "    Where to write the log-sum-exp of each query to, in nats: ln of the sum of exp(scale * <q, k[t]>) over the t that\n"
    "    it sees, after softcap; -infinity if it sees none. The attention to a cache of several parts is the mean of the\n"
    "    attention to each part, weighted by exp(lse) of each.\n\n"
    "Returns\n-------\n"
    "out : tensor [B, Hq, q, Dv], of the library and dtype of `queries`; the argument if there is one\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted; also for tensors on CUDA devices,\n"
    "    where PyTorch's attention is as fast.";

PyObject *py_attend(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"attend",
                                  3,
                                  3,
                                  N_ARGUMENTS,
                                  {NAME(queries), NAME(keys), NAME(values), NAME(lengths), NAME(starts), NAME(pads),
                                   NAME(scale), NAME(softcap), NAME(out), NAME(lse)}};
    module_state *st = state_of(module);
    PyObject *v[N_ARGUMENTS], *result = NULL;
    attend_call c = {.batch = 0};
    tensor *borrowed[N_ARGUMENTS];
    cache_decode decode = {.threads = atomic_load(&st->threads)};
    void *memory = NULL;
    double numbers;
    int status;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_float(v[SOFTCAP], "softcap", 1, &decode.softcap) < 0 ||
        arg_scale(v[SCALE], &decode.scale) < 0 ||
        take_array(st, v[QUERIES], "queries", NULL, &c.t[QUERIES], &c.queries) < 0 || check_cpu(&c.t[QUERIES]) < 0)
        goto done;
    c.batch = c.queries.batch;
    if (!has_scale(v[SCALE]))
        decode.scale = 1 / sqrtf((float)c.queries.size);
    if (check_not_empty(&c.queries, "queries") < 0 || take_layout(st, v, &c) < 0)
        goto done;
    const int64_t shape[4] = {c.batch, c.queries.heads, c.queries.tokens, c.values.size};
    if (v[OUT] && v[OUT] != Py_None) {
        if (take_out(st, v[OUT], &c) < 0)
            goto done;
    } else {
        const double bytes = (double)shape[0] * (double)shape[1] * (double)shape[2] * (double)shape[3] * 4;
        memory = bytes < 0x1p60 ? PyMem_RawMalloc((size_t)bytes) : NULL;
        if (!memory) {
            PyErr_NoMemory();
            goto done;
        }
        c.out = (cache_array){memory, c.queries.dtype, shape[0], shape[1], shape[2], shape[3], 0, 0, shape[3]};
        c.out.head_stride = shape[2] * shape[3];
        c.out.batch_stride = shape[1] * c.out.head_stride;
    }
    if (v[LSE] && v[LSE] != Py_None && take_lse(st, v[LSE], &c) < 0)
        goto done;
    for (int i = 0; i < N_ARGUMENTS; i++)
        borrowed[i] = &c.t[i];
    if (tensor_settle(borrowed, N_ARGUMENTS) < 0 || (numbers = take_spans(&c)) < 0)
        goto done;
    decode.queries = c.queries;
    decode.out = c.out;
    decode.lse = c.lse;
    decode.keys = c.keys.data;
    decode.values = c.values.data;
    decode.heads = c.heads;
    decode.key_stride = c.keys.token_stride;
    decode.value_stride = c.values.token_stride;
    decode.spans = c.spans;
    RUN(numbers, status = cache_attend(&decode));
    if (status < 0)
        PyErr_NoMemory();
    else if (memory)
        result = tensor_new(st, &c.t[QUERIES], c.t[QUERIES].dtype, 4, shape, memory);
    else
        result = Py_NewRef(v[OUT]);
done:
    PyMem_RawFree(memory);
    PyMem_RawFree(c.spans);
    for (int i = 0; i < N_ARGUMENTS; i++)
        tensor_release(&c.t[i]);
    return result;
}
