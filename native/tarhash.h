/* The module stream._tarhash, and what its types share: its state, and the exceptions
 * that more than one of them raises.
 *
 * Everything that includes Python.h is called with the GIL held, and releases it only
 * around calls of plain C that read, write, wait or walk. Objects share nothing but the
 * module's state, which is constant once the module is loaded, so threads and
 * sub-interpreters may use as many of them as they like. One object is used by one
 * thread at a time: a second caller gets a RuntimeError instead of a wait, because two
 * threads that write into one archive are a mistake. */
#ifndef STREAM_IMAGE_TARHASH_H
#define STREAM_IMAGE_TARHASH_H

#include <Python.h>

#include "fault.h"

/* The module owns these references. Types find it with PyType_GetModuleState(). */
struct tarhash_state {
    PyObject *entry_error;  /* the exception EntryError */
    PyObject *thread_error; /* the exception ThreadError */
    PyTypeObject *entries_type;
};

/* Set the exception that stands for `fault`:
 *
 *   FAULT_MEMORY        MemoryError
 *   FAULT_THREAD        ThreadError(strerror): str
 *   FAULT_CRYPTO        RuntimeError
 *   FAULT_READ          OSError, of the errno's subclass, with the path as its filename
 *   FAULT_WRITE         OSError, of the errno's subclass
 *   FAULT_ENTRY         EntryError(path, reason): bytes, str
 *   FAULT_STATE         ValueError
 *   FAULT_INTERRUPTED   the one that a signal handler has set already
 *
 * Returns NULL, for the caller to return. */
PyObject *tarhash_raise(const struct tarhash_state *state, const struct fault *fault);

/* Mark an object as in use by setting its flag `*busy`, which its user sets to 0 again.
 * Returns 0, or -1 with a RuntimeError set if it is in use already. The GIL guards the
 * flag, which is what keeps others out while it is released. */
int tarhash_claim(int *busy);

/* Convert a Python int to the uint64_t that `result` points to: a converter for the
 * format unit "O&". Returns 1, or 0 with a TypeError or OverflowError set. */
int tarhash_to_uint64(PyObject *number, void *result);

/* Return 0 if a name, link target or block of records is short enough for a header, or
 * -1 with a ValueError set if it is longer than 1 GiB. */
int tarhash_check_length(Py_ssize_t length);

/* Return the module's definition, for multi-phase initialisation (PEP 489). */
PyMODINIT_FUNC PyInit__tarhash(void);

#endif
