/* Caches whose heads have runs of slots of their own, as Python functions: arguments are matched, borrowed and checked here;
 * nothing is written before everything has been checked. */
#include <math.h>

#include "args.h"
#include "cache_args.h"
#include "functions.h"

/* Where each head's run is, [B, Hkv], checked as it is copied, since another thread may write to the tensors meanwhile, with
 * room for so many more entries. Keys of `size` numbers are `stride` apart. PyMem_RawFree it. NULL with an exception. */
static cache_span *copy_spans(const tensor *starts, const tensor *lengths, const tensor *pads, const cache_array *keys,
                              int64_t more)
{
    const int64_t batch = starts->shape[0], heads = starts->shape[1];
    cache_span *spans = PyMem_RawMalloc((size_t)(batch * heads) * sizeof *spans + 1), *next = spans;
    if (!spans) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t head = 0; head < heads; head++) {
            const int64_t start = count_at(starts, b, head, 0), length = count_at(lengths, b, head, 0);
            const int64_t first = count_at(pads, b, head, 0);
            if (check_count(starts, start, keys->tokens, "the slots of keys", b, head) < 0 ||
                check_count(lengths, length, keys->tokens - start - more,
                            more ? "the slots of keys from this head's first on, less the new ones"
                                 : "the slots of keys from this head's first on",
                            b, head) < 0 ||
                check_count(pads, first, length, "the length of the head", b, head) < 0) {
                PyMem_RawFree(spans);
                return NULL;
            }
            *next++ = (cache_span){start * keys->token_stride, start, first, length};
        }
    }
    return spans;
}

/* starts and lengths, [B, Hkv] of int64, and pads, [B] or NULL. */
static int take_runs(module_state *st, PyObject *const *v, int64_t batch, const char *rows, tensor t[3])
{
    if (take_counts(st, v[0], "starts", 0, 1, &t[0]) < 0 || take_counts(st, v[1], "lengths", 0, 1, &t[1]) < 0 ||
        check_equal("starts", "rows", t[0].shape[0], rows, batch) < 0 ||
        check_equal("lengths", "rows", t[1].shape[0], rows, batch) < 0 ||
        check_equal("lengths", "heads", t[1].shape[1], "starts", t[0].shape[1]) < 0)
        return -1;
    if (v[2] && v[2] != Py_None &&
        (take_counts(st, v[2], "pads", 1, 0, &t[2]) < 0 || check_equal("pads", "rows", t[2].shape[0], rows, batch) < 0))
        return -1;
    return 0;
}

const char doc_append_ragged[] =
    "append_ragged_($module, /, keys, values, new_keys, new_values, *, starts, lengths)\n--\n\n"
    "Writes new keys and values behind those of heads that have lengths of their own, in place and in one call, on the "
    "CPU.\n"
    "The runs of slots of different heads and rows should not overlap.\n\n"
    "Parameters\n----------\n"
    "keys : tensor [S, D]\n"
    "    float32, float16 or bfloat16; contiguous last dimension, as in all that follow. The keys of row b and head h are\n"
    "    keys[starts[b, h] : starts[b, h] + lengths[b, h]], and the new ones follow.\n"
    "values : tensor [S, Dv]\n"
    "new_keys, new_values : tensor [B, Hkv, q, D] and [B, Hkv, q, Dv]\n"
    "    Of the same dtype; not of the memory that is written.\n"
    "starts, lengths : tensor [B, Hkv], int64\n\n"
    "Returns\n-------\n"
    "None\n"
    "    `lengths` stay as they are.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted.";

