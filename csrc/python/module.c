/* The extension module lzpenalty._core: its state, its functions, its life. */
#include "../cpu/level.h"
#include "../cpu/threads.h"
#include "args.h"
#include "functions.h"
#include "tensor.h"

static PyObject *py_cpu_level(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    return PyUnicode_FromString(cpu_level_name(cpu_current_level()));
}

static PyObject *py_cpu_levels(PyObject *module, PyObject *ignored)
{
    (void)module, (void)ignored;
    PyObject *levels = PyList_New(0);
    for (int i = 0; levels && i < CPU_LEVELS; i++) {
        if (!cpu_level_available((cpu_level)i))
            continue;
        PyObject *name = PyUnicode_FromString(cpu_level_name((cpu_level)i));
        if (!name || PyList_Append(levels, name) < 0)
            Py_CLEAR(levels);
        Py_XDECREF(name);
    }
    return levels;
}

static PyObject *py_set_cpu_level(PyObject *module, PyObject *name)
{
    (void)module;
    for (int i = 0; i < CPU_LEVELS && PyUnicode_Check(name); i++)
        if (PyUnicode_CompareWithASCIIString(name, cpu_level_name((cpu_level)i)) == 0 && cpu_set_level((cpu_level)i) == 0)
            Py_RETURN_NONE;
    return PyErr_Format(PyExc_ValueError, "level: expected one of cpu_levels(), got %R", name);
}

static PyObject *py_get_num_threads(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    return PyLong_FromLong(atomic_load(&state_of(module)->threads));
}

static PyObject *py_set_num_threads(PyObject *module, PyObject *value)
{
    int32_t threads = 1;
    if (arg_int(value, "threads", 1, &threads) < 0)
        return NULL;
    atomic_store(&state_of(module)->threads, threads);
    Py_RETURN_NONE;
}

#define METHOD(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL | METH_KEYWORDS
static PyMethodDef methods[] = {
    {"lz_penalize_", METHOD(py_lz_penalize), doc_lz_penalize},
    {"lz_penalize_rows_", METHOD(py_lz_penalize_rows), doc_lz_penalize_rows},
    {"request_limits", py_request_limits, METH_NOARGS,
     "request_limits($module, /)\n--\n\nThe most that a stranger's request may ask for, by option; tokens."},
    {"gather_tokens_", METHOD(py_gather_tokens), doc_gather_tokens},
    {"dry_penalize_", METHOD(py_dry_penalize), doc_dry_penalize},
    {"codelength_deltas", METHOD(py_codelength_deltas), doc_codelength_deltas},
    {"token_bits", METHOD(py_token_bits), doc_token_bits},
    {"repetition_period", METHOD(py_repetition_period), doc_repetition_period},
    {"loop_evidence", METHOD(py_loop_evidence), doc_loop_evidence},
    {"attention_scores", METHOD(py_attention_scores), doc_attention_scores},
    {"select_top", METHOD(py_select_top), doc_select_top},
    {"compact_", METHOD(py_compact), doc_compact},
    {"append_", METHOD(py_append), doc_append},
    {"compact_blocks_", METHOD(py_compact_blocks), doc_compact_blocks},
    {"gather_blocks_", METHOD(py_gather_blocks), doc_gather_blocks},
    {"echo_blocks_", METHOD(py_echo_blocks), doc_echo_blocks},
    {"append_ragged_", METHOD(py_append_ragged), doc_append_ragged},
    {"echo_scores_", METHOD(py_echo_scores), doc_echo_scores},
    {"attend", METHOD(py_attend), doc_attend},
    {"attention_tap", py_attention_tap, METH_NOARGS, doc_attention_tap},
    {"parse_lz77", METHOD(py_parse_lz77), doc_parse_lz77},
    {"parse_lz78", METHOD(py_parse_lz78), doc_parse_lz78},
    {"find_loops", METHOD(py_find_loops), doc_find_loops},
    {"warmup", METHOD(py_warmup), doc_warmup},
    {"cuda_devices", py_cuda_devices, METH_NOARGS, doc_cuda_devices},
    {"get_num_threads", py_get_num_threads, METH_NOARGS,
     "get_num_threads($module, /)\n--\n\nThreads that calls of over about a millisecond share their work among."},
    {"set_num_threads", py_set_num_threads, METH_O,
     "set_num_threads($module, threads, /)\n--\n\nSets that number; the processors of this process are the default."},
    {"cpu_level", py_cpu_level, METH_NOARGS, "cpu_level($module, /)\n--\n\nThe instruction-set level in use."},
    {"cpu_levels", py_cpu_levels, METH_NOARGS, "cpu_levels($module, /)\n--\n\nThe levels that this machine runs."},
    {"set_cpu_level", py_set_cpu_level, METH_O,
     "set_cpu_level($module, level, /)\n--\n\nForces a level for the whole process, for tests: only attention and its "
     "scores "
     "depend on it, by roundings."},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module)
{
    module_state *st = state_of(module);
#define INTERN(name)                                                                                                        \
    if (!(st->names.name = PyUnicode_InternFromString(#name)))                                                              \
        return -1;
    NAMES(INTERN)
#define OPTION(kind, name, ...) INTERN(name)
#include "../lz/options.def"
#undef INTERN
    atomic_store(&st->threads, cpu_thread_count());
    if (add_options_type(module) < 0)
        return -1;
    st->max_version = Py_BuildValue("(ii)", DLPACK_MAJOR, 0);
    st->version_kw = PyTuple_Pack(1, st->names.max_version);
    st->stream_kw = PyTuple_Pack(2, st->names.stream, st->names.max_version);
    return st->max_version && st->version_kw && st->stream_kw ? 0 : -1;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *st = state_of(module);
    Py_VISIT(st->options_type);
    Py_VISIT(st->max_version);
    Py_VISIT(st->version_kw);
    Py_VISIT(st->stream_kw);
    return tensor_traverse(st, visit, arg);
}

static int module_clear(PyObject *module)
{
    module_state *st = state_of(module);
#define CLEAR(name) Py_CLEAR(st->names.name);
    NAMES(CLEAR)
#define OPTION(kind, name, ...) CLEAR(name)
#include "../lz/options.def"
#undef CLEAR
    Py_CLEAR(st->options_type);
    Py_CLEAR(st->max_version);
    Py_CLEAR(st->version_kw);
    Py_CLEAR(st->stream_kw);
    tensor_clear(st);
    return 0;
}

static void module_free(void *module)
{
    module_state *st = state_of(module);
    module_clear(module);
    for (int i = 0; i < MAX_WORKSPACES; i++) {
        lz_workspace *ws = atomic_exchange(&st->workspaces[i], NULL);
        if (ws)
            lz_workspace_clear(ws);
        PyMem_RawFree(ws);
    }
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,          .m_name = "lzpenalty._core", .m_doc = "The C routines of lzpenalty on DLPack tensors.",
    .m_size = sizeof(module_state), .m_methods = methods,        .m_slots = slots,
    .m_traverse = module_traverse,  .m_clear = module_clear,     .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
