/* Caches in blocks as Python functions; nothing is written before everything has been checked. */
#include <math.h>

#include "../cache/blocks.h"
#include "../cuda/cache.h"
#include "args.h"
#include "cache_args.h"
#include "cuda.h"
#include "functions.h"

/* A [blocks, heads, tokens, size] tensor of one of the narrow float types: on the CPU with any strides. */
static int take_blocks(module_state *st, PyObject *object, const char *name, const tensor *like, tensor *t, cache_blocks *a)
{
    static const axes axes = {"[blocks, heads, tokens, size]", {"blocks", "heads", "tokens a block", "numbers a token"}, 1};
    if (take_narrow(st, object, name, like, &axes, t) < 0 || (on_cuda(t) && check_contiguous(t) < 0))
        return -1;
    *a = (cache_blocks){t->data,     (float_dtype)t->dtype, t->shape[0],   t->shape[1],   t->shape[2],
                        t->shape[3], t->strides[0],         t->strides[1], t->strides[2], t->strides[3]};
    return 0;
}

/* Each head of each block as a piece of memory. Returns 0 if the pieces of a tensor overlap. */
static int as_pieces(const tensor *t, tensor *pieces)
{
    int64_t extent = 1;
    *pieces = *t;
    pieces->ndim = 3;
    for (int i = 2; i < 4; i++) {
        const int64_t reach = (t->shape[i] - 1) * t->strides[i];
        extent += llabs(reach);
        if (reach < 0)
            pieces->data = (char *)pieces->data + reach * (int64_t)tensor_item_size(t);
    }
    pieces->shape[2] = extent;
    pieces->strides[2] = 1;
    for (int i = 0; i < 2; i++)
        if (t->shape[i] > 1 && llabs(t->strides[i]) < extent)
            return 0;
    return 1;
}

/* Keys and values of one buffer may have other strides within a block, where one of them is stored with tokens last. */
static int check_blocks_apart(const tensor *values, const tensor *keys)
{
    tensor pieces[2];
    const int same = (values->strides[2] == keys->strides[2] || values->shape[2] == 1) &&
                     (values->strides[3] == keys->strides[3] || (values->shape[3] == 1 && keys->shape[3] == 1));
    if (!same && as_pieces(values, &pieces[0]) && as_pieces(keys, &pieces[1]))
        return check_apart(&pieces[0], &pieces[1]);
    return check_apart(values, keys);
}

static int64_t blocks_for(int64_t tokens, int64_t block)
{
    return (tokens + block - 1) / block;
}

/* The block row of one request on the CPU, checked and copied: another thread may write to the tensor. With `distinct` the
 * blocks from the first-th on have to be. PyMem_RawFree it. NULL with an exception. */
static int64_t *copy_table(const tensor *t, int64_t first, int64_t used, int64_t blocks, int distinct)
{
    int64_t *copy = PyMem_RawMalloc((size_t)used * sizeof *copy + 1);
    unsigned char *seen = PyMem_RawCalloc((size_t)(blocks + 7) / 8, 1);
    if (!copy || !seen) {
        PyErr_NoMemory();
        goto fail;
    }
    for (int64_t i = first; i < used; i++) {
        const int64_t block = tensor_id(t, i * t->strides[0]);
        if (block < 0 || block >= blocks) {
            PyErr_Format(PyExc_ValueError, "blocks: expected blocks in [0, %lld), got %lld at [%lld]", (long long)blocks,
                         (long long)block, (long long)i);
            goto fail;
        }
        if (distinct && seen[block / 8] >> (block % 8) & 1) {
            PyErr_Format(PyExc_ValueError, "blocks: expected distinct blocks behind start, got %lld a second time at [%lld]",
                         (long long)block, (long long)i);
            goto fail;
        }
        seen[block / 8] |= (unsigned char)(1u << (block % 8));
        copy[i] = block;
    }
    PyMem_RawFree(seen);
    return copy;
fail:
    PyMem_RawFree(seen);
    PyMem_RawFree(copy);
    return NULL;
}

/* The same on a device, where kernels do with what they find. */
static cuda_table table_of(const tensor *t, const cache_blocks *cache)
{
    return (cuda_table){t->data, t->strides[0], (int32_t)cache->blocks, (int32_t)cache->tokens, t->dtype == DTYPE_INT64};
}