PyObject *py_append_ragged(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"append_ragged_",
                                  6,
                                  4,
                                  6,
                                  {NAME(keys), NAME(values), NAME(new_keys), NAME(new_values), NAME(starts), NAME(lengths)}};
    module_state *st = state_of(module);
    PyObject *v[6], *result = NULL;
    tensor t[4] = {0}, runs[3] = {0};
    cache_array keys, values, new_keys, new_values;
    cache_span *spans = NULL;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || take_array(st, v[2], "new_keys", NULL, &t[2], &new_keys) < 0 ||
        tensor_check_cpu(&t[2]) < 0 || take_array(st, v[3], "new_values", &t[2], &t[3], &new_values) < 0 ||
        take_slots(st, v[0], "keys", &t[2], &t[0], &keys) < 0 || tensor_check_writable(&t[0]) < 0 ||
        take_slots(st, v[1], "values", &t[2], &t[1], &values) < 0 || tensor_check_writable(&t[1]) < 0 ||
        check_equal("values", "slots", values.tokens, "keys", keys.tokens) < 0 ||
        check_equal("new_keys", "numbers a token", new_keys.size, "keys", keys.size) < 0 ||
        check_equal("new_values", "numbers a token", new_values.size, "values", values.size) < 0 ||
        check_equal("new_values", "rows", new_values.batch, "new_keys", new_keys.batch) < 0 ||
        check_equal("new_values", "heads", new_values.heads, "new_keys", new_keys.heads) < 0 ||
        check_equal("new_values", "tokens", new_values.tokens, "new_keys", new_keys.tokens) < 0 ||
        take_runs(st, (PyObject *const[]){v[4], v[5], NULL}, new_keys.batch, "new_keys", runs) < 0 ||
        check_equal("starts", "heads", runs[0].shape[1], "new_keys", new_keys.heads) < 0 || check_apart(&t[1], &t[0]) < 0 ||
        tensor_settle((tensor *const[]){&t[0], &t[1], &t[2], &t[3], &runs[0], &runs[1]}, 6) < 0 ||
        !(spans = copy_spans(&runs[0], &runs[1], &runs[2], &keys, new_keys.tokens)))
        goto done;
    for (int i = 0; i < 4; i++)
        if (check_apart(&t[2 + i / 2], &t[i % 2]) < 0)
            goto done;
    keys.dtype = values.dtype = new_keys.dtype;
    RUN((double)(new_keys.batch * new_keys.heads * new_keys.tokens) * (double)new_keys.size,
        (cache_append_runs(&keys, &new_keys, spans), cache_append_runs(&values, &new_values, spans)));
    result = Py_NewRef(Py_None);
done:
    PyMem_RawFree(spans);
    for (int i = 0; i < 4; i++)
        tensor_release(&t[i]);
    for (int i = 0; i < 3; i++)
        tensor_release(&runs[i]);
    return result;
}

const char doc_echo_scores[] =
    "echo_scores_($module, /, evidence, queries, keys, *, starts, lengths, pads=None, scale=None, asked=None, window=256,\n"
    "start=0)\n--\n\n"
    "Raises the evidence for each entry of a cache to the largest share of attention that a query gives it, in place, on "
    "the\n"
    "CPU:\n\n"
    "    a[g, j, t] = softmax over t in [pads[b], lengths[b, h]) of scale * <q[b, g, j], k[b, h, t]>\n"
    "    e[b, h, t] = max(e[b, h, t], max over j, and g of the G = Hq / Hkv heads that share key head h, of a[g, j, t])\n\n"
    "There is no causal mask: queries are what may be asked later. Computed in float32 whatever the dtype.\n\n"
    "With `asked`, the same queries where they stand, what these look at there is in the sum that weights are divided "
    "by:\n\n"
    "    a[g, j, t] = exp(x[g, j, t]) / (sum over t' of exp(x[g, j, t']) + sum over u of exp(scale * <asked[b, g, j], k[b, "
    "h, "
    "u]>))\n\n"
    "with x = scale * <q, k> and u from max(pads[b], start, n - window) to n + j, n = lengths[b, h] - q.\n\n"
    "Parameters\n----------\n"
    "evidence : tensor [S], float32, contiguous\n"
    "queries : tensor [B, Hq, q, D]\n"
    "    float32, float16 or bfloat16, turned to the positions where they may be asked; contiguous last dimension.\n"
    "keys : tensor [S, D]\n"
    "    Of the same dtype, with a contiguous last dimension. Those of row b and head h are\n"
    "    keys[starts[b, h] : starts[b, h] + lengths[b, h]]; the same slots of `evidence` are theirs.\n"
    "starts, lengths : tensor [B, Hkv], int64\n"
    "    Hq is a multiple of Hkv.\n"
    "pads : tensor [B], int64, optional\n"
    "    How many entries at the start of each row are padding, which nothing is said of.\n"
    "scale : float, optional\n"
    "    Default 1 / sqrt(D).\n"
    "asked : tensor [B, Hq, q, D], optional\n"
    "    As queries, which they are before they were turned; their own entries are the newest ones of each head.\n"
    "window : int, default 256\n"
    "    Entries before the first of their own that they look at, at most.\n"
    "start : int, default 0\n"
    "    The first entry that they may look at.\n\n"
    "Returns\n-------\n"
    "None\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted; also for NaN and infinities among\n"
    "    queries, keys and their products.";

