/* Cache selection as Python functions: arguments are matched, borrowed and checked here; nothing is written before
 * everything has been checked. */
#include <math.h>

#include "../cache/cache.h"
#include "../cache/tap.h"
#include "../cuda/cache.h"
#include "args.h"
#include "cache_args.h"
#include "functions.h"
#include "cuda.h"
#include "tensor.h"

/* Keys and values of one cache, to be written. */
static int take_cache(module_state *st, PyObject *const *values, tensor *k, tensor *v, cache_array *keys, cache_array *vals)
{
    if (take_array(st, values[0], "keys", NULL, k, keys) < 0 || tensor_check_writable(k) < 0 ||
        take_array(st, values[1], "values", k, v, vals) < 0 || tensor_check_writable(v) < 0 ||
        check_equal("values", "rows", vals->batch, "keys", keys->batch) < 0 ||
        check_equal("values", "heads", vals->heads, "keys", keys->heads) < 0 ||
        check_equal("values", "tokens", vals->tokens, "keys", keys->tokens) < 0 || check_apart(v, k) < 0)
        return -1;
    return 0;
}

static PyObject *scores_on_cuda(module_state *st, cache_attention *attn, tensor *queries, tensor *keys, const int64_t *shape)
{
    dl_managed_tensor_versioned *scores = NULL, *scratch = NULL;
    const int64_t scratch_shape[1] = {cuda_scores_scratch(attn)};
    PyObject *result = NULL;
    cuda_call call;
    cuda_status status;
    if (scratch_shape[0] < 0) {
        PyErr_SetString(PyExc_ValueError, "queries: expected at most 2^30 for each key head of CUDA tensors, and products "
                                          "with keys that fit in memory, got more");
        return NULL;
    }
    if (cuda_begin(st, (tensor *const[]){keys, queries}, 2, &call) < 0 ||
        tensor_allocate(keys, DTYPE_FLOAT32, 3, shape, &scores) < 0 ||
        tensor_allocate(keys, DTYPE_FLOAT32, 1, scratch_shape, &scratch) < 0)
        goto done;
    attn->scores = tensor_memory(scores);
    CUDA_RUN(status, cuda_attention_scores(call.device, call.stream, attn, tensor_memory(scratch), &call.error));
    attn->scores = NULL;
    if (cuda_end(&call, status) == 0) {
        result = tensor_hand_over(keys, scores);
        scores = NULL;
    }
done:
    /* Its library gives scratch memory to others only after what was launched on this stream. */
    tensor_drop(scratch);
    tensor_drop(scores);
    return result;
}

static PyObject *select_on_cuda(module_state *st, tensor *scores, const int64_t *shape)
{
    dl_managed_tensor_versioned *positions;
    cuda_call call;
    cuda_status status;
    if (scores->shape[1] > CUDA_MOST_SIZE || scores->shape[2] > CUDA_MOST_SIZE) {
        PyErr_Format(PyExc_ValueError,
                     "scores: expected at most 2^30 heads and scores of a row on CUDA, got [%lld, %lld, %lld]",
                     (long long)shape[0], (long long)shape[1], (long long)scores->shape[2]);
        return NULL;
    }
    if (cuda_begin(st, (tensor *const[]){scores}, 1, &call) < 0 ||
        tensor_allocate(scores, DTYPE_INT64, 3, shape, &positions) < 0)
        return NULL;
    const cuda_selection selection = {.scores = scores->data,
                                      .batch = shape[0],
                                      .heads = shape[1],
                                      .n = scores->shape[2],
                                      .batch_stride = scores->strides[0],
                                      .head_stride = scores->strides[1],
                                      .k = shape[2],
                                      .positions = tensor_memory(positions)};
    CUDA_RUN(status, cuda_select_top(call.device, call.stream, &selection, &call.error));
    if (cuda_end(&call, status) == 0)
        return tensor_hand_over(scores, positions);
    tensor_drop(positions);
    return NULL;
}