/* A block row that is long enough for `length` tokens. */
static int take_table(module_state *st, PyObject *object, const tensor *cache, int64_t length, tensor *t)
{
    if (tensor_borrow(st, object, "blocks", t) < 0 || check_ndim(t, 1, "[blocks]") < 0 ||
        tensor_check_device(t, cache) < 0 || tensor_check_int(t) < 0)
        return -1;
    if (blocks_for(length, cache->shape[2]) <= t->shape[0])
        return 0;
    PyErr_Format(PyExc_ValueError, "blocks: expected at least %lld, for %lld tokens in blocks of %lld, got %lld",
                 (long long)blocks_for(length, cache->shape[2]), (long long)length, (long long)cache->shape[2],
                 (long long)t->shape[0]);
    return -1;
}

/* A number of evidence for each key of blocks of one head. */
static int take_block_evidence(module_state *st, PyObject *object, const tensor *keys, const cache_blocks *of, tensor *t)
{
    if (check_equal("keys", "heads a block", of->heads, "evidence", 1) < 0 ||
        take_evidence(st, object, keys, 2, "[blocks, tokens]", t) < 0 ||
        check_equal("evidence", "blocks", t->shape[0], "keys", of->blocks) < 0)
        return -1;
    return check_equal("evidence", "tokens a block", t->shape[1], "keys", of->tokens);
}

static int compact_on_cuda(module_state *st, const cache_block_compaction *c, tensor *keys, tensor *values, tensor *evidence,
                           tensor *table, tensor *positions)
{
    cuda_call call;
    cuda_status status;
    if (cuda_begin(st, (tensor *const[]){keys, values, table, positions, evidence}, c->evidence.data ? 5 : 4, &call) < 0)
        return -1;
    CUDA_RUN(status, cuda_compact_blocks(call.device, call.stream, c, table_of(table, &c->keys), &call.error));
    return cuda_end(&call, status);
}

static int gather_on_cuda(module_state *st, const cache_gathering *g, tensor *out, tensor *cache, tensor *table)
{
    cuda_call call;
    cuda_status status;
    if (check_range("start", g->start, 0, INT32_MAX - g->out.tokens) < 0 ||
        cuda_begin(st, (tensor *const[]){out, cache, table}, 3, &call) < 0)
        return -1;
    CUDA_RUN(status, cuda_gather_blocks(call.device, call.stream, g, table_of(table, &g->cache), &call.error));
    return cuda_end(&call, status);
}

const char doc_compact_blocks[] =
    "compact_blocks_($module, /, keys, values, blocks, positions, *, start, stop, length, evidence=None)\n--\n\n"
    "compact_ for one request of an engine whose cache is in blocks: drops all tokens of [start, stop) but those at\n"
    "start + positions, in place. They and the tokens of [stop, length) move down to `start` in their order. Nothing is\n"
    "allocated but copies of the block row and the positions.\n\n"
    "Parameters\n----------\n"
    "keys, values : tensor [N, Hkv, block, D]\n"
    "    float32, float16 or bfloat16, of the same dtype, on the CPU with any strides, on a CUDA device with a contiguous "
    "last\n"
    "    dimension. Sizes D may differ. They may lie in one buffer, but share no number.\n"
    "blocks : tensor [n], int32 or int64\n"
    "    The request's blocks: token t lies in blocks[t // block] at t % block. Those that hold [start, length) are "
    "distinct.\n"
    "positions : tensor [1, 1 or Hkv, k], int64\n"
    "    Strictly ascending, in [0, stop - start); as from select_top. Neither these nor the blocks are checked on a CUDA\n"
    "    device, but nothing outside of the cache is touched whatever they are.\n"
    "start, stop, length : int\n"
    "    Tokens; 0 <= start <= stop <= length <= n * block.\n"
    "evidence : tensor [N, block], float32, optional\n"
    "    Moves along with the keys, of which there is one head; not of their memory. Contiguous last dimension.\n\n"
    "Returns\n-------\n"
    "int\n"
    "    The new length, length - (stop - start) + k. What lies behind is undefined.\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is moved, naming the argument, what came and what is wanted.";