PyObject *py_echo_scores(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"echo_scores_",
                                  5,
                                  3,
                                  10,
                                  {NAME(evidence), NAME(queries), NAME(keys), NAME(starts), NAME(lengths), NAME(pads),
                                   NAME(scale), NAME(asked), NAME(window), NAME(start)}};
    module_state *st = state_of(module);
    PyObject *v[10], *result = NULL;
    tensor evidence = {0}, queries = {0}, keys = {0}, asked = {0}, runs[3] = {0};
    cache_echo echo = {.threads = atomic_load(&st->threads)};
    int32_t window = 256, start = 0;
    cache_span *spans = NULL;
    double numbers = 0;
    int status;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_scale(v[6], &echo.scale) < 0 ||
        arg_int(v[8], "window", 0, &window) < 0 || arg_int(v[9], "start", 0, &start) < 0 ||
        take_array(st, v[1], "queries", NULL, &queries, &echo.queries) < 0 || tensor_check_cpu(&queries) < 0 ||
        take_slots(st, v[2], "keys", &queries, &keys, &echo.keys) < 0 ||
        check_equal("keys", "numbers a token", echo.keys.size, "queries", echo.queries.size) < 0 ||
        take_evidence(st, v[0], &queries, 1, "[slots], as of keys", &evidence) < 0 ||
        check_equal("evidence", "slots", evidence.shape[0], "keys", echo.keys.tokens) < 0 ||
        take_runs(st, v + 3, echo.queries.batch, "queries", runs) < 0)
        goto done;
    echo.heads = runs[0].shape[1];
    if (check_groups(&echo.queries, echo.heads, "starts") < 0 || check_not_empty(&echo.queries, "queries") < 0)
        goto done;
    if (!has_scale(v[6]))
        echo.scale = 1 / sqrtf((float)echo.keys.size);
    if (take_asked(st, v[7], &queries, &echo.queries, &evidence, &asked, &echo.asked) < 0)
        goto done;
    if (check_apart(&evidence, &queries) < 0 || check_apart(&evidence, &keys) < 0 ||
        tensor_settle((tensor *const[]){&evidence, &queries, &keys, &asked, &runs[0], &runs[1], &runs[2]}, 7) < 0 ||
        !(spans = copy_spans(&runs[0], &runs[1], &runs[2], &echo.keys, 0)))
        goto done;
    for (int64_t i = 0; i < echo.queries.batch * echo.heads; i++)
        numbers += (double)spans[i].length * (double)echo.keys.size;
    echo.shares = evidence.data;
    echo.window = window;
    echo.start = start;
    echo.keys.dtype = echo.queries.dtype;
    echo.spans = spans;
    RUN(numbers, status = cache_echo_scores(&echo));
    if (check_scores(status) == 0)
        result = Py_NewRef(Py_None);
done:
    PyMem_RawFree(spans);
    tensor_release(&evidence);
    tensor_release(&queries);
    tensor_release(&keys);
    tensor_release(&asked);
    for (int i = 0; i < 3; i++)
        tensor_release(&runs[i]);
    return result;
}