static int compact_on_cuda(module_state *st, const cache_compaction *c, tensor *keys, tensor *values, tensor *positions)
{
    cuda_call call;
    cuda_status status;
    if (cuda_begin(st, (tensor *const[]){keys, values, positions}, 3, &call) < 0)
        return -1;
    CUDA_RUN(status, cuda_compact(call.device, call.stream, c, &call.error));
    return cuda_end(&call, status);
}

static int append_on_cuda(module_state *st, tensor t[4], const cache_array cache[2], const cache_array added[2],
                          int64_t position)
{
    cuda_call call;
    cuda_status status;
    if (cuda_begin(st, (tensor *const[]){&t[0], &t[1], &t[2], &t[3]}, 4, &call) < 0)
        return -1;
    CUDA_RUN(status, cuda_append(call.device, call.stream, cache, added, position, &call.error));
    return cuda_end(&call, status);
}

const char doc_attention_scores[] =
    "attention_scores($module, /, queries, keys, *, start, stop, scale=None, kernel=7, aggregation='layer', check=True)\n"
    "--\n\n"
    "How much attention queries pay to the keys of a region:\n\n"
    "    a[h, r, t] = softmax over t in [start, stop) of scale * <q[h, r], k[h // G, t]>\n"
    "    g[t] = mean of a over r, and over all heads ('layer') or the G heads that share a key head ('group')\n"
    "    score[t] = (1 / kernel) * sum of g[t - kernel // 2 .. t + kernel // 2], with zeros outside of the region\n\n"
    "(Reasoning Path Compression, arXiv 2505.13866). Computed in float32 whatever the dtype, from a few\n"
    "queries at a time: the memory needed is that of their weights.\n\n"
    "Parameters\n----------\n"
    "queries : tensor [B, Hq, R, D]\n"
    "    float32, float16 or bfloat16, after rotary embedding; contiguous last dimension.\n"
    "keys : tensor [B, Hkv, s, D]\n"
    "    Of the same dtype; Hq is a multiple of Hkv, and G = Hq / Hkv.\n"
    "start, stop : int\n"
    "    The region, in tokens; not empty.\n"
    "scale : float, optional\n"
    "    Default 1 / sqrt(D).\n"
    "kernel : int, default 7\n"
    "    Positions that scores are averaged over, odd; 1 leaves them as they are.\n"
    "aggregation : {'layer', 'group'}\n"
    "check : bool, default True\n"
    "    Whether NaN and infinities among queries, keys and their products raise. Otherwise they make scores NaN, which\n"
    "    select_top sorts as lowest; so they always do for CUDA tensors: to look would mean to wait for the device.\n\n"
    "Returns\n-------\n"
    "scores : tensor [B, 1 or Hkv, stop - start], float32, of the library that `keys` came from\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