PyObject *py_compact_blocks(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {
        "compact_blocks_",
        7,
        4,
        8,
        {NAME(keys), NAME(values), NAME(blocks), NAME(positions), NAME(start), NAME(stop), NAME(length), NAME(evidence)}};
    module_state *st = state_of(module);
    PyObject *v[8], *result = NULL;
    tensor keys = {0}, values = {0}, table = {0}, positions = {0}, evidence = {0};
    int64_t *rows = NULL, *copied = NULL;
    cache_block_compaction c = {.threads = atomic_load(&st->threads)};
    int32_t start = 0, stop = 0, length = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[4], "start", 0, &start) < 0 ||
        arg_int(v[5], "stop", 0, &stop) < 0 || arg_int(v[6], "length", 0, &length) < 0 ||
        take_blocks(st, v[0], "keys", NULL, &keys, &c.keys) < 0 || tensor_check_writable(&keys) < 0 ||
        take_blocks(st, v[1], "values", &keys, &values, &c.values) < 0 || tensor_check_writable(&values) < 0 ||
        check_equal("values", "blocks", c.values.blocks, "keys", c.keys.blocks) < 0 ||
        check_equal("values", "heads", c.values.heads, "keys", c.keys.heads) < 0 ||
        check_equal("values", "tokens a block", c.values.tokens, "keys", c.keys.tokens) < 0 ||
        check_blocks_apart(&values, &keys) < 0 || check_range("stop", stop, 0, length) < 0 ||
        check_range("start", start, 0, stop) < 0 || take_table(st, v[2], &keys, length, &table) < 0 ||
        take_positions(st, v[3], &keys, 1, "requests", stop - start, &positions) < 0)
        goto done;
    if (v[7] && v[7] != Py_None) {
        if (take_block_evidence(st, v[7], &keys, &c.keys, &evidence) < 0 || check_apart(&evidence, &keys) < 0 ||
            check_apart(&evidence, &values) < 0 || check_apart(&evidence, &table) < 0 ||
            check_apart(&evidence, &positions) < 0)
            goto done;
        c.evidence = (cache_blocks){.data = evidence.data,
                                    .dtype = FLOAT32,
                                    .blocks = c.keys.blocks,
                                    .heads = 1,
                                    .tokens = c.keys.tokens,
                                    .size = 1,
                                    .block_stride = evidence.strides[0],
                                    .token_stride = 1,
                                    .size_stride = 1};
    }
    for (int i = 0; i < 2; i++)
        if (check_apart(i ? &positions : &table, &keys) < 0 || check_apart(i ? &positions : &table, &values) < 0)
            goto done;
    c.positions = positions.data;
    c.position_head_stride = positions.shape[1] == 1 ? 0 : positions.strides[1];
    c.kept = positions.shape[2];
    c.start = start, c.stop = stop, c.length = length;
    if (on_cuda(&keys)) {
        if (compact_on_cuda(st, &c, &keys, &values, &evidence, &table, &positions) < 0)
            goto done;
    } else {
        if (tensor_settle((tensor *const[]){&keys, &values, &table, &positions, &evidence}, 5) < 0 ||
            !(rows = copy_table(&table, start / c.keys.tokens, blocks_for(length, c.keys.tokens), c.keys.blocks, 1)) ||
            !(copied = copy_positions(&positions, stop - start)))
            goto done;
        c.table = rows;
        c.positions = copied;
        c.position_head_stride = positions.shape[1] == 1 ? 0 : c.kept;
        RUN(c.keys.heads * (c.length - c.start) * c.keys.size, cache_compact_blocks(&c));
    }
    result = PyLong_FromLongLong(c.length - (c.stop - c.start) + c.kept);
done:
    PyMem_RawFree(rows);
    PyMem_RawFree(copied);
    tensor_release(&keys);
    tensor_release(&values);
    tensor_release(&table);
    tensor_release(&positions);
    tensor_release(&evidence);
    return result;
}

const char doc_gather_blocks[] =
    "gather_blocks_($module, /, out, cache, blocks, *, start)\n--\n\n"
    "Copies tokens of one request of an engine whose cache is in blocks: out[0, :, i] is its token start + i. As many as\n"
    "`out` has room for, for attention_scores and others that want them side by side.\n\n"
    "Parameters\n----------\n"
    "out : tensor [1, Hkv, n, D]\n"
    "    float32, float16 or bfloat16; contiguous last dimension.\n"
    "cache : tensor [N, Hkv, block, D]\n"
    "    Keys or values, of the same dtype, on the CPU with any strides, on a CUDA device with a contiguous last "
    "dimension;\n"
    "    not of the memory that is written.\n"
    "blocks : tensor [n], int32 or int64\n"
    "    The request's blocks: token t lies in blocks[t // block] at t % block.\n"
    "start : int\n"
    "    The first token.\n\n"
    "Returns\n-------\n"
    "out\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted.";

