/* The reason why a call failed, in plain C.
 *
 * Conventions of every part of the extension that does not include Python.h:
 *
 *   - A function that can fail takes a `struct fault *`. It returns 0, or -1 with
 *     the fault filled in, unless its declaration says otherwise. The fault is the
 *     caller's, needs no initialisation and is not written to on success.
 *   - No function calls Python or needs the GIL. Callers release the GIL around
 *     those that read, write or wait.
 *   - There is no global state. Threads may use different objects at the same time;
 *     an object is used by one thread at a time, unless its declaration says otherwise.
 *   - Lengths are in bytes. Names are bytes in no particular encoding, and not
 *     terminated unless they are declared as `const char *`.
 */
#ifndef STREAM_IMAGE_FAULT_H
#define STREAM_IMAGE_FAULT_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

/* The kinds of failure, each with the fields of `struct fault` that it sets. */
enum fault_kind {
    FAULT_NONE,
    FAULT_MEMORY,      /* an allocation failed */
    FAULT_THREAD,      /* errnum: a thread cannot be started */
    FAULT_CRYPTO,      /* libcrypto failed */
    FAULT_READ,        /* errnum, path: a file cannot be read */
    FAULT_WRITE,       /* errnum: the output cannot be written */
    FAULT_ENTRY,       /* path, reason: a file is not what an entry needs */
    FAULT_STATE,       /* a call out of turn */
    FAULT_INTERRUPTED, /* the pool's `interrupted` callback returned non-zero */
};

struct fault {
    enum fault_kind kind;
    int errnum;                /* as in errno(3), or 0 */
    const char *reason;        /* static ASCII text that follows the path, or NULL */
    char path[PATH_MAX + 256]; /* terminated; empty if the fault is not of one file */
};

/* Fill in `fault`, with neither path nor reason. Returns -1. */
int fault_set(struct fault *fault, enum fault_kind kind, int errnum);

/* Fill in `fault` for the file at `path`, which is cut if it does not fit. `reason`
 * is static text or NULL; `path` is copied. Returns -1. */
int fault_at(struct fault *fault, enum fault_kind kind, int errnum, const char *reason,
             const uint8_t *path, size_t length);

#endif