PyObject *py_attention_scores(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "attention_scores",
        4,
        2,
        8,
        {NAME(queries), NAME(keys), NAME(start), NAME(stop), NAME(scale), NAME(kernel), NAME(aggregation), NAME(check)}};
    module_state *st = state_of(module);
    PyObject *v[8], *result = NULL;
    tensor queries = {0}, keys = {0};
    cache_attention attn = {.threads = atomic_load(&st->threads)};
    int32_t start = 0, stop = 0, kernel = 7;
    int check = 1, status;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[2], "start", 0, &start) < 0 ||
        arg_int(v[3], "stop", 0, &stop) < 0 || arg_int(v[5], "kernel", 1, &kernel) < 0 || arg_scale(v[4], &attn.scale) < 0)
        goto done;
    if (kernel % 2 == 0) {
        PyErr_Format(PyExc_ValueError, "kernel: expected an odd number, got %d", (int)kernel);
        goto done;
    }
    if (v[6] && !PyUnicode_Check(v[6])) {
        PyErr_Format(PyExc_TypeError, "aggregation: expected a string, got %s", Py_TYPE(v[6])->tp_name);
        goto done;
    }
    attn.by_group = v[6] && PyUnicode_CompareWithASCIIString(v[6], "group") == 0;
    if (v[6] && !attn.by_group && PyUnicode_CompareWithASCIIString(v[6], "layer") != 0) {
        PyErr_Format(PyExc_ValueError, "aggregation: expected 'layer' or 'group', got %R", v[6]);
        goto done;
    }
    if ((v[7] && (check = PyObject_IsTrue(v[7])) < 0) || take_array(st, v[1], "keys", NULL, &keys, &attn.keys) < 0 ||
        take_array(st, v[0], "queries", &keys, &queries, &attn.queries) < 0 ||
        check_equal("queries", "rows", attn.queries.batch, "keys", attn.keys.batch) < 0 ||
        check_equal("queries", "numbers a token", attn.queries.size, "keys", attn.keys.size) < 0 ||
        check_not_empty(&attn.queries, "queries") < 0 || check_not_empty(&attn.keys, "keys") < 0 ||
        check_range("stop", stop, 1, attn.keys.tokens) < 0 || check_range("start", start, 0, stop - 1) < 0 ||
        check_groups(&attn.queries, attn.keys.heads, "keys") < 0)
        goto done;
    if (!has_scale(v[4]))
        attn.scale = 1 / sqrtf((float)attn.keys.size);

    attn.start = start, attn.stop = stop, attn.width = kernel;
    int64_t shape[3] = {attn.keys.batch, attn.by_group ? attn.keys.heads : 1, stop - start};
    if (on_cuda(&keys)) {
        result = scores_on_cuda(st, &attn, &queries, &keys, shape);
        goto done;
    }
    if (tensor_settle((tensor *const[]){&queries, &keys}, 2) < 0)
        goto done;
    attn.scores = PyMem_RawMalloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *attn.scores);
    if (!attn.scores) {
        PyErr_NoMemory();
        goto done;
    }
    RUN((double)shape[2] * (double)attn.keys.size * (double)attn.queries.heads, status = cache_attention_scores(&attn));
    if (check_scores(status > 0 && !check ? 0 : status) == 0)
        result = tensor_new(st, &keys, DTYPE_FLOAT32, 3, shape, attn.scores);
done:
    PyMem_RawFree(attn.scores);
    tensor_release(&queries);
    tensor_release(&keys);
    return result;
}

const char doc_select_top[] =
    "select_top($module, /, scores, k)\n--\n\n"
    "The positions of the k highest scores of each row, in O(n). Ties go to the lower position, NaN is lower than all, and\n"
    "the positions ascend, so that a cache that keeps them keeps its order in time.\n\n"
    "Parameters\n----------\n"
    "scores : tensor [B, H, n], float32\n"
    "    As from attention_scores; contiguous last dimension.\n"
    "k : int\n"
    "    From 1 to n.\n\n"
    "Returns\n-------\n"
    "positions : tensor [B, H, k], int64, of the library that `scores` came from\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Naming the argument, what came and what is wanted.";

PyObject *py_select_top(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"select_top", 2, 2, 2, {NAME(scores), NAME(k)}};
    module_state *st = state_of(module);
    PyObject *v[2], *result = NULL;
    tensor scores = {0};
    int64_t *positions = NULL;
    int32_t k = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[1], "k", 1, &k) < 0 ||
        tensor_borrow(st, v[0], "scores", &scores) < 0 || check_ndim(&scores, 3, "[batch, heads, length]") < 0 ||
        tensor_check_device(&scores, NULL) < 0)
        goto done;
    if (scores.dtype != DTYPE_FLOAT32) {
        tensor_fail_dtype(&scores, "float32");
        goto done;
    }
    const int64_t n = scores.shape[2], shape[3] = {scores.shape[0], scores.shape[1], k};
    if (check_contiguous(&scores) < 0)
        goto done;
    if (k > n) {
        PyErr_Format(PyExc_ValueError, "k: expected at most the %lld scores of a row, got %d", (long long)n, (int)k);
        goto done;
    }
    if (on_cuda(&scores)) {
        result = select_on_cuda(st, &scores, shape);
        goto done;
    }
    if (tensor_settle((tensor *const[]){&scores}, 1) < 0)
        goto done;
    positions = PyMem_RawMalloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *positions + 1);
    if (!positions) {
        PyErr_NoMemory();
        goto done;
    }
    RUN(shape[0] * shape[1] * n, for (int64_t b = 0; shape[1] > 0 && b < shape[0]; b++)
                                     cache_select_top((const float *)scores.data + b * scores.strides[0], shape[1], n,
                                                      scores.strides[1], k, positions + b * shape[1] * k));
    result = tensor_new(st, &scores, DTYPE_INT64, 3, shape, positions);
