/* The functions of the module, by file, for its table. */
#ifndef LZPENALTY_PYTHON_FUNCTIONS_H
#define LZPENALTY_PYTHON_FUNCTIONS_H

#include "state.h"

#define FASTCALL_KEYWORDS PyObject *module, PyObject *const *args, Py_ssize_t n_args, PyObject *kwnames
PyObject *py_lz_penalize(FASTCALL_KEYWORDS);
PyObject *py_dry_penalize(FASTCALL_KEYWORDS);
PyObject *py_codelength_deltas(FASTCALL_KEYWORDS);
PyObject *py_token_bits(FASTCALL_KEYWORDS);
PyObject *py_repetition_period(FASTCALL_KEYWORDS);
PyObject *py_loop_evidence(FASTCALL_KEYWORDS);
PyObject *py_lz_penalize_rows(FASTCALL_KEYWORDS);
PyObject *py_gather_tokens(FASTCALL_KEYWORDS);
PyObject *py_request_limits(PyObject *module, PyObject *ignored);
int add_options_type(PyObject *module);
PyObject *py_attention_scores(FASTCALL_KEYWORDS);
PyObject *py_select_top(FASTCALL_KEYWORDS);
PyObject *py_compact(FASTCALL_KEYWORDS);
PyObject *py_append(FASTCALL_KEYWORDS);
PyObject *py_compact_blocks(FASTCALL_KEYWORDS);
PyObject *py_gather_blocks(FASTCALL_KEYWORDS);
PyObject *py_echo_blocks(FASTCALL_KEYWORDS);
PyObject *py_attend(FASTCALL_KEYWORDS);
PyObject *py_append_ragged(FASTCALL_KEYWORDS);
PyObject *py_echo_scores(FASTCALL_KEYWORDS);
PyObject *py_parse_lz77(FASTCALL_KEYWORDS);
PyObject *py_parse_lz78(FASTCALL_KEYWORDS);
PyObject *py_find_loops(FASTCALL_KEYWORDS);
PyObject *py_warmup(FASTCALL_KEYWORDS);
PyObject *py_cuda_devices(PyObject *module, PyObject *ignored);
PyObject *py_attention_tap(PyObject *module, PyObject *ignored);
extern const char doc_lz_penalize[], doc_dry_penalize[], doc_codelength_deltas[], doc_repetition_period[];
extern const char doc_lz_penalize_rows[], doc_gather_tokens[], doc_token_bits[], doc_loop_evidence[];
extern const char doc_attention_scores[], doc_select_top[], doc_compact[], doc_append[], doc_attend[];
extern const char doc_compact_blocks[], doc_gather_blocks[], doc_echo_blocks[];
extern const char doc_append_ragged[], doc_echo_scores[];
extern const char doc_parse_lz77[], doc_parse_lz78[], doc_find_loops[];
extern const char doc_warmup[], doc_cuda_devices[], doc_attention_tap[];

#endif
