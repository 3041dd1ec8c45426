#include "state.h"

lz_workspace *workspace_take(module_state *st)
{
    for (int i = 0; i < MAX_WORKSPACES; i++) {
        lz_workspace *ws = atomic_exchange(&st->workspaces[i], NULL);
        if (ws)
            return ws;
    }
    lz_workspace *ws = PyMem_RawCalloc(1, sizeof *ws);
    if (!ws)
        PyErr_NoMemory();
    return ws;
}

void workspace_give_back(module_state *st, lz_workspace *ws)
{
    for (int i = 0; i < MAX_WORKSPACES; i++) {
        lz_workspace *empty = NULL;
        if (atomic_compare_exchange_strong(&st->workspaces[i], &empty, ws))
            return;
    }
    lz_workspace_clear(ws);
    PyMem_RawFree(ws);
}