done:
    PyMem_RawFree(positions);
    tensor_release(&scores);
    return result;
}

const char doc_compact[] =
    "compact_($module, /, keys, values, positions, *, start, stop, length)\n--\n\n"
    "Drops all tokens of [start, stop) but those at start + positions, in place: they and the tokens of [stop, length) "
    "move\n"
    "down to `start` in their order. Nothing is allocated but, on the CPU, a copy of the positions.\n\n"
    "Parameters\n----------\n"
    "keys, values : tensor [B, Hkv, capacity, D]\n"
    "    float32, float16 or bfloat16, of the same dtype; contiguous last dimension. Sizes D may differ. They may lie in "
    "one\n"
    "    buffer, but share no number.\n"
    "positions : tensor [B, 1 or Hkv, k], int64\n"
    "    Strictly ascending, in [0, stop - start); as from select_top. On a CUDA device nobody looks at them before the\n"
    "    launch: any others give a cache of no use, but nothing beyond `length` or before `start` is touched.\n"
    "start, stop, length : int\n"
    "    Tokens; 0 <= start <= stop <= length <= capacity.\n\n"
    "Returns\n-------\n"
    "int\n"
    "    The new length, length - (stop - start) + k. What lies behind is undefined.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is moved, naming the argument, what came and what is wanted.";

PyObject *py_compact(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "compact_", 6, 3, 6, {NAME(keys), NAME(values), NAME(positions), NAME(start), NAME(stop), NAME(length)}};
    module_state *st = state_of(module);
    PyObject *v[6], *result = NULL;
    tensor keys = {0}, values = {0}, positions = {0};
    int64_t *copied = NULL;
    cache_compaction c = {.threads = atomic_load(&st->threads)};
    int32_t start = 0, stop = 0, length = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[3], "start", 0, &start) < 0 ||
        arg_int(v[4], "stop", 0, &stop) < 0 || arg_int(v[5], "length", 0, &length) < 0 ||
        take_cache(st, v, &keys, &values, &c.keys, &c.values) < 0 || check_range("length", length, 0, c.keys.tokens) < 0 ||
        check_range("stop", stop, 0, length) < 0 || check_range("start", start, 0, stop) < 0 ||
        take_positions(st, v[2], &keys, c.keys.batch, "keys", stop - start, &positions) < 0 ||
        check_apart(&positions, &keys) < 0 || check_apart(&positions, &values) < 0)
        goto done;
    c.positions = positions.data;
    c.position_batch_stride = positions.strides[0];
    c.position_head_stride = positions.shape[1] == 1 ? 0 : positions.strides[1];
    c.kept = positions.shape[2];
    c.start = start, c.stop = stop, c.length = length;
    if (on_cuda(&keys)) {
        if (compact_on_cuda(st, &c, &keys, &values, &positions) < 0)
            goto done;
    } else {
        if (tensor_settle((tensor *const[]){&keys, &values, &positions}, 3) < 0 ||
            !(copied = copy_positions(&positions, c.stop - c.start)))
            goto done;
        c.positions = copied;
        c.position_batch_stride = positions.shape[1] * c.kept;
        c.position_head_stride = positions.shape[1] == 1 ? 0 : c.kept;
        RUN(c.keys.batch * c.keys.heads * (c.length - c.start) * c.keys.size, cache_compact(&c));
    }
    result = PyLong_FromLongLong(c.length - (c.stop - c.start) + c.kept);
done:
    PyMem_RawFree(copied);
    tensor_release(&keys);
    tensor_release(&values);
    tensor_release(&positions);
    return result;
}