PyObject *py_gather_blocks(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"gather_blocks_", 4, 3, 4, {NAME(out), NAME(cache), NAME(blocks), NAME(start)}};
    module_state *st = state_of(module);
    PyObject *v[4], *result = NULL;
    tensor out = {0}, cache = {0}, table = {0};
    int64_t *rows = NULL;
    cache_gathering g = {.threads = atomic_load(&st->threads)};
    int32_t start = 0;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[3], "start", 0, &start) < 0 ||
        take_array(st, v[0], "out", NULL, &out, &g.out) < 0 || tensor_check_writable(&out) < 0 ||
        take_blocks(st, v[1], "cache", &out, &cache, &g.cache) < 0 ||
        check_equal("out", "rows", g.out.batch, "requests", 1) < 0 ||
        check_equal("out", "heads", g.out.heads, "cache", g.cache.heads) < 0 ||
        check_equal("out", "numbers a token", g.out.size, "cache", g.cache.size) < 0 || check_apart(&out, &cache) < 0 ||
        take_table(st, v[2], &cache, start + g.out.tokens, &table) < 0 || check_apart(&table, &out) < 0)
        goto done;
    g.start = start;
    if (on_cuda(&out)) {
        if (gather_on_cuda(st, &g, &out, &cache, &table) < 0)
            goto done;
    } else {
        const int64_t used = blocks_for(start + g.out.tokens, g.cache.tokens);
        if (tensor_settle((tensor *const[]){&out, &cache, &table}, 3) < 0 ||
            !(rows = copy_table(&table, start / g.cache.tokens, used, g.cache.blocks, 0)))
            goto done;
        g.table = rows;
        RUN(g.out.heads * g.out.tokens * g.out.size, cache_gather_blocks(&g));
    }
    result = Py_NewRef(v[0]);
done:
    PyMem_RawFree(rows);
    tensor_release(&out);
    tensor_release(&cache);
    tensor_release(&table);
    return result;
}

const char doc_echo_blocks[] =
    "echo_blocks_($module, /, evidence, queries, keys, blocks, lengths, *, start, scale=None, asked=None, "
    "window=256)\n--\n\n"
    "echo_scores_ for one request of an engine whose heads have blocks of their own, on the CPU: raises the evidence of "
    "its\n"
    "entries from `start` on to the largest share of attention, among all entries, that a query of their group gives "
    "them.\n\n"
    "Parameters\n----------\n"
    "evidence : tensor [N, block], float32, contiguous last dimension\n"
    "    Of each entry of each block; not of the memory of the others.\n"
    "queries : tensor [1, Hq, q, D]\n"
    "    float32, float16 or bfloat16; contiguous last dimension.\n"
    "keys : tensor [N, 1, block, D]\n"
    "    Of the same dtype, with any strides: entry t of head h is at t % block of blocks[h, t // block].\n"
    "blocks : tensor [Hkv, n], int64\n"
    "    Hq is a multiple of Hkv.\n"
    "lengths : tensor [1, Hkv], int64\n"
    "    Entries of each head.\n"
    "start : int\n"
    "    The first entry that evidence is kept of, and that `asked` may look at.\n"
    "scale : float, optional\n"
    "    Default 1 / sqrt(D).\n"
    "asked : tensor [1, Hq, q, D], optional\n"
    "window : int, default 256\n"
    "    As in echo_scores_.\n\n"
    "Returns\n-------\n"
    "None\n\n"
    "Raises\n------\n"
    "TypeError, ValueError\n"
    "    Before anything is written, naming the argument, what came and what is wanted; also for NaN and infinities among\n"
    "    queries, keys and their products.";

