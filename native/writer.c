#include "writer.h"

#include "copy.h"
#include "entries.h"
#include "fault.h"
#include "pool.h"
#include "tarhash.h"

struct writer {
    PyObject_HEAD
    struct pool *pool;     /* NULL once closed */
    int busy;              /* see tarhash_claim() */
    uint64_t position;     /* once closed */
    PyThreadState *thread; /* of the running call, while it does not hold the GIL */
};

/* Let Python run its signal handlers. Called by the pool, without the GIL. Returns
 * non-zero with an exception set if one of them raised it. */
static int run_signal_handlers(void *context)
{
    struct writer *self = context;
    PyEval_RestoreThread(self->thread);
    int raised = PyErr_CheckSignals();
    self->thread = PyEval_SaveThread();
    return raised;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "slots", NULL};
    const struct tarhash_state *state = PyType_GetModuleState(type);
    struct fault fault;
    int fd, slots = POOL_MAX_SLOTS;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|i:Writer", keywords, &fd, &slots))
        return NULL;
    if (slots < POOL_MIN_SLOTS || slots > POOL_MAX_SLOTS) {
        PyErr_Format(PyExc_ValueError, "slots must be %d to %d", POOL_MIN_SLOTS,
                     POOL_MAX_SLOTS);
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct writer *self = (struct writer *)allocate(type, 0);
    if (!self)
        return NULL;
    self->pool = pool_new(fd, (size_t)slots, run_signal_handlers, self, &fault);
    if (!self->pool) {
        Py_DECREF(self);
        return tarhash_raise(state, &fault);
    }
    return (PyObject *)self;
}