const char doc_append[] = "append_($module, /, keys, values, new_keys, new_values, *, position)\n--\n\n"
                          "Writes new keys and values into a preallocated cache, in place and in one call.\n\n"
                          "Parameters\n----------\n"
                          "keys, values : tensor [B, Hkv, capacity, D]\n"
                          "    float32, float16 or bfloat16, of the same dtype; contiguous last dimension.\n"
                          "new_keys, new_values : tensor [B, Hkv, q, D]\n"
                          "    Of the same dtype; not of the memory that is written.\n"
                          "position : int\n"
                          "    The first of the q tokens that are written.\n\n"
                          "Returns\n-------\n"
                          "int\n"
                          "    position + q.\n\n"
                          "Raises\n------\n"
                          "TypeError, ValueError\n"
                          "    Before anything is written, naming the argument, what came and what is wanted.";

PyObject *py_append(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "append_", 5, 4, 5, {NAME(keys), NAME(values), NAME(new_keys), NAME(new_values), NAME(position)}};
    module_state *st = state_of(module);
    PyObject *v[5], *result = NULL;
    tensor t[4] = {0};
    cache_array keys, values, new_keys, new_values;
    int32_t position = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[4], "position", 0, &position) < 0 ||
        take_cache(st, v, &t[0], &t[1], &keys, &values) < 0 ||
        take_array(st, v[2], "new_keys", &t[0], &t[2], &new_keys) < 0 ||
        take_array(st, v[3], "new_values", &t[0], &t[3], &new_values) < 0 ||
        check_equal("new_keys", "rows", new_keys.batch, "keys", keys.batch) < 0 ||
        check_equal("new_keys", "heads", new_keys.heads, "keys", keys.heads) < 0 ||
        check_equal("new_keys", "numbers a token", new_keys.size, "keys", keys.size) < 0 ||
        check_equal("new_values", "rows", new_values.batch, "values", values.batch) < 0 ||
        check_equal("new_values", "heads", new_values.heads, "values", values.heads) < 0 ||
        check_equal("new_values", "numbers a token", new_values.size, "values", values.size) < 0 ||
        check_equal("new_values", "tokens", new_values.tokens, "new_keys", new_keys.tokens) < 0)
        goto done;
    if (new_keys.tokens > keys.tokens) {
        PyErr_Format(PyExc_ValueError, "new_keys: expected at most the %lld tokens of keys, got %lld",
                     (long long)keys.tokens, (long long)new_keys.tokens);
        goto done;
    }
    if (position > keys.tokens - new_keys.tokens) {
        PyErr_Format(PyExc_ValueError, "position: expected a position from 0 to %lld, so that %lld tokens fit, got %d",
                     (long long)(keys.tokens - new_keys.tokens), (long long)new_keys.tokens, (int)position);
        goto done;
    }
    for (int i = 0; new_keys.tokens > 0 && i < 2; i++) {
        tensor written = t[i];
        written.data = (char *)written.data + position * written.strides[2] * (int64_t)tensor_item_size(&written);
        written.shape[2] = new_keys.tokens;
        if (check_apart(&t[2], &written) < 0 || check_apart(&t[3], &written) < 0)
            goto done;
    }
    if (on_cuda(&t[0])) {
        if (append_on_cuda(st, t, (cache_array[2]){keys, values}, (cache_array[2]){new_keys, new_values}, position) < 0)
            goto done;
    } else {
        if (tensor_settle((tensor *const[]){&t[0], &t[1], &t[2], &t[3]}, 4) < 0)
            goto done;
        RUN(new_keys.batch * new_keys.heads * new_keys.tokens * new_keys.size,
            (cache_append(&keys, &new_keys, position), cache_append(&values, &new_values, position)));
    }
    result = PyLong_FromLongLong(position + new_keys.tokens);
done:
    for (int i = 0; i < 4; i++)
        tensor_release(&t[i]);
    return result;
}

const char doc_attention_tap[] =
    "attention_tap($module, /)\n--\n\n"
    "The address of a callback for llama.cpp's `cb_eval`, which adds up attention, and the bytes of what it is given as "
    "`user_data`: a struct that is laid out in csrc/cache/tap.h.";

PyObject *py_attention_tap(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return Py_BuildValue("(Nn)", PyLong_FromVoidPtr((void *)(uintptr_t)cache_tap), (Py_ssize_t)sizeof(attention_tap));
}