/* The blocks of each head and its entries, checked and copied: [H, W] and [H] in one piece. NULL with an exception. */
static int64_t *copy_tables(const tensor *blocks, const tensor *lengths, const cache_blocks *keys)
{
    const int64_t heads = blocks->shape[0], width = blocks->shape[1];
    int64_t *copy = PyMem_RawCalloc((size_t)(heads * (width + 1)) + 1, sizeof *copy);
    if (!copy) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int64_t head = 0; head < heads; head++) {
        const int64_t length = count_at(lengths, 0, head, 0);
        if (check_count(lengths, length, width * keys->tokens, "the room in the head's blocks", 0, head) < 0)
            goto fail;
        copy[heads * width + head] = length;
        for (int64_t i = 0; i < blocks_for(length, keys->tokens); i++) {
            const int64_t block = count_at(blocks, head, i, 0);
            if (block < 0 || block >= keys->blocks) {
                PyErr_Format(PyExc_ValueError, "blocks: expected blocks in [0, %lld), got %lld at [%lld, %lld]",
                             (long long)keys->blocks, (long long)block, (long long)head, (long long)i);
                goto fail;
            }
            copy[head * width + i] = block;
        }
    }
    return copy;
fail:
    PyMem_RawFree(copy);
    return NULL;
}

PyObject *py_echo_blocks(PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames)
{
    static const signature sig = {"echo_blocks_",
                                  6,
                                  5,
                                  9,
                                  {NAME(evidence), NAME(queries), NAME(keys), NAME(blocks), NAME(lengths), NAME(start),
                                   NAME(scale), NAME(asked), NAME(window)}};
    module_state *st = state_of(module);
    PyObject *v[9], *result = NULL;
    tensor evidence = {0}, queries = {0}, keys = {0}, asked = {0}, blocks = {0}, lengths = {0};
    cache_block_echo echo = {.threads = atomic_load(&st->threads)};
    int64_t *tables = NULL;
    int32_t start = 0, window = 256;
    int status;
    if (args_match(st, &sig, args, n_args, kwnames, v) < 0 || arg_int(v[5], "start", 0, &start) < 0 ||
        arg_int(v[8], "window", 0, &window) < 0 || arg_scale(v[6], &echo.scale) < 0 ||
        take_array(st, v[1], "queries", NULL, &queries, &echo.queries) < 0 || tensor_check_cpu(&queries) < 0 ||
        take_blocks(st, v[2], "keys", &queries, &keys, &echo.keys) < 0 ||
        check_equal("queries", "rows", echo.queries.batch, "requests", 1) < 0 ||
        check_equal("keys", "numbers a token", echo.keys.size, "queries", echo.queries.size) < 0 ||
        take_block_evidence(st, v[0], &keys, &echo.keys, &evidence) < 0 ||
        take_counts(st, v[3], "blocks", 0, 1, &blocks) < 0 || take_counts(st, v[4], "lengths", 0, 1, &lengths) < 0 ||
        check_equal("lengths", "rows", lengths.shape[0], "requests", 1) < 0 ||
        check_equal("lengths", "heads", lengths.shape[1], "blocks", blocks.shape[0]) < 0)
        goto done;
    echo.heads = blocks.shape[0], echo.width = blocks.shape[1], echo.start = start, echo.window = window;
    if (check_groups(&echo.queries, echo.heads, "blocks") < 0 || check_not_empty(&echo.queries, "queries") < 0)
        goto done;
    if (!has_scale(v[6]))
        echo.scale = 1 / sqrtf((float)echo.keys.size);
    if (take_asked(st, v[7], &queries, &echo.queries, &evidence, &asked, &echo.asked) < 0 ||
        check_apart(&evidence, &queries) < 0 || check_apart(&evidence, &keys) < 0 || check_apart(&evidence, &blocks) < 0 ||
        tensor_settle((tensor *const[]){&evidence, &queries, &keys, &asked, &blocks, &lengths}, 6) < 0 ||
        !(tables = copy_tables(&blocks, &lengths, &echo.keys)))
        goto done;
    echo.shares = evidence.data, echo.share_stride = evidence.strides[0];
    echo.tables = tables, echo.lengths = tables + echo.heads * echo.width;
    double numbers = 0;
    for (int64_t head = 0; head < echo.heads; head++)
        numbers += (double)echo.lengths[head] * (double)echo.keys.size;
    RUN(numbers, status = cache_echo_in_blocks(&echo));
    if (check_scores(status) == 0)
        result = Py_NewRef(Py_None);
done:
    PyMem_RawFree(tables);
    tensor_release(&evidence);
    tensor_release(&queries);
    tensor_release(&keys);
    tensor_release(&asked);
    tensor_release(&blocks);
    tensor_release(&lengths);
    return result;
}