static void writer_dealloc(PyObject *object)
{
    struct writer *self = (struct writer *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    pool_free(self->pool);
    release(object);
    Py_DECREF(type);
}

/* Begin a call into the pool: claim the writer and release the GIL. Returns 0, or -1 with
 * an exception set and the GIL held. */
static int enter(struct writer *self)
{
    if (!self->pool) {
        PyErr_SetString(PyExc_ValueError, "the writer is closed");
        return -1;
    }
    if (pool_is_inherited(self->pool)) {
        PyErr_SetString(PyExc_ValueError, "the writer belongs to the parent process");
        return -1;
    }
    if (tarhash_claim(&self->busy) < 0)
        return -1;
    self->thread = PyEval_SaveThread();
    return 0;
}

/* End a call into the pool: take the GIL and turn the fault of a `result` below 0 into an
 * exception. Returns `result`. */
static int leave(struct writer *self, int result, const struct fault *fault)
{
    PyEval_RestoreThread(self->thread);
    self->busy = 0;
    if (result < 0)
        tarhash_raise(PyType_GetModuleState(Py_TYPE((PyObject *)self)), fault);
    return result;
}

PyDoc_STRVAR(writer_write_doc,
"write($self, data, /)\n--\n\nWrite `data` (bytes-like).");

static PyObject *writer_write(PyObject *object, PyObject *argument)
{
    struct writer *self = (struct writer *)object;
    struct fault fault;
    Py_buffer data;

    if (PyObject_GetBuffer(argument, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int result = enter(self);
    if (result == 0) {
        result = pool_write(self->pool, data.buf, (size_t)data.len, &fault);
        result = leave(self, result, &fault);
    }
    PyBuffer_Release(&data);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_write_zeros_doc,
"write_zeros($self, count, /)\n--\n\nWrite `count` zero bytes.");

static PyObject *writer_write_zeros(PyObject *object, PyObject *argument)
{
    struct writer *self = (struct writer *)object;
    struct fault fault;
    uint64_t count;

    if (!tarhash_to_uint64(argument, &count) || enter(self) < 0)
        return NULL;
    if (leave(self, pool_zeros(self->pool, count, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_write_entries_doc,
"write_entries($self, entries, /)\n--\n\n"
"Write every entry of `entries`: its header, the content of the file it names,\n"
"padding. Raises OSError with the path for a file that cannot be read, and\n"
"EntryError for one that changed since it was walked.");

static PyObject *writer_write_entries(PyObject *object, PyObject *argument)
{
    struct writer *self = (struct writer *)object;
    const struct tarhash_state *state = PyType_GetModuleState(Py_TYPE(object));
    struct fault fault;

    if (Py_TYPE(argument) != state->entries_type) {
        PyErr_SetString(PyExc_TypeError, "write_entries() takes Entries");
        return NULL;
    }
    const struct records *records = entries_borrow(argument);
    if (!records)
        return NULL;
    int result = enter(self);
    if (result == 0) {
        result = copy_records(self->pool, records, &fault);
        result = leave(self, result, &fault);
    }
    entries_return(argument);
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_copy_doc,
"copy($self, /, fd, count, path, offset=-1)\n--\n\n"
"Copy `count` bytes of file descriptor `fd` from `offset`, or from its current\n"
"position if that is negative. `path` (bytes) names it in errors: OSError, or\n"
"EntryError if it ends too early.");

static PyObject *writer_copy(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "count", "path", "offset", NULL};
    struct writer *self = (struct writer *)object;
    struct fault fault;
    uint64_t count;
    const char *path;
    long long offset = -1;
    int fd;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&y|L:copy", keywords, &fd,
                                     tarhash_to_uint64, &count, &path, &offset))
        return NULL;
    if (enter(self) < 0)
        return NULL;
    int result = copy_range(self->pool, fd, (off_t)offset, count, path, &fault);
    if (leave(self, result, &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_begin_hash_doc,
"begin_hash($self, /)\n--\n\nBegin a layer: hash what is written from here to end_hash().");

static PyObject *writer_begin_hash(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer *self = (struct writer *)object;
    struct fault fault;

    if (enter(self) < 0 || leave(self, pool_hash_begin(self->pool, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_end_hash_doc,
"end_hash($self, /)\n--\n\n"
"End the layer and return its number for digest(). Does not wait for the hash.");

static PyObject *writer_end_hash(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer *self = (struct writer *)object;
    struct fault fault;
    size_t number;

    if (enter(self) < 0 ||
        leave(self, pool_hash_end(self->pool, &number, &fault), &fault) < 0)
        return NULL;
    return PyLong_FromSize_t(number);
}

PyDoc_STRVAR(writer_digest_doc,
"digest($self, /, number, wait=True)\n--\n\n"
"Return the SHA-256 (32 bytes) of what was written between begin_hash() and\n"
"end_hash(). Waits for it, or returns None if it is not known yet and `wait` is\n"
"false.");

static PyObject *writer_digest(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"number", "wait", NULL};
    struct writer *self = (struct writer *)object;
    uint8_t digest[POOL_DIGEST_SIZE];
    struct fault fault;
    uint64_t number;
    int wait = 1;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|p:digest", keywords,
                                     tarhash_to_uint64, &number, &wait) ||
        enter(self) < 0)
        return NULL;
    int known = leave(self, pool_digest(self->pool, number, wait, digest, &fault), &fault);
    if (known < 0)
        return NULL;
    if (!known)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((char *)digest, POOL_DIGEST_SIZE);
}

PyDoc_STRVAR(writer_flush_doc,
"flush($self, /)\n--\n\nHand everything written so far to the file descriptor.");

static PyObject *writer_flush(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer *self = (struct writer *)object;
    struct fault fault;

    if (enter(self) < 0 || leave(self, pool_flush(self->pool, &fault), &fault) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(writer_close_doc,
"close($self, /)\n--\n\n"
"Free the buffers and end the hashing threads. Does not flush, and does not close\n"
"the file descriptor. May be called again.");

static PyObject *writer_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct writer *self = (struct writer *)object;

    if (tarhash_claim(&self->busy) < 0)
        return NULL;
    struct pool *pool = self->pool;
    if (pool)
        self->position = pool_position(pool);
    self->pool = NULL;
    self->busy = 0; /* others find it closed, and need not wait for what follows */
    Py_BEGIN_ALLOW_THREADS
    pool_free(pool);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *writer_position(PyObject *object, void *Py_UNUSED(closure))
{
    struct writer *self = (struct writer *)object;
    return PyLong_FromUnsignedLongLong(self->pool ? pool_position(self->pool)
                                                  : self->position);
}

static PyMethodDef writer_methods[] = {
    {"write", writer_write, METH_O, writer_write_doc},
    {"write_zeros", writer_write_zeros, METH_O, writer_write_zeros_doc},
    {"write_entries", writer_write_entries, METH_O, writer_write_entries_doc},
    {"copy", (PyCFunction)(void (*)(void))writer_copy, METH_VARARGS | METH_KEYWORDS,
     writer_copy_doc},
    {"begin_hash", writer_begin_hash, METH_NOARGS, writer_begin_hash_doc},
    {"end_hash", writer_end_hash, METH_NOARGS, writer_end_hash_doc},
    {"digest", (PyCFunction)(void (*)(void))writer_digest, METH_VARARGS | METH_KEYWORDS,
     writer_digest_doc},
    {"flush", writer_flush, METH_NOARGS, writer_flush_doc},
    {"close", writer_close, METH_NOARGS, writer_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_getset[] = {
    {"position", writer_position, NULL,
     "Bytes taken so far. May be read by any thread while another writes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(writer_doc,
"Writer(fd, slots=64)\n--\n\n"
"Writes to a file descriptor through `slots` buffers of 256 KiB, 8 to 64. Layers, marked\n"
"by begin_hash() and end_hash(), are hashed (SHA-256) in up to four threads of its own.\n"
"Of what is outside of layers, the kernel moves files of some size without reading them.");

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, (void *)writer_doc},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getset},
    {0, NULL},
};

PyType_Spec writer_spec = {
    .name = "stream._tarhash.Writer",
    .basicsize = sizeof(struct writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};
